"""Writes the status page, and finds out when a batch hangs."""

from __future__ import annotations

from typing import Final

from engine.telemetry.snapshots import EngineStatus
from engine.transport.protocol.status import StatusPage

IDLE_S: Final = 0.25
"""Seconds between two beats on the status page."""
LOADED_S: Final = 0.005
"""Seconds between two writes of the status page while anything is queued or in flight."""
SURE_S: Final = 3.0
"""Seconds for which a batch must be seen to hang: after a pause of the whole machine every batch
looks as if it did, until its thread runs again."""


class Reporter:
    """One thread writes. Times are seconds on the monotonic clock."""

    def __init__(self, page: StatusPage) -> None:
        """`page` has no other writer."""
        self._page = page
        self._hung_since: float | None = None
        self.due = 0.0

    def write(self, status: EngineStatus, now: float) -> str | None:
        """Write the status. Returns why the engine cannot go on, if a batch hangs."""
        self._page.write(status)
        self._page.beat(now)
        loaded = any(m.load.queued_rows or m.load.batches_in_flight for m in status.models)
        self.due = now + (LOADED_S if loaded else IDLE_S)
        hung = next((model for model in status.models if model.load.hung), None)
        if hung is None:
            self._hung_since = None
            return None
        self._hung_since = now if self._hung_since is None else self._hung_since
        if now - self._hung_since < SURE_S:
            return None
        return f"model {hung.name}: a batch has been on the device for {hung.load.stalled_s:.0f} s"
