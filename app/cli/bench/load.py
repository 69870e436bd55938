"""Decides which request goes out on which connection, and when. No clock, socket or event loop.

Both loops share one mechanism: requests wait for a connection, connections wait for a request, and
new connections are opened while there are too few. They differ in where requests come from. In the
closed loop, a client's next request is intended when its last one has ended. In the open loop a
schedule gives the intended times, whatever the server does.

The caller reports what happened at what time, and calls `poll` when it is `due`.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import numpy as np
from typing_extensions import override

from app.cli.bench.plan import Arrivals, Plan
from app.cli.bench.report import Failure, Samples

Call = Callable[[], None]

SWEEP_S: Final = 0.05
"""How often a load looks for requests that have timed out."""

PAUSE_S: Final = 0.1
"""How long a client of the closed loop waits after a failed request. Without the pause, a dead
server would keep a core busy."""

BURST: Final = 64
"""The most requests sent at once before responses are read again."""

OPENING: Final = 256
"""The most connections that are being opened at once. More overflow a server's listen backlog, and
the kernel then repeats each handshake only after a second."""

_CHUNK: Final = 4096


def offsets(arrivals: Arrivals, rate: float, seed: int) -> Iterator[float]:
    """Seconds from the start, ascending and endless, with `rate` per second on average."""
    if arrivals == "constant":
        yield from (number / rate for number in itertools.count())
    rng = np.random.default_rng(seed)
    last = 0.0
    while True:
        chunk = last + np.cumsum(rng.exponential(1 / rate, _CHUNK))
        yield from chunk.tolist()
        last = float(chunk[-1])


def choices(weights: Sequence[float], seed: int) -> Iterator[int]:
    """Endless indices into `weights`, in proportion to them."""
    if len(weights) == 1:
        return itertools.repeat(0)
    share = np.array(weights) / sum(weights)
    return itertools.cycle(np.random.default_rng(seed).choice(len(share), _CHUNK, p=share).tolist())


class Connection(Protocol):
    """What a load needs of a connection. It sets the attributes, for the request in flight."""

    busy: bool
    intended: float
    request: int

    def send(self, message: bytes) -> None:
        """Write one whole request."""

    def abort(self) -> None:
        """Close it at once; the load ignores what it reports afterwards."""


class ConnectionPool:
    """At most `limit` connections. `connect()` starts to open one.

    Each `connect()` is followed by one `add` or one `open_failed`.
    """

    def __init__(self, limit: int, connect: Call) -> None:
        self.limit = limit
        self._connect = connect
        self._opening = 0
        self.open: set[Connection] = set()
        self.free: dict[Connection, None] = {}  # ordered, and one is removed without a search

    @property
    def idle(self) -> bool:
        """Is no request in flight?"""
        return len(self.free) == len(self.open)

    def add(self, connection: Connection) -> None:
        """A connection has been opened."""
        self._opening -= 1
        self.open.add(connection)

    def open_failed(self) -> None:
        """A connection could not be opened."""
        self._opening -= 1

    def grow(self, waiting: int) -> None:
        """Open a connection for each waiting request, within the limit."""
        wanted = min(waiting, OPENING, self.limit - len(self.open))
        while self._opening < wanted:
            self._opening += 1
            self._connect()

    def remove(self, connection: Connection) -> None:
        """Close a connection."""
        self.open.discard(connection)
        self.free.pop(connection, None)
        connection.abort()

    def close(self) -> None:
        """Close every connection."""
        for connection in [*self.open]:
            self.remove(connection)


class Load:
    """What both loops share. Each request that is taken on is recorded exactly once.

    `connect()` starts to open a connection; one call of `opened` or `open_failed` follows it.
    `finished()` is called once, when the window is over and no request is in flight.
    """

    def __init__(self, plan: Plan, samples: Samples, connect: Call, finished: Call) -> None:
        settings = plan.settings
        weights = [request.target.weight for request in plan.requests]
        self._messages = [request.message for request in plan.requests]
        self._choices = choices(weights, settings.seed)
        self._samples = samples
        self._pool = ConnectionPool(settings.clients or settings.connections, connect)
        self._finished = finished
        self._over = False
        self._unsent_s = settings.unsent_s
        self._unanswered_s = settings.unanswered_s
        self._waiting: deque[tuple[float, int]] = deque()
        self._next_sweep = math.inf

    def start(self, now: float) -> None:
        """Start the run."""
        self._next_sweep = now + SWEEP_S

    @property
    def due(self) -> float:
        """When to call `poll` next."""
        return self._next_sweep

    def poll(self, now: float) -> None:
        """Do what is due."""
        if self._next_sweep <= now:
            self._samples.record_lag(self._next_sweep, now)
            self._next_sweep = now + SWEEP_S
            self._time_out(now)
        self._go_on(now)

    def _ended(self, now: float, *, answered: bool) -> None:
        """Called after each request, for the loop to go on."""

    def opened(self, connection: Connection, now: float) -> None:
        """A connection has been opened."""
        self._pool.add(connection)
        self._use(connection, now)
        self._go_on(now)

    def open_failed(self, failure: Failure, now: float) -> None:
        """A connection could not be opened; the request that has waited longest fails."""
        self._pool.open_failed()
        if self._waiting:
            self._fail_oldest(failure, now)
        self._go_on(now)

    def answered(self, connection: Connection, status: int, now: float, *, reusable: bool) -> None:
        """A whole response has arrived. One without a request closes the connection."""
        if connection not in self._pool.open or not connection.busy:
            self.lost(connection, Failure.GARBAGE, now)
            return
        connection.busy = False
        self._samples.record(connection.request, status, connection.intended, now)
        if reusable:
            self._use(connection, now)
        else:
            self._pool.remove(connection)
        self._ended(now, answered=True)
        self._go_on(now)

    def lost(self, connection: Connection, failure: Failure, now: float) -> None:
        """A connection is closed, or cannot be used any more. Unknown connections are ignored."""
        if connection not in self._pool.open:
            return
        self._pool.remove(connection)
        if connection.busy:
            connection.busy = False
            self._samples.record(connection.request, failure, connection.intended, now)
            self._ended(now, answered=False)
        self._go_on(now)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def _intend(self, intended: float) -> None:
        """Take on one request: send it, or let it wait for a connection."""
        request = next(self._choices)
        if self._pool.free:
            self._send(self._pool.free.popitem()[0], intended, request)
        else:
            self._waiting.append((intended, request))

    def _use(self, connection: Connection, now: float) -> None:
        self._drop_unsent(now)
        if self._waiting:
            self._send(connection, *self._waiting.popleft())
        else:
            self._pool.free[connection] = None

    def _send(self, connection: Connection, intended: float, request: int) -> None:
        connection.busy = True
        connection.intended = intended
        connection.request = request
        connection.send(self._messages[request])

    def _time_out(self, now: float) -> None:
        since = now - self._unanswered_s
        for connection in [c for c in self._pool.open if c.busy and c.intended <= since]:
            self.lost(connection, Failure.UNANSWERED, now)
        self._drop_unsent(now)

    def _drop_unsent(self, now: float) -> None:
        since = now - self._unsent_s
        while self._waiting and self._waiting[0][0] <= since:
            self._fail_oldest(Failure.UNSENT, now)

    def _fail_oldest(self, failure: Failure, now: float) -> None:
        intended, request = self._waiting.popleft()
        self._samples.record(request, failure, intended, now)
        self._ended(now, answered=False)

    def _go_on(self, now: float) -> None:
        self._pool.grow(len(self._waiting))
        if self._over or self._waiting or not self._pool.idle or not self._exhausted(now):
            return
        self._over = True
        self._finished()

    def _exhausted(self, now: float) -> bool:
        """Is no further request intended?"""
        return now >= self._samples.end


class ClosedLoop(Load):
    """A client for each connection; its next request is intended when its last one has ended."""

    def __init__(self, plan: Plan, samples: Samples, connect: Call, finished: Call) -> None:
        super().__init__(plan, samples, connect, finished)
        self._pausing: deque[float] = deque()

    @override
    def start(self, now: float) -> None:
        super().start(now)
        for _ in range(self._pool.limit):
            self._intend(now)

    @override
    def poll(self, now: float) -> None:
        while self._pausing and self._pausing[0] <= now:
            self._pausing.popleft()
            self._ended(now, answered=True)
        super().poll(now)

    @override
    def _ended(self, now: float, *, answered: bool) -> None:
        if now >= self._samples.end:
            return
        if answered:
            self._intend(now)
        else:
            self._pausing.append(now + PAUSE_S)


class OpenLoop(Load):
    """The schedule gives the intended times; the server's behaviour does not change them."""

    def __init__(self, plan: Plan, samples: Samples, connect: Call, finished: Call) -> None:
        super().__init__(plan, samples, connect, finished)
        settings = plan.settings
        self._offsets = offsets(settings.arrivals, settings.rate or 0, settings.seed)
        self._started = 0.0
        self._next = math.inf

    @override
    def start(self, now: float) -> None:
        super().start(now)
        self._started = now
        self._advance()

    def _advance(self) -> None:
        intended = self._started + next(self._offsets)
        self._next = intended if intended < self._samples.end else math.inf

    @property
    @override
    def due(self) -> float:
        return min(self._next, self._next_sweep)

    @override
    def poll(self, now: float) -> None:
        burst = 0
        while self._next <= now and burst < BURST:
            self._samples.record_lag(self._next, now)
            if self._next + self._unsent_s <= now:
                # the generator itself is late: what it cannot send any more is counted, not skipped
                self._samples.record(next(self._choices), Failure.UNSENT, self._next, now)
            else:
                self._intend(self._next)
                burst += 1
            self._advance()
        super().poll(now)

    @override
    def _exhausted(self, now: float) -> bool:
        return super()._exhausted(now) and self._next == math.inf


def of(plan: Plan, samples: Samples, connect: Call, finished: Call) -> Load:
    """The loop that the plan's settings select."""
    loop = OpenLoop if plan.settings.clients is None else ClosedLoop
    return loop(plan, samples, connect, finished)
