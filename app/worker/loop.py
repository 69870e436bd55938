"""Waits: for sockets, for moments, and for what other threads have to say.

May touch: epoll, eventfd, a clock. One thread runs it; only `call_soon` may come from others.
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
from typing import Protocol

Call = Callable[[], object]


Turn = Callable[[int], AbstractContextManager[None]]
"""Entered with the number of things that are about to be handled."""


def alone(_number: int) -> AbstractContextManager[None]:
    """A turn of which nobody is told."""
    return nullcontext()


class Sleeper(Protocol):
    """Has a moment at which it wants to be called, which it may move at no cost."""

    wakes_at: float
    """Monotonic seconds; infinity is never."""
    scheduled_at: float
    """The loop's: the earliest moment at which it looks."""

    def on_alarm(self) -> None:
        """The moment has come. A `wakes_at` in the past would call again at once."""


class Loop:
    """`run_once` until there is nothing left to wait for.

    `turn` is entered, with their number, while the things are handled that happened at one moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.turn: Turn = alone
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._alarms: list[tuple[float, int, Sleeper]] = []
        self._order = itertools.count()
        self._calls: deque[Call] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False
        self._mine = 0
        self._closing = threading.Lock()
        self._closed = False
        self.watch(self._wake, select.EPOLLIN, self._heard)

    # --- sockets ---------------------------------------------------------------------------------

    def watch(self, number: int, events: int, handler: Callable[[int], object]) -> None:
        """Call `handler(events)` for what happens to this file descriptor."""
        self._handlers[number] = handler
        self._epoll.register(number, events)

    def forget(self, number: int) -> None:
        """Before it is closed: its number may come again."""
        if self._handlers.pop(number, None) is not None:
            self._epoll.unregister(number)

    # --- other threads ---------------------------------------------------------------------------

    def call_soon(self, calls: Iterable[Call]) -> None:
        """Let the loop's thread make these calls. However many there are, it is woken once."""
        self._calls.extend(calls)
        # in this order: the loop clears the flag before it takes the calls
        if not self._woken and threading.get_ident() != self._mine:
            self._woken = True
            with self._closing:  # whoever is late must not write into what has its number then
                if not self._closed:
                    os.eventfd_write(self._wake, 1)

    def _heard(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        self._woken = False

    def _call(self) -> None:
        for _ in range(len(self._calls)):
            self._calls.popleft()()

    # --- moments ---------------------------------------------------------------------------------

    def alarm(self, sleeper: Sleeper, wakes_at: float) -> None:
        """Call `sleeper.on_alarm()` at this moment instead of the one that it had.

        A later moment than before is only noted: most alarms are moved and never ring.
        """
        sleeper.wakes_at = wakes_at
        if wakes_at < sleeper.scheduled_at:
            sleeper.scheduled_at = wakes_at
            heapq.heappush(self._alarms, (wakes_at, next(self._order), sleeper))

    def _ring(self) -> None:
        now = self.clock()
        while self._alarms and self._alarms[0][0] <= now:
            looked_at, _, sleeper = heapq.heappop(self._alarms)
            if looked_at != sleeper.scheduled_at:
                continue  # an earlier look was scheduled after this one
            sleeper.scheduled_at = float("inf")
            if sleeper.wakes_at <= now:
                sleeper.wakes_at = float("inf")
                sleeper.on_alarm()
            else:
                self.alarm(sleeper, sleeper.wakes_at)

    # --- life ------------------------------------------------------------------------------------

    def run_once(self, longest_s: float) -> None:
        """Wait for something, at most `longest_s` seconds, and handle it."""
        self._mine = threading.get_ident()
        if self._calls:
            longest_s = 0.0
        elif self._alarms:
            longest_s = min(longest_s, max(0.0, self._alarms[0][0] - self.clock()))
        happened = self._epoll.poll(longest_s)
        if happened:
            with self.turn(len(happened)):
                self._handle(happened)
        self._call()
        self._ring()

    def _handle(self, happened: list[tuple[int, int]]) -> None:
        for number, events in happened:
            # what came before it in this list may have closed it
            handler = self._handlers.get(number)
            if handler is not None:
                handler(events)

    def close(self) -> None:
        """Free what it holds. Sockets are their owners'. Other threads may still ask for calls,
        which nobody makes any more.
        """
        with self._closing:
            self._closed = True
            os.close(self._wake)
        self._epoll.close()
