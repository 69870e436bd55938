"""The clients of `benchmarks.soak`: threads with a connection each, in processes of their own."""

from __future__ import annotations

import itertools
import math
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks import soak_messages as messages
from benchmarks.soak_messages import Answer, Ask, Wrong

KINDS: Final = {
    "json": 40,
    "binary": 34,
    "pipelined": 4,
    "chunked": 9,
    "dripped": 3,
    "hurried": 6,
    "hung up": 4,
}
"""How often each kind of exchange is drawn. A pipelined one has several requests."""
MOST_PIPELINED: Final = 8
MOST_EXCHANGES: Final = 200
"""On one connection. Then it is closed, so the connections spread over new workers."""
PATIENCE_S: Final = 90
"""For an answer; longer than the timeout of the model."""
MOST_FAULTS: Final = 20
"""Faults that one thread describes; all of them are counted."""


class Broken(Exception):
    """The connection ended before the answer."""


class Extra(Exception):
    """There is more on the connection than the answers to its requests."""


class Connection:
    """A connection that notices bytes nothing was asked for."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # the system's timeout and not Python's, which MSG_DONTWAIT does not override
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._sock.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", PATIENCE_S, 0))
        self._held = bytearray()
        self.port: int = self._sock.getsockname()[1]
        self.opened_at = time.monotonic()

    def send(self, data: bytes) -> None:
        """Send all of it. Raises `Broken`."""
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise Broken(f"while sending: {error!r}") from error

    def read(self) -> Answer:
        """Read one answer. Raises `Broken`, or `Wrong` if it is not one."""
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            self._receive()
        head = bytes(self._held[: end + 2]).lower()
        length = messages.field(head, b"content-length")
        if not head.startswith(b"http/1.1 ") or length is None:
            raise Wrong(f"no answer with a length: {bytes(self._held[:300])!r}")
        end += 4 + int(length)
        while len(self._held) < end:
            self._receive()
        body = bytes(self._held[end - int(length) : end])
        del self._held[:end]
        return Answer(int(head[9:12]), head, body)

    def _receive(self) -> None:
        try:
            data = self._sock.recv(1 << 18)
        except OSError as error:
            raise Broken(f"while reading: {error!r}") from error
        if not data:
            raise Broken("the server closed it")
        self._held += data

    def check_idle(self) -> None:
        """Every answer was read. Raises `Extra` if there is more, `Broken` if it has ended."""
        try:
            data = self._sock.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            data = None
        except OSError as error:
            raise Broken(f"while idle: {error!r}") from error
        if self._held or data:
            raise Extra(f"{bytes(self._held)[:300]!r} and {data!r:.300}")
        if data is not None:
            raise Broken("the server closed it while idle")

    def finish(self) -> None:
        """Send no more; the server must close it, and send nothing more either."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
            while data := self._sock.recv(1 << 16):
                self._held += data
        except OSError as error:
            raise Broken(f"at its end: {error!r}") from error
        finally:
            self._sock.close()
        if self._held:
            raise Extra(f"{bytes(self._held)[:300]!r}")

    def close(self, *, reset: bool = False) -> None:
        """Close it at once, with a reset or in the usual way."""
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


@dataclass(frozen=True, slots=True)
class Break:
    """A connection that ended while its client wanted it, with so many requests unanswered."""

    port: int
    opened_at: float
    kind: str
    lost: int
    reason: str


@dataclass(slots=True)
class Report:
    """What clients have seen: requests by kind and outcome, and what is not as it should be."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    breaks: list[Break] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Add what others have seen."""
        self.counts += other.counts
        self.breaks += other.breaks
        self.faults += other.faults

    def totals(self) -> Counter[str]:
        """Requests by outcome."""
        totals: Counter[str] = Counter()
        for (_, outcome), count in self.counts.items():
            totals[outcome] += count
        return totals


@dataclass(frozen=True, slots=True)
class Plan:
    """The part of one process: `client` is its number. It ends with its requests or its time. With
    `timeout_ms`, every request has that timeout, and a right answer that comes later is `late`.
    """

    port: int
    client: int
    requests: int
    threads: int
    seed: int
    kinds: Mapping[str, int] = field(default_factory=lambda: KINDS)
    timeout_ms: float | None = None
    ends_at: float = math.inf


