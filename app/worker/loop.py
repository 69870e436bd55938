"""The event loop: sockets, alarms, and calls from other threads.

One thread runs it; only `call_soon` may be called from others.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

EVENTS_PER_TICK: Final = 32
"""At most so many events per poll, so that a tick lasts about 5 ms."""

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


class Loop:
    """Handles events, calls and alarms, one `run_once` after the other.

    `_closing` guards `_closed` and the writing to `_wakeup`, an eventfd.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.tick: Tick = nullcontext
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._alarms: list[tuple[float, int, Sleeper]] = []
        self._order = itertools.count()
        self._calls: deque[Call] = deque()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False
        self._thread = 0
        self._closing = threading.Lock()
        self._closed = False
        self.watch(self._wakeup, select.EPOLLIN, self._on_wakeup)

    def watch(self, fd: int, events: int, handler: Callable[[int], object]) -> None:
        """Call `handler(events)` for the events of this file descriptor."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching. Call it before the file is closed: the system reuses descriptors."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_soon(self, calls: Iterable[Call]) -> None:
        """Make these calls on the loop's thread, which is woken once for all of them."""
        self._calls.extend(calls)
        # in this order: the loop clears the flag before it takes the calls
        if not self._woken and threading.get_ident() != self._thread:
            self._woken = True
            with self._closing:  # after `close`, the descriptor may be another file's
                if not self._closed:
                    os.eventfd_write(self._wakeup, 1)

    def _on_wakeup(self, _events: int) -> None:
        os.eventfd_read(self._wakeup)
        self._woken = False

    def alarm(self, sleeper: Sleeper, wakes_at: float) -> None:
        """Move the alarm of `sleeper`. Most alarms are moved and never go off, so one that is moved
        to a later moment keeps its place in the heap.
        """
        sleeper.wakes_at = wakes_at
        if wakes_at < sleeper.scheduled_at:
            sleeper.scheduled_at = wakes_at
            heapq.heappush(self._alarms, (wakes_at, next(self._order), sleeper))

    def _run_alarms(self) -> None:
        now = self.clock()
        while self._alarms and self._alarms[0][0] <= now:
            scheduled_at, _, sleeper = heapq.heappop(self._alarms)
            if scheduled_at != sleeper.scheduled_at:
                continue  # the alarm was moved to an earlier moment after this
            sleeper.scheduled_at = float("inf")
            if sleeper.wakes_at <= now:
                sleeper.wakes_at = float("inf")
                sleeper.on_alarm()
            else:
                self.alarm(sleeper, sleeper.wakes_at)

    def run_once(self, longest_s: float) -> None:
        """Wait for an event, call or alarm, at most `longest_s` seconds, and handle what came."""
        self._thread = threading.get_ident()
        if self._calls:
            longest_s = 0.0
        elif self._alarms:
            longest_s = min(longest_s, max(0.0, self._alarms[0][0] - self.clock()))
        polled = self._epoll.poll(longest_s, EVENTS_PER_TICK)
        if polled:
            with self.tick():
                self._handle(polled)
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        self._run_alarms()

    def _handle(self, polled: list[tuple[int, int]]) -> None:
        for fd, events in polled:
            # the handler of an earlier event may have closed this file
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)

    def close(self) -> None:
        """Close epoll and eventfd, not the sockets. `call_soon` has no effect any more."""
        with self._closing:
            self._closed = True
            os.close(self._wakeup)
        self._epoll.close()
