"""How many requests may wait at once in this process.

May touch: threading. Under gthread a waiting request holds a thread, and when all threads wait a
health check queues behind them: so some are kept free, and what comes beyond is refused at once.
Under Brim's own worker it holds memory, and the same number bounds that.
"""

from __future__ import annotations

import threading
from types import TracebackType

from app.errors import TooManyWaiting


class Place:
    """One request's place at the gate: left with the `with` block, or, if kept, by `leave`."""

    __slots__ = ("_kept", "_places")

    def __init__(self, places: threading.BoundedSemaphore) -> None:
        self._places: threading.BoundedSemaphore | None = places
        self._kept = False

    def keep(self) -> None:
        """The request goes on after the block; whoever answers it leaves the place."""
        self._kept = True

    def leave(self) -> None:
        """Let the next one in. Idempotent."""
        places, self._places = self._places, None
        if places is not None:
            places.release()

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._kept or kind is not None:
            self.leave()


class Gate:
    """Lets `limit` requests in at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places = threading.BoundedSemaphore(limit)

    def admit(self) -> Place:
        """A place. Raises `TooManyWaiting` at once when there is none."""
        if not self._places.acquire(blocking=False):
            raise TooManyWaiting(f"{self.limit} requests wait in this process already", 1.0)
        return Place(self._places)