class Client(threading.Thread):
    """One connection after the other, with one exchange after the other."""

    def __init__(self, plan: Plan, number: int, serials: Iterator[int]) -> None:
        super().__init__()
        self.report = Report()
        self._plan = plan
        self._rng = random.Random(f"{plan.seed} {plan.client} {number}")
        self._serials = serials
        self._connection: Connection | None = None
        self._left = 0
        self._sent_at = 0.0

    def run(self) -> None:
        """Until the requests or the time are used up."""
        kinds = self._plan.kinds
        names, weights = list(kinds), list(kinds.values())
        while time.monotonic() < self._plan.ends_at:
            (kind,) = self._rng.choices(names, weights)
            count = self._rng.randint(2, MOST_PIPELINED) if kind == "pipelined" else 1
            serials = list(itertools.islice(self._serials, count))
            if not serials:
                break
            asks = [self._ask(kind, serial, len(serials)) for serial in serials]
            self.report.counts[kind, "sent"] += len(asks)
            self._exchange(kind, asks)
        self._finish()

    def _ask(self, kind: str, serial: int, together: int) -> Ask:
        # more bytes than the sockets hold would block a client that does not read meanwhile
        rows = messages.some_rows(self._rng, messages.MOST_ROWS // together)
        binary = kind == "binary" or (kind != "json" and self._rng.random() < 0.5)
        timeout_ms = messages.hurry(self._rng) if kind == "hurried" else self._plan.timeout_ms
        return messages.ask(
            self._rng, self._plan.client, serial, rows, binary=binary, timeout_ms=timeout_ms
        )

    def _exchange(self, kind: str, asks: Sequence[Ask]) -> None:
        try:
            connection = self._connected()
        except OSError as error:
            never = Break(0, time.monotonic(), kind, len(asks), f"while connecting: {error!r}")
            self.report.breaks.append(never)
            return
        answered, self._sent_at = 0, time.monotonic()
        try:
            self._send(connection, kind, asks)
            if kind == "hung up":
                self.report.counts[kind, "hung up"] += 1
                connection.close(reset=self._rng.random() < 0.5)
                self._connection = None
                return
            for ask in asks:
                answer = connection.read()
                answered += 1
                self._check(kind, ask, answer)
        except Broken as error:
            self._broke(connection, kind, len(asks) - answered, error)
        except Wrong as error:
            self._fault(kind, "wrong", error, len(asks) - answered)
            self._drop(connection)

    def _check(self, kind: str, ask: Ask, answer: Answer) -> None:
        try:
            messages.check(ask, answer)
        except Wrong as error:
            self._fault(kind, "wrong", error)
            return
        outcome = "right" if answer.status == 200 else str(answer.status)
        within_ms = self._plan.timeout_ms
        took_ms = (time.monotonic() - self._sent_at) * 1e3
        if outcome == "right" and within_ms is not None and took_ms > within_ms:
            outcome = "late"
        self.report.counts[kind, outcome] += 1

    def _send(self, connection: Connection, kind: str, asks: Sequence[Ask]) -> None:
        if kind == "chunked":
            connection.send(asks[0].chunked(self._rng))
            return
        data = b"".join(ask.whole() for ask in asks)
        if kind == "hung up" and self._rng.random() < 0.5:
            data = data[: self._rng.randrange(1, len(data))]
        if kind != "dripped":
            connection.send(data)
            return
        cuts = sorted(self._rng.randrange(len(data)) for _ in range(self._rng.randint(1, 6)))
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            connection.send(data[begin:end])
            time.sleep(self._rng.random() * 0.02)

    # --- connections -----------------------------------------------------------------------------

    def _connected(self) -> Connection:
        """An idle connection: the one before, or a new one."""
        if self._left <= 0:
            self._finish()
        connection = self._connection
        if connection is not None:
            try:
                connection.check_idle()
            except Broken as error:
                self._broke(connection, "idle", 0, error)
            except Extra as error:
                self._fault("idle", "doubled", error)
                self._drop(connection)
        if self._connection is None:
            self._connection = Connection(self._plan.port)
            self._left = self._rng.randint(1, MOST_EXCHANGES)
        self._left -= 1
        return self._connection

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.finish()
        except Broken as error:
            self._broke(connection, "idle", 0, error)
        except Extra as error:
            self._fault("idle", "doubled", error)

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._connection = None

    def _broke(self, connection: Connection, kind: str, lost: int, error: Broken) -> None:
        at = connection.port, connection.opened_at
        self.report.breaks.append(Break(*at, kind, lost, str(error)))
        self._drop(connection)

    def _fault(self, kind: str, outcome: str, error: Exception, count: int = 1) -> None:
        self.report.counts[kind, outcome] += count
        if len(self.report.faults) < MOST_FAULTS:
            self.report.faults.append(f"{kind}, {outcome}: {error}")


def run(plan: Plan) -> Report:
    """Send the requests of one process."""
    serials = iter(range(plan.requests))
    threads = [Client(plan, number, serials) for number in range(plan.threads)]
    for thread in threads:
        thread.start()
    report = Report()
    for thread in threads:
        thread.join()
        report.add(thread.report)
    return report


def burst(port: int, client: int, count: int, seed: int) -> tuple[list[Connection], list[Ask]]:
    """Connect so many clients, and send the largest request on each of them."""
    rng = random.Random(f"{seed} {client}")
    connections = [Connection(port) for _ in range(count)]
    asks = [
        messages.ask(rng, client, serial, messages.MOST_ROWS, binary=True)
        for serial in range(count)
    ]
    for connection, ask in zip(connections, asks, strict=True):
        connection.send(ask.whole())
    return connections, asks
