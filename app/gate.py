"""How many requests may wait at once in this process.

May touch: threading. Under gthread a waiting request holds a thread, and when all threads wait a
health check queues behind them: so some are kept free, and what comes beyond is refused at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import TooManyWaiting


class Gate:
    """Lets `limit` requests in at a time."""

    def __init__(self, threads: int) -> None:
        """Of `threads`, one in sixteen and at least one stays free for probes and metrics."""
        self.limit = threads - max(1, threads // 16)
        self._places = threading.BoundedSemaphore(self.limit)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place. Raises `TooManyWaiting` at once when there is none."""
        if not self._places.acquire(blocking=False):
            raise TooManyWaiting(f"{self.limit} requests wait in this process already", 1.0)
        try:
            yield
        finally:
            self._places.release()
