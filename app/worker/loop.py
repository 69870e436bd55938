"""The event loop: sockets, alarms, and calls from other threads.

One thread runs it; only `call_soon` may be called from others.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from app.worker.poller import Event, Handler, Poller

EVENTS_PER_TICK: Final = 32
"""At most so many events of clients, so that a tick lasts about 5 ms."""
TICK_S: Final = 0.01
"""After so many seconds a tick leaves the rest of its events to the next."""

Call = Callable[[], object]
Tick = Callable[[], AbstractContextManager[object]]
"""Makes the context manager around the handling of one poll's events."""


class Sleeper(Protocol):
    """Has one alarm, which `Loop.alarm` moves at almost no cost."""

    wakes_at: float
    """Monotonic seconds of the alarm; infinity is never."""
    scheduled_at: float
    """When the loop checks `wakes_at` next. Only the loop changes it."""

    def on_alarm(self) -> None:
        """Called at `wakes_at`."""


class Alarm:
    """One alarm, which calls `call`."""

    __slots__ = ("_loop", "on_alarm", "scheduled_at", "wakes_at")

    def __init__(self, loop: Loop, call: Callable[[], None]) -> None:
        self._loop = loop
        self.on_alarm = call
        self.scheduled_at = self.wakes_at = math.inf

    def set(self, wakes_at: float) -> None:
        """Call at this time, and not at another one."""
        self._loop.alarm(self, wakes_at)

    def set_in(self, seconds: float) -> None:
        """Call in so many seconds."""
        self._loop.alarm(self, self._loop.clock() + seconds)

    def extend(self, seconds: float, longest_s: float) -> None:
        """Call so many seconds later than now set, but in `longest_s` seconds at the latest."""
        self._loop.alarm(self, min(self.wakes_at + seconds, self._loop.clock() + longest_s))

    def clear(self) -> None:
        """Do not call."""
        self.wakes_at = math.inf


class Alarms:
    """When to wake which sleeper. Most alarms are moved and never go off, so one that is moved to a
    later moment keeps its place in the heap.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sleeper]] = []
        self._order = itertools.count()

    def set(self, sleeper: Sleeper, wakes_at: float) -> None:
        """Move the alarm of `sleeper`."""
        sleeper.wakes_at = wakes_at
        if wakes_at < sleeper.scheduled_at:
            sleeper.scheduled_at = wakes_at
            heapq.heappush(self._heap, (wakes_at, next(self._order), sleeper))

    @property
    def next_at(self) -> float:
        """When to look at them next; infinity without any."""
        return self._heap[0][0] if self._heap else math.inf

    def ring(self, now: float) -> None:
        """Wake every sleeper whose moment has come."""
        while self._heap and self._heap[0][0] <= now:
            scheduled_at, _, sleeper = heapq.heappop(self._heap)
            if scheduled_at != sleeper.scheduled_at:
                continue  # the alarm was moved to an earlier moment after this
            sleeper.scheduled_at = math.inf
            if sleeper.wakes_at <= now:
                sleeper.wakes_at = math.inf
                sleeper.on_alarm()
            else:
                self.set(sleeper, sleeper.wakes_at)


class Loop:
    """Handles events, calls and alarms, one `run_once` after the other.

    `happened_at`: what is handled at this moment had happened by then.

    `_closing` guards `_wakeup`, an eventfd, which is -1 when it is closed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.tick: Tick = nullcontext
        self.happened_at = clock()
        self._poller = Poller(clock)
        self.overdue = self._poller.overdue
        self._alarms = Alarms()
        self.alarm = self._alarms.set
        self._calls: deque[Call] = deque()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False
        self._thread = 0
        self._closing = threading.Lock()
        self.watch(self._wakeup, select.EPOLLIN, self._on_wakeup)

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler(events)` for the events of this file descriptor."""
        self._poller.watch(fd, events, handler)

    def forget(self, fd: int) -> None:
        """Stop watching. Call it before the file is closed: the system reuses descriptors."""
        self._poller.forget(fd)

    def call_soon(self, calls: Iterable[Call]) -> None:
        """Make these calls on the loop's thread, which is woken once for all of them."""
        self._calls.extend(calls)
        # in this order: the loop clears the flag before it takes the calls
        if not self._woken and threading.get_ident() != self._thread:
            self._woken = True
            with self._closing:  # after `close`, the descriptor may be another file's
                if self._wakeup >= 0:
                    os.eventfd_write(self._wakeup, 1)

    def _on_wakeup(self, _events: int) -> None:
        os.eventfd_read(self._wakeup)
        self._woken = False

    def run_once(self, longest_s: float) -> None:
        """Wait for an event, call or alarm, at most `longest_s` seconds, and handle what came."""
        self._thread = threading.get_ident()
        if self._calls:
            longest_s = 0.0
        else:
            longest_s = min(longest_s, max(0.0, self._alarms.next_at - self.clock()))
        events = self._poller.poll(longest_s, EVENTS_PER_TICK)
        if events:
            with self.tick():
                self._handle(events)
        self.happened_at = self.clock()
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        self._alarms.ring(self.clock())

    def _handle(self, events: list[Event]) -> None:
        poller, clock = self._poller, self.clock
        until = clock() + TICK_S
        for done, (fd, handler, what, at) in enumerate(events, 1):
            # the handler of an earlier event may have closed this file
            if poller.is_current(fd, handler):
                self.happened_at = at
                handler(what)
                if clock() > until:
                    poller.put_back(events[done:])
                    return

    def close(self) -> None:
        """Close epoll and eventfd, not the sockets. `call_soon` has no effect any more."""
        with self._closing:
            os.close(self._wakeup)
            self._wakeup = -1
        self._poller.close()
