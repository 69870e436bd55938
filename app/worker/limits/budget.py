"""The bytes that one process holds for its clients."""

from __future__ import annotations

import threading
from http import HTTPStatus
from typing import Final

from app.worker.limits.limits import LimitExceeded

MAX_BYTES_IN_FLIGHT: Final = 256 * 1024 * 1024
"""Bytes, where the application has no budget of its own."""

SMALL: Final = 64 * 1024
"""Bytes of a body that may use the last eighth of the budget: large bodies leave it to them."""


class ByteBudget:
    """The bytes that one process holds for its clients: bodies, and answers that were not sent.

    Any thread may use it; `_lock` guards `held`.
    """

    def __init__(self, limit: int = MAX_BYTES_IN_FLIGHT) -> None:
        self.limit = limit
        self._limit_of_large = limit - limit // 8
        self.held = 0
        self._lock = threading.Lock()

    def grow(self, size: int, whole: int) -> bool:
        """Take `size` bytes more, of `whole` bytes that will be held together. Returns False, and
        takes none, if there is no room for them.
        """
        with self._lock:
            if size > 0 and self.held + size > self._limit_of(whole):
                return False
            self.held += size
        return True

    def has_room(self, whole: int) -> bool:
        """Whether `whole` bytes might be taken now."""
        return self.held + whole <= self._limit_of(whole)

    def _limit_of(self, whole: int) -> int:
        return self.limit if whole <= SMALL else self._limit_of_large

    def add(self, size: int) -> None:
        """Take bytes that exist already, or give back with a negative size."""
        with self._lock:
            self.held += size


def no_room(budget: ByteBudget) -> LimitExceeded:
    """There is no room for a body."""
    text = f"no room for this body now: limits.max_bytes_in_flight is {budget.limit}"
    return LimitExceeded("max_bytes_in_flight", HTTPStatus.SERVICE_UNAVAILABLE, text)
