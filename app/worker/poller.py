"""What has happened on the sockets, found as soon as it happens and handled in turn."""

from __future__ import annotations

import math
import select
from collections import deque
from collections.abc import Callable
from typing import Final

EVENTS_PER_POLL: Final = 1024
"""Under overload more sockets are ready than a tick handles. All of them are looked at in every
tick, so that it is known when a request came: in the system's queue nothing would show it."""

OVERDUE_S: Final = 1.0
"""Seconds for which one request that had waited too long changes the order."""

Handler = Callable[[int], object]


Event = tuple[int, Handler, int, float]
"""A file, what handles its events, these, and when they were found. Plain: one is made for each."""


class Poller:
    """Level-triggered files, which are few (listeners, wake-ups), come first in every tick, and the
    edge-triggered ones of clients in their order: as long as each comes in time, that is fair.

    If requests are refused because they have waited too long, that order would go on to give each
    its turn when it is too late, and answer none. So for a while half of the turns are those of the
    newest; the oldest, whose time is over anyway, are refused in the other half.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._first: set[int] = set()
        self._waiting: deque[Event] = deque()
        self._overdue_until = -math.inf

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Return its events from `poll`."""
        self._handlers[fd] = handler
        if not events & select.EPOLLET:
            self._first.add(fd)
        self._epoll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching."""
        if self._handlers.pop(fd, None) is not None:
            self._first.discard(fd)
            self._epoll.unregister(fd)

    def poll(self, longest_s: float, most: int) -> list[Event]:
        """Wait for events, at most `longest_s` seconds, and not at all if some wait here already.
        Returns those to handle now, at most `most` of clients; ask `is_current` before each.
        """
        waiting = self._waiting
        polled = self._epoll.poll(0.0 if waiting else longest_s, EVENTS_PER_POLL)
        now = self._clock()
        handlers, first = self._handlers, self._first
        chosen: list[Event] = []
        for fd, events in polled:
            event = fd, handlers[fd], events, now
            (chosen if fd in first else waiting).append(event)
        count = min(most, len(waiting))
        newest = count // 2 if now < self._overdue_until else 0
        chosen.extend(waiting.pop() for _ in range(newest))
        chosen.extend(waiting.popleft() for _ in range(count - newest))
        return chosen

    def overdue(self) -> None:
        """A request was refused because it had waited too long."""
        self._overdue_until = self._clock() + OVERDUE_S

    def is_current(self, fd: int, handler: Handler) -> bool:
        """Whether this file is still watched: another one may have its number by now."""
        return self._handlers.get(fd) is handler

    def put_back(self, events: list[Event]) -> None:
        """There was no time for these: they come first in the next tick."""
        # epoll reports the level-triggered ones again
        self._waiting.extendleft(one for one in reversed(events) if one[0] not in self._first)

    def close(self) -> None:
        """Close epoll, not the files."""
        self._epoll.close()
