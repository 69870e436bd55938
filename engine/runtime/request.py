"""One inference request, prepared and validated: immutable from here on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from engine.errors import DeadlineTooShort, QueueFull, RequestTooLarge, Shed
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
    return QueueFull(f"{rows} rows do not fit now: {waiting} wait already", drain_s)


def too_many_rows(field: str, rows: int, limit: int) -> RequestTooLarge:
    """The refusal of a request with more rows than one may have."""
    problem = f"{rows} rows in one request, expected 1 to {limit} (max_request_rows)"
    return RequestTooLarge(field, f"{problem}; send several requests")


class QueuedRequest(Rows, Protocol):
    """What the runtime reads of a request, of this process or of another."""

    enqueued_at: float


class Timed(Protocol):
    """What a refusal says of a request."""

    rows: int
    enqueued_at: float
    deadline: float


def late(
    request: Timed, lateness_s: float, waiting: int, least_s: float
) -> Shed | DeadlineTooShort:
    """The refusal of a request that would be answered `lateness_s` seconds too late, and that an
    idle device needs `least_s` seconds for.
    """
    allowed = request.deadline - request.enqueued_at
    if least_s > allowed:
        problem = f"an answer within {allowed:.3g} s is impossible: an idle device needs"
        remedy = "send fewer rows in a request, or allow more time"
        return DeadlineTooShort(f"{problem} {least_s:.3g} s for {request.rows} rows; {remedy}")
    problem = f"an answer within {allowed:.3g} s cannot be promised: it may take"
    return Shed(f"{problem} {allowed + lateness_s:.3g} s, {waiting} rows are waiting", lateness_s)
