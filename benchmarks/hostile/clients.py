"""What hostile and careless clients do, and which answers they may get.

Each kind is a function of a `Client`. It returns the status of the answer, or "closed"; whatever is
not in the kind's list is a fault of the server.
"""

from __future__ import annotations

import gzip
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson

from benchmarks import soak_messages
from benchmarks.soak_messages import Answer

CLOSED: Final = "closed"
FINAL: Final = 200
"""Statuses below are interim: the final answer follows."""
PATIENCE_S: Final = 45.0
"""For any answer, or the end of the connection."""
DRIP_S: Final = 0.2
"""Between two bytes of a drip: too slow for the server's limits."""
HANGS_S: Final = 3.0
"""How long a hanging hook sleeps; `HURRY_MS` is the deadline of its request."""
HURRY_MS: Final = 300.0
BULK_ROWS: Final = 2000
UNREAD: Final = 40
"""Answers of 300 KB that a slow reader asks for: more than the system holds for a connection."""
MEGABYTE: Final = 1 << 20


class Client:
    """One connection of one exchange."""

    def __init__(self, port: int, rng: random.Random, number: int) -> None:
        self.rng = rng
        self.number = number
        self._sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._held = b""

    def send(self, *parts: bytes) -> None:
        """Send; a server that has closed the connection may still have answered."""
        try:
            self._sock.sendall(b"".join(parts))
        except (BrokenPipeError, ConnectionResetError):
            return

    def post(self, path: str, body: bytes, *headers: str) -> None:
        """Send one request with a JSON body."""
        lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}"]
        self.send("\r\n".join([*lines, "", ""]).encode(), body)

    def end_sending(self) -> None:
        """Close the sending half."""
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close both halves at once."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def answer(self) -> Answer | None:
        """The next answer that is final; None where the connection ends before. Raises
        TimeoutError.
        """
        found = self._next()
        while found is not None and found.status < FINAL:
            found = self._next()
        return found

    def _next(self) -> Answer | None:
        try:
            while (end := self._held.find(b"\r\n\r\n")) < 0:
                self._receive()
            head = self._held[: end + 2].lower()
            end += 4 + int(soak_messages.field(head, b"content-length") or b"0")
            while len(self._held) < end:
                self._receive()
        except ConnectionError:
            return None
        body, self._held = self._held[len(head) + 2 : end], self._held[end:]
        return Answer(int(head[9:12]), head, body)

    def status(self) -> str:
        """That of the next answer, or `CLOSED`."""
        found = self.answer()
        return CLOSED if found is None else str(found.status)

    def _receive(self) -> None:
        data = self._sock.recv(1 << 18)
        if not data:
            raise ConnectionResetError
        self._held += data

    def drip(self, data: bytes) -> None:
        """Send a byte at a time until the server answers or closes, or the bytes are sent."""
        for at in range(len(data)):
            self.send(data[at : at + 1])
            time.sleep(DRIP_S)
            self._sock.setblocking(False)
            try:
                if self._sock.recv(1, socket.MSG_PEEK) is not None:
                    return
            except BlockingIOError:
                continue
            except ConnectionError:
                return
            finally:
                self._sock.settimeout(PATIENCE_S)

    def receive_little(self) -> None:
        """Let the system hold no more than some kilobytes for this client."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)

    def close(self) -> None:
        """End the connection."""
        self._sock.close()


# --- bodies ---------------------------------------------------------------------------------------


def one_row(rows: int = 1, value: float = 1.0, columns: int = 16, **more: object) -> bytes:
    """A valid JSON request, or one with other fields."""
    data = [value] * (rows * columns)
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, columns], "data": data}
    return orjson.dumps({"inputs": [tensor | more]})


NULL: Final = "/v2/models/null/infer"
START: Final = f"POST {NULL} HTTP/1.1\r\nHost: x\r\n".encode()
BOMBS: Final = {
    "numbers": gzip.compress(b'{"inputs":[{"data":[' + b"1," * (8 * MEGABYTE) + b"1]}]}"),
    "spaces": gzip.compress(b" " * (64 * MEGABYTE)),
}
TEXTS: Final = {
    "words": b"of the people " * 70_000,
    "one word": b"a" * (MEGABYTE - 1000),
    "accents": "é".encode() * (MEGABYTE // 3),
    "too long": b"of the people " * 230_000,
}
TEXT_BOMBS: Final = {
    name: gzip.compress(b'{"model":"encoder","input":"' + text + b'"}')
    for name, text in TEXTS.items()
}


# --- kinds ----------------------------------------------------------------------------------------


def bomb(client: Client) -> str:
    """Kilobytes that decompress to many megabytes."""
    body = client.rng.choice(list(BOMBS.values()))
    client.post(NULL, body, "Content-Encoding: gzip")
    return client.status()


def long_text(client: Client) -> str:
    """Megabytes of text, of which an encoder takes some tokens."""
    body = client.rng.choice(list(TEXT_BOMBS.values()))
    client.post("/v1/embeddings", body, "Content-Encoding: gzip")
    return client.status()


def deep(client: Client) -> str:
    """JSON that is nested deeply."""
    client.post(NULL, b"[" * 200_000 + b"]" * 200_000)
    return client.status()


def long_id(client: Client) -> str:
    """An id of megabytes."""
    tensor = orjson.loads(one_row())["inputs"]
    client.post(NULL, orjson.dumps({"id": "i" * (3 * MEGABYTE), "inputs": tensor}))
    return client.status()


def many_rows(client: Client) -> str:
    """A shape of more rows than any request may have."""
    client.post(NULL, one_row(shape=[10_000_000, 16]))
    return client.status()


def drip_head(client: Client) -> str:
    """A head, a byte at a time."""
    client.drip(b"GET /v2/models/null HTTP/1.1\r\nHost: x\r\nX-Padding: " + b"x" * 300)
    return client.status()


def drip_body(client: Client) -> str:
    """A body, a byte at a time."""
    client.send(START, b"Content-Length: 100000\r\n\r\n")
    client.drip(b" " * 300)
    return client.status()


def slow_reader(client: Client) -> str:
    """Answers of megabytes that nothing reads."""
    client.receive_little()
    body = one_row(rows=2000, value=0.3)  # the answer has ten digits a value
    for _ in range(UNREAD):
        client.post(NULL, body)
    time.sleep(client.rng.uniform(3.0, 6.0))
    seen = [client.status() for _ in range(UNREAD)]
    return CLOSED if CLOSED in seen else seen[-1]


def half_close(client: Client) -> str:
    """A whole request, and then the end of the sending half."""
    rows = soak_messages.some_rows(client.rng)
    ask = soak_messages.ask(client.rng, 9, client.number, rows, binary=client.rng.random() < 0.5)
    client.send(ask.whole())
    client.end_sending()
    found = client.answer()
    if found is None:
        return CLOSED
    soak_messages.check(ask, found)
    return str(found.status)


def hang_up(client: Client) -> str:
    """A request, whole or cut, and then the end of the connection."""
    ask = soak_messages.ask(client.rng, 9, client.number, 50, binary=True)
    data = ask.whole()
    client.send(data[: client.rng.randrange(1, len(data) + 1)])
    if client.rng.random() < 0.5:
        client.reset()
    return CLOSED


def bulk(client: Client) -> str:
    """Many rows at once, every one of which is compared."""
    ask = soak_messages.ask(client.rng, 9, client.number, BULK_ROWS, binary=True)
    client.send(ask.whole())
    found = client.answer()
    if found is None:
        return CLOSED
    if found.status == 200:
        soak_messages.check(ask, found)
    return str(found.status)


def tiny_deadline(client: Client) -> str:
    """A deadline that has hardly begun."""
    client.post(NULL, one_row(), "X-Request-Timeout-Ms: 0.05")
    return client.status()


def hanging_hook(client: Client) -> str:
    """A hook that sleeps beyond the deadline of its request."""
    body = one_row(columns=1, value=-HANGS_S)
    client.post("/v2/models/hooked/infer", body, f"X-Request-Timeout-Ms: {HURRY_MS:g}")
    return client.status()


def malformed(client: Client) -> str:
    """No HTTP, or requests of which two readers see different ends."""
    client.send(client.rng.choice(MALFORMED))
    client.end_sending()
    return client.status()


MALFORMED: Final = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    b"GET / HTTP/9.9\r\n\r\n",
    START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    START + b"Content-Length: -1\r\n\r\n",
    START + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
)


def not_finite(client: Client) -> str:
    """A row of NaN."""
    ask = soak_messages.ask(client.rng, 9, client.number, 4, binary=True)
    body = bytearray(ask.body)
    body[-64:] = np.full(16, np.nan, np.float32).tobytes()
    client.send(ask.head, b"Content-Length: %d\r\n\r\n" % len(body), bytes(body))
    return client.status()


def lost_path(client: Client) -> str:
    """A path or a method that does not exist."""
    path, method = client.rng.choice([("/v2/nothing", "POST"), ("/healthz", "PATCH")])
    client.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    return client.status()


BUSY: Final = frozenset({"429", "503", "504"})
KINDS: Final[dict[Callable[[Client], str], frozenset[str]]] = {
    bomb: frozenset({"413", "503"}),
    long_text: frozenset({"200", "400", "413"}) | BUSY,
    deep: frozenset({"400", "503"}),
    long_id: frozenset({"400", "503"}),
    many_rows: frozenset({"400", "413", "503"}),
    drip_head: frozenset({"408", CLOSED}),
    drip_body: frozenset({"408", CLOSED}),
    slow_reader: frozenset({"200", CLOSED}) | BUSY,
    half_close: frozenset({"200"}),
    hang_up: frozenset({CLOSED}),
    bulk: frozenset({"200"}) | BUSY,
    tiny_deadline: frozenset({"200", "422"}) | BUSY,
    hanging_hook: BUSY,
    malformed: frozenset({"400", "405", "414", "431", "501", "505", CLOSED}),
    not_finite: frozenset({"422"}) | BUSY,
    lost_path: frozenset({"404", "405"}),
}
"""Each kind, and what it may get."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one thread does: exchanges of one kind until `ends_at`, with pauses between them."""

    kind: Callable[[Client], str]
    port: int
    number: int
    ends_at: float
    pause_s: float


class Hostile(threading.Thread):
    """One thread of one kind; `seen` counts outcomes, `faults` says what was not allowed."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._part = part
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self) -> None:
        """Until the time is over."""
        part = self._part
        rng = random.Random(f"{part.kind.__name__} {part.number}")
        for exchange in self._exchanges():
            client = Client(part.port, rng, exchange)
            try:
                outcome = part.kind(client)
            except (TimeoutError, soak_messages.Wrong) as error:
                outcome = repr(error)
            finally:
                client.close()
            self.seen[outcome if outcome in KINDS[part.kind] else "fault"] += 1
            if outcome not in KINDS[part.kind]:
                self.faults.append(f"{part.kind.__name__}: {outcome}")

    def _exchanges(self) -> Iterator[int]:
        exchange = self._part.number << 16
        while time.monotonic() < self._part.ends_at:
            yield exchange
            exchange += 1
            time.sleep(self._part.pause_s)
