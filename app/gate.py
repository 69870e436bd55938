"""How many requests may wait at once in this process.

May touch: threading. Under gthread a waiting request holds a thread, and when all threads wait a
health check queues behind them: so some are kept free, and what comes beyond is refused at once.
Under Brim's own worker it holds none, and as many are let in as there may be connections.
"""

from __future__ import annotations

import threading
from types import TracebackType

from app.errors import TooManyWaiting


class Place:
    """One request's place at the gate: left with the `with` block, or, if kept, by `leave`."""

    __slots__ = ("_gate", "_kept")

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate
        self._kept = False

    def keep(self) -> None:
        """The request goes on after the block; whoever answers it leaves the place."""
        self._kept = True

    def leave(self) -> None:
        """Let the next one in. Idempotent."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.free_one()

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
    """Lets `limit` requests in at a time. `_lock` guards `_free`, the places that nobody has."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._free = limit

    def admit(self) -> Place:
        """A place. Raises `TooManyWaiting` at once when there is none."""
        with self._lock:
            if self._free:
                self._free -= 1
                return Place(self)
        raise TooManyWaiting(f"{self.limit} requests wait in this process already", 1.0)

    def free_one(self) -> None:
        """For a place, which knows that it was not left before."""
        with self._lock:
            self._free += 1
