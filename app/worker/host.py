"""What a connection needs of its worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from app.worker.calls.refusal import Refusal
from app.worker.calls.work import Submits
from app.worker.limits.bounds import Bounds
from app.worker.loop import Loop
from app.worker.protocol.cycle import App
from app.worker.protocol.cycle import Host as CycleHost
from app.worker.protocol.head_cache import HeadCache
from app.worker.suspension import Pending, Place


class Host(CycleHost, Protocol):
    """What the worker offers to its connections."""

    loop: Loop
    pool: Submits
    head_cache: HeadCache
    bounds: Bounds
    keepalive_s: float
    place: Callable[[Mapping[str, Any]], Place]
    suspended: dict[Pending, Callable[[], object]]

    def count_request(self) -> bool:
        """Count one more request. Returns whether to close its connection after it."""

    def results_ready(self, results: Sequence[Pending]) -> None:
        """The callback of pending results; see `suspended`."""

    def refusal(self, refusal: Refusal) -> App:
        """An application that answers a request with its refusal."""

    def closed(self, connection: Any) -> None:
        """The connection has closed."""
