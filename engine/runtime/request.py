"""One inference request, prepared and validated: immutable from here on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from engine.errors import InvalidRequest, QueueFull, Shed
from engine.models.processor import HostProcessor, Prepared
from engine.models.tensors import Arrays, Extent
from engine.runtime.staging import Rows


@dataclass(slots=True, eq=False)
class Request:
    """What is queued, and what the host needs to finish it. Nothing writes to it.

    prepared       device inputs, rows first, and the parameters of the response
    extent         rows, and their length where the model has a dynamic axis
    bucket_length  the bucket length that the rows need
    enqueued_at    when it arrived, on the engine's monotonic clock; preprocessing comes after that
    deadline       when the answer stops being useful, on the same clock
    priority       1 is the highest, 9 the lowest
    processor      the host side of the version that answers it
    """

    prepared: Prepared
    extent: Extent
    bucket_length: int | None
    enqueued_at: float
    deadline: float
    priority: int
    processor: HostProcessor
    memory: ClassVar[None] = None
    rows: int = field(init=False)
    inputs: Arrays = field(init=False)

    def __post_init__(self) -> None:
        # the scheduler and the staging read these for every batch
        self.rows = self.extent.rows
        self.inputs = self.prepared.inputs


def queue_full(rows: int, waiting: int, drain_s: float) -> QueueFull:
    """The refusal of rows behind so many others, which the device needs `drain_s` seconds for."""
    return QueueFull(f"{rows} rows do not fit: {waiting} wait already", drain_s)


def too_many_rows(field: str, rows: int, limit: int) -> InvalidRequest:
    """The refusal of a request that never fits."""
    return InvalidRequest(field, f"{rows} rows never fit, expected 1 to {limit}")


class QueuedRequest(Rows, Protocol):
    """What the runtime reads of a request, of this process or of another."""

    enqueued_at: float


class Timed(Protocol):
    """What a refusal says of a request."""

    enqueued_at: float
    deadline: float


def shed(request: Timed, lateness_s: float, waiting: int) -> Shed:
    """The refusal of a request that would be answered `lateness_s` seconds too late."""
    allowed = request.deadline - request.enqueued_at
    problem = f"an answer within {allowed:.3g} s cannot be promised: it may take"
    return Shed(f"{problem} {allowed + lateness_s:.3g} s, {waiting} rows are waiting", lateness_s)
