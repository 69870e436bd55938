"""What has happened on the sockets, found as soon as it happens and handled in turn."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

EVENTS_PER_POLL: Final = 1024
"""Under overload more sockets are ready than a tick handles. All of them are looked at in every
tick, so that it is known when a request came: in the system's queue nothing would show it."""

Handler = Callable[[int], object]


class Event(NamedTuple):
    """Events of a file that were found at `at`, and what handles them."""

    fd: int
    handler: Handler
    events: int
    at: float


class Poller:
    """Level-triggered files, which are few (listeners, wake-ups), come first in every tick, and the
    edge-triggered ones of clients in their order.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._first: set[int] = set()
        self._waiting: deque[Event] = deque()

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
            event = Event(fd, handlers[fd], events, now)
            (chosen if fd in first else waiting).append(event)
        chosen.extend(waiting.popleft() for _ in range(min(most, len(waiting))))
        return chosen

    def is_current(self, event: Event) -> bool:
        """Whether this file is still watched: another one may have its number by now."""
        return self._handlers.get(event.fd) is event.handler

    def put_back(self, events: list[Event]) -> None:
        """There was no time for these: they come first in the next tick."""
        # epoll reports the level-triggered ones again
        self._waiting.extendleft(one for one in reversed(events) if one.fd not in self._first)

    def close(self) -> None:
        """Close epoll, not the files."""
        self._epoll.close()
