"""A model that another process serves; see `engine.api.Endpoint`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Protocol

from engine.errors import BrimError, DeadlineTooShort, EngineLost, ModelFailed, Refused
from engine.models.config import ModelConfig
from engine.models.model import ModelState
from engine.models.processor import TokenIds
from engine.models.tensors import Arrays
from engine.runtime.request import Request, late, queue_full
from engine.scheduling.admission import AdmissionProbe
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.places import Places
from engine.serving.lifecycle import refusal
from engine.serving.preparation import RequestPreparer
from engine.serving.version import ModelInterface
from engine.telemetry.snapshots import LoadSnapshot, ModelSnapshot, ModelStatus
from engine.transport.client.link import LOST, Link
from engine.transport.client.result import Content, RemoteResult
from engine.transport.protocol.layout import Layouts, pack
from engine.transport.protocol.outcomes import error_number

FRESH_S: Final = 0.02
"""Seconds for which the load on the status page is used to refuse a request here."""


class Home(Protocol):
    """What an endpoint needs of its client."""

    def model_status(self, index: int) -> ModelStatus:
        """The status of a model, from the page."""

    def known_status(self, index: int) -> ModelStatus:
        """The same, whether the engine still writes the page or not."""

    def load(self, index: int) -> tuple[LoadSnapshot, float] | None:
        """The load of a model and when it was so, if that is less than `FRESH_S` ago."""

    def count_refusal(self, model: str, error: int) -> None:
        """Tell the engine that a request was refused before it came."""

    def model_snapshot(self, index: int) -> ModelSnapshot:
        """The status with all statistics, from the engine."""

    def ensure_outcomes(self) -> None:
        """Take outcomes on a thread, unless the host watches for them."""


@dataclass(frozen=True, slots=True, eq=False)
class Offered:
    """The version that serves, on the link to its process."""

    link: Link
    interface: ModelInterface
    layouts: Layouts
    costs: CostTable


class RemoteEndpoint:
    """Any thread may call any method at any time."""

    def __init__(self, index: int, config: ModelConfig, home: Home) -> None:
        """`index` is that of the model in the configuration."""
        self.config = config
        self.name = config.name
        self._index = index
        self._home = home
        self._places = Places(config.max_queue_rows)
        self._preparer = RequestPreparer(config, time.monotonic, self._probe, self.count_refusal)
        self.offered: Offered | None = None

    @property
    def interface(self) -> ModelInterface:
        """That of the version that serves. Raises `NotReady`, `ModelFailed` or `ShuttingDown`."""
        return self._offered().interface

    def _offered(self) -> Offered:
        offered, status = self.offered, self._home.known_status(self._index)
        if offered is None or status.state is not ModelState.READY:
            raise refusal(self.name, status.state, status.reason, status.progress)
        return offered

    def admit(self) -> ModelInterface:
        """As `interface`, for a request that is not decoded yet; a refusal is counted."""
        try:
            return self.interface
        except (Refused, ModelFailed) as error:
            self.count_refusal(error)
            raise

    def count_refusal(self, error: BrimError, rows: int = 0) -> None:  # noqa: ARG002
        """A request was refused before it was submitted."""
        self._home.count_refusal(self.name, error_number(error))

    def prepare(
        self,
        interface: ModelInterface,
        inputs: Arrays | TokenIds,
        timeout_s: float | None = None,
        priority: int = 0,
        arrived_at: float | None = None,
    ) -> Request:
        """Preprocess and validate client tensors; see `RequestPreparer.prepare`."""
        return self._preparer.prepare(interface, inputs, timeout_s, priority, arrived_at)

    def submit(self, request: Request) -> RemoteResult:
        """Hand a prepared request over. Raises `QueueFull`, `Shed`, `DeadlineTooShort`,
        `EngineLost` or `ModelFailed`; the engine's own refusals are outcomes.
        """
        try:
            offered = self.offered
            if offered is None:
                raise EngineLost(LOST, 1.0)
            refused = self._probe(request)
            if refused is not None:
                raise refused
            content: Content
            if offered.interface.hooked:
                content = pack(request.inputs)
            else:
                content = offered.layouts.of(*request.extent)
            self._home.ensure_outcomes()
            return offered.link.submit(self._index, request, content)
        except (Refused, DeadlineTooShort, ModelFailed) as error:
            self.count_refusal(error, request.rows)
            raise

    def _probe(self, request: Request | AdmissionProbe) -> BrimError | None:
        """The refusal that the engine would certainly give, by costs and status page, or None.

        There is no time even on a free device; the queue is full; or all of it comes before this
        request, and takes too long. Whether a request that comes before others would be in time,
        only the engine can tell.
        """
        waiting, least_s = 0, self._least_seconds(request)
        finish_at = time.monotonic() + least_s
        known = self._home.load(self._index)
        if known is not None:
            load, at = known
            waiting = load.queued_rows
            if not self._places.fit(request.rows, load.places_taken, load.divided):
                return queue_full(request.rows, waiting, load.drain_s)
            last = (load.last_priority, load.last_deadline)
            if waiting and (request.priority, request.deadline) >= last:
                finish_at = max(finish_at, at + load.drain_s)
        late_s = finish_at - request.deadline
        return None if late_s <= 0 else late(request, late_s, waiting, least_s)

    def _least_seconds(self, request: Request | AdmissionProbe) -> float:
        """Seconds that a free device needs for it."""
        offered = self.offered
        if offered is None or offered.interface.hooked:  # then its rows are not known here
            return 0.0
        return offered.costs.optimistic_seconds(request.bucket_length, request.rows)

    def status(self) -> ModelStatus:
        """Whether it serves at this moment, and how soon."""
        return self._home.model_status(self._index)

    def snapshot(self) -> ModelSnapshot:
        """State and statistics at this moment."""
        return self._home.model_snapshot(self._index)
