"""Measures what many idle and some slow clients cost busy ones, and the memory per connection.

    python -m benchmarks.connections [--idle 10000] [--slow 200] [--clients 64] [--seconds 5]

Starts a real `brim serve` with the null model. Busy clients are measured alone, then together with
idle and slow ones, then alone again. An idle client has had one answer and keeps its connection.
Half of the slow clients send one byte of their body per second; the other half have requested more
than their sockets hold and read a little per second. At the end every idle client sends one more
request and the slow ones finish: every status must be 200. Memory is the growth of the resident
set.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import statistics
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from app.cli.bench.plan import Settings
from app.cli.bench.report import Report
from benchmarks.servers import Server, run, served
from benchmarks.serving import CONFIGS, Subject, subject

NUMBERS = ",".join(["1.5"] * 16)
BODY = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,16],"data":[{NUMBERS}]}}]}}'.encode()
HEAD = (
    b"POST /v2/models/null/infer HTTP/1.1\r\nHost: brim\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)
ROWS = 1024
LARGE = (
    f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{ROWS},16],'
    f'"data":[{",".join([NUMBERS] * ROWS)}]}}]}}'.encode()
)
LARGE_HEAD = HEAD.replace(b"%d" % len(BODY), b"%d" % len(LARGE))
"""The request of slow readers: its answer has 300 KB."""
SMALL_BUFFER = 8 * 1024
STEP_S = 1.0


def connect(server: Server) -> socket.socket:
    """Connect a client with a small receive buffer."""
    parts = urlsplit(server.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    client.settimeout(60)
    client.connect((parts.hostname, parts.port))
    return client


def answer(client: socket.socket, held: bytes = b"") -> bytes:
    """Read one answer to its end and return the bytes after it. Raises SystemExit if not 200."""
    while b"\r\n\r\n" not in held:
        part = client.recv(1 << 16)
        if not part:
            raise SystemExit("a connection was closed")
        held += part
    head, _, rest = held.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"unexpected answer: {head.decode()}")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(rest) < length:
        rest += client.recv(1 << 16)
    return rest[length:]


class Slow:
    """Clients on a thread: one half writes slowly, the other half reads slowly."""

    def __init__(self, server: Server, count: int) -> None:
        self.writers = [connect(server) for _ in range(count // 2)]
        self.readers = [connect(server) for _ in range(count - count // 2)]
        self._written = 0
        self._over = threading.Event()
        for writer in self.writers:
            writer.sendall(HEAD)
        self._read: list[bytearray] = []
        for reader in self.readers:
            # one after the other: together they would exceed the queue
            reader.sendall(LARGE_HEAD + LARGE)
            self._read.append(bytearray(reader.recv(1024)))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(STEP_S):
            if self._written < len(BODY) - 1:
                for writer in self.writers:
                    writer.sendall(BODY[self._written : self._written + 1])
                self._written += 1
            for reader, read in zip(self.readers, self._read, strict=True):
                read.extend(reader.recv(1024))

    def finish(self) -> None:
        """Send and read the rest at full speed; every request must be answered."""
        self._over.set()
        self._thread.join()
        for writer in self.writers:
            writer.sendall(BODY[self._written :])
            answer(writer)
        for reader, read in zip(self.readers, self._read, strict=True):
            answer(reader, bytes(read))
        for client in (*self.writers, *self.readers):
            client.close()


def resident(server: Server) -> int:
    """Resident bytes of the HTTP process: of the master's children, the supervisor has one."""
    children = psutil.Process(server.process.pid).children()
    (worker,) = [child for child in children if not child.children()]
    return int(worker.memory_info().rss)


def busy(server: Server, subject: Subject, clients: int, seconds: float) -> Report:
    """Run the busy clients. Raises SystemExit if a request failed."""
    how = Settings(server.url, clients=clients, duration_s=seconds, warmup_s=seconds / 4)
    seen = run(subject.model, subject.config.name, subject.request, how)
    if set(seen.statuses) != {200} or seen.failures:
        raise SystemExit(f"statuses {seen.statuses}, failures {seen.failures}")
    return seen


@contextlib.contextmanager
def idle(server: Server, count: int) -> Iterator[Sequence[socket.socket]]:
    """`count` clients that have had an answer and keep their connection."""
    clients = []
    try:
        for _ in range(count):
            clients.append(connect(server))
            clients[-1].sendall(HEAD + BODY)
            answer(clients[-1])
        yield clients
        for client in clients:
            client.sendall(HEAD + BODY)
            answer(client)
    finally:
        for client in clients:
            client.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    config: Path = CONFIGS["null"]
    null = subject("null", None)
    with served(config, "null") as server:
        load = (server, null, options.clients, options.seconds)
        busy(*load)
        before = busy(*load)
        memory = resident(server)
        with idle(server, options.idle):
            grown = resident(server) - memory
            slow = Slow(server, options.slow)
            beside = busy(*load)
            slow.finish()
        after = busy(*load)
    alone = statistics.mean((before.ok_per_s, after.ok_per_s))
    print(f"{options.clients} busy, {options.idle} idle, {options.slow} slow clients\n")
    print("| busy clients | requests/s | p50 ms | p99 ms |\n|---|--:|--:|--:|")
    for name, seen in {"alone, before": before, "together": beside, "alone, after": after}.items():
        print(f"| {name} | {seen.ok_per_s:.0f} | {seen.ok.p50_ms:.2f} | {seen.ok.p99_ms:.2f} |")
    print(
        f"\nTogether with the others they get {beside.ok_per_s / alone:.3f} of their rate; an idle"
    )
    print(f"connection takes {grown / options.idle / 1e3:.1f} KB; every status was 200.")


if __name__ == "__main__":
    main()
