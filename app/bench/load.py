"""Which request goes out on which connection, and when. No clock, no socket, no event loop.

Both loops are the same machine: requests that wait for a connection, connections that wait for a
request, and new connections while there are too few. They differ in where requests come from. In
the closed loop a client intends its next request when the last one has ended; in the open loop a
schedule intends them, and does not care what the server does.

Whoever drives a load tells it what happened and what time it is, and calls `poll` when it is `due`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from app.bench import schedule
from app.bench.plan import Plan
from app.bench.tally import Failure, Tally

SWEEP_S: Final = 0.05
"""How often a load looks for what is to be given up."""

PAUSE_S: Final = 0.1
"""How long a client of the closed loop waits after a request without an answer: a dead server is
not worth a core."""

BURST: Final = 64
"""Requests intended at once before answers are looked at again."""


class Link(Protocol):
    """A connection. The load owns the three attributes; `busy` means a request is on its way."""

    busy: bool
    intended: float
    shot: int

    def send(self, request: bytes) -> None:
        """Write one whole request."""

    def abort(self) -> None:
        """Close it at once; the load hears nothing more of it."""


class Load:
    """What both loops share. Every request that was taken on ends in the tally exactly once.

    `connect()` begins to open a connection and is followed by one call of `opened` or `unopened`.
    `finished()` is called once, when the window is over and nothing is on its way any more.
    """

    def __init__(
        self,
        plan: Plan,
        tally: Tally,
        connect: Callable[[], None],
        finished: Callable[[], None],
    ) -> None:
        settings = plan.settings
        self._requests = [shot.request for shot in plan.shots]
        self._choices = schedule.choices([shot.target.weight for shot in plan.shots], settings.seed)
        self._tally = tally
        self._connect = connect
        self._finished = finished
        self._over = False
        self._limit = settings.clients or settings.connections
        self._give_up_s = settings.give_up_s
        self._links: set[Link] = set()
        self._free: list[Link] = []
        self._opening = 0
        self._waiting: deque[tuple[float, int]] = deque()
        self._next_sweep = math.inf

    # --- what a loop decides ---

    def start(self, now: float) -> None:
        """Begin."""
        self._next_sweep = now + SWEEP_S

    @property
    def due(self) -> float:
        """When to call `poll` next."""
        return self._next_sweep

    def poll(self, now: float) -> None:
        """Do what is due."""
        if self._next_sweep <= now:
            self._tally.late(self._next_sweep, now)
            self._next_sweep = now + SWEEP_S
            self._give_up(now)
        self._check_over(now)

    def _settled(self, now: float, *, answered: bool) -> None:
        """A request has ended, with an answer or without."""

    # --- what happens to connections ---

    def opened(self, link: Link, now: float) -> None:
        """A connection is there."""
        self._opening -= 1
        self._links.add(link)
        self._employ(link)
        self._check_over(now)

    def unopened(self, failure: Failure, now: float) -> None:
        """A connection could not be had, which is the end of the request that waits longest."""
        self._opening -= 1
        if self._waiting:
            intended, shot = self._waiting.popleft()
            self._tally.ended(shot, failure, intended, now)
            self._settled(now, answered=False)
        self._reach()
        self._check_over(now)

    def answered(self, link: Link, status: int, now: float, *, reusable: bool) -> None:
        """The whole answer is there. One that nobody asked for ends the connection."""
        if link not in self._links or not link.busy:
            self.lost(link, Failure.GARBAGE, now)
            return
        link.busy = False
        self._tally.ended(link.shot, status, link.intended, now)
        if reusable:
            self._employ(link)
        else:
            self._drop(link)
        self._settled(now, answered=True)
        self._reach()
        self._check_over(now)

    def lost(self, link: Link, failure: Failure, now: float) -> None:
        """A connection is gone, or is no good any more."""
        if link not in self._links:
            return
        self._drop(link)
        if link.busy:
            link.busy = False
            self._tally.ended(link.shot, failure, link.intended, now)
            self._settled(now, answered=False)
        self._reach()
        self._check_over(now)

    # --- inside ---

    def _intend(self, intended: float) -> None:
        """Take on one request: send it, or let it wait for a connection."""
        shot = next(self._choices)
        if self._free:
            self._send(self._free.pop(), intended, shot)
        else:
            self._waiting.append((intended, shot))

    def _employ(self, link: Link) -> None:
        if self._waiting:
            self._send(link, *self._waiting.popleft())
        else:
            self._free.append(link)

    def _send(self, link: Link, intended: float, shot: int) -> None:
        link.busy = True
        link.intended = intended
        link.shot = shot
        link.send(self._requests[shot])

    def _reach(self) -> None:
        """Open as many connections as requests wait for, within the limit."""
        while self._opening < len(self._waiting) and self._opening + len(self._links) < self._limit:
            self._opening += 1
            self._connect()

    def _drop(self, link: Link) -> None:
        self._links.discard(link)
        if link in self._free:
            self._free.remove(link)
        link.abort()

    def _give_up(self, now: float) -> None:
        since = now - self._give_up_s
        for link in [link for link in self._links if link.busy and link.intended <= since]:
            self.lost(link, Failure.UNANSWERED, now)
        while self._waiting and self._waiting[0][0] <= since:
            intended, shot = self._waiting.popleft()
            self._tally.ended(shot, Failure.UNSENT, intended, now)
            self._settled(now, answered=False)

    def _check_over(self, now: float) -> None:
        if now < self._tally.end or self._over or self._waiting:
            return
        if len(self._free) == len(self._links):
            self._over = True
            self._finished()

    def close(self) -> None:
        """Abort every connection."""
        for link in [*self._links]:
            self._drop(link)


class ClosedLoop(Load):
    """`clients` connections; each intends its next request when its last one has ended."""

    def __init__(
        self,
        plan: Plan,
        tally: Tally,
        connect: Callable[[], None],
        finished: Callable[[], None],
    ) -> None:
        super().__init__(plan, tally, connect, finished)
        self._pausing: deque[float] = deque()

    def start(self, now: float) -> None:
        """Every client intends its first."""
        super().start(now)
        for _ in range(self._limit):
            self._intend(now)
        self._reach()

    def poll(self, now: float) -> None:
        """Also let clients go on that paused long enough."""
        while self._pausing and self._pausing[0] <= now:
            self._pausing.popleft()
            self._settled(now, answered=True)
        self._reach()
        super().poll(now)

    def _settled(self, now: float, *, answered: bool) -> None:
        if now >= self._tally.end:
            return
        if answered:
            self._intend(now)
        else:
            self._pausing.append(now + PAUSE_S)


class OpenLoop(Load):
    """The schedule intends requests; what the server does about them changes nothing in it."""

    def __init__(
        self,
        plan: Plan,
        tally: Tally,
        connect: Callable[[], None],
        finished: Callable[[], None],
    ) -> None:
        super().__init__(plan, tally, connect, finished)
        settings = plan.settings
        self._offsets = schedule.offsets(settings.arrivals, settings.rate or 0, settings.seed)
        self._started = 0.0
        self._next = math.inf

    def start(self, now: float) -> None:
        """The schedule begins now."""
        super().start(now)
        self._started = now
        self._advance()

    def _advance(self) -> None:
        at = self._started + next(self._offsets)
        self._next = at if at < self._tally.end else math.inf

    @property
    def due(self) -> float:
        """The next request, or the next sweep."""
        return min(self._next, self._next_sweep)

    def poll(self, now: float) -> None:
        """Intend every request whose time has come, as of the time that the schedule says."""
        for _ in range(BURST):
            if self._next > now:
                break
            self._tally.late(self._next, now)
            self._intend(self._next)
            self._advance()
        self._reach()
        super().poll(now)


def of(plan: Plan, tally: Tally, connect: Callable[[], None], finished: Callable[[], None]) -> Load:
    """The loop that the plan asks for."""
    loop = OpenLoop if plan.settings.clients is None else ClosedLoop
    return loop(plan, tally, connect, finished)
