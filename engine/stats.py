"""What the engine says of itself: frozen values, made on request.

May touch: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.costs import Cost
from engine.runnable import Memory
from engine.state import ModelState


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a start-up stands. `expected_s` is an estimate of the whole, None before there is one.

    `buckets_done` counts proven buckets. `elapsed_s` stops when the model settles.
    """

    buckets_done: int
    buckets_total: int
    elapsed_s: float
    expected_s: float | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals since the start, in requests unless the name says otherwise.

    Every accepted request ends in exactly one of `succeeded`, `failed`, `expired`, `cancelled`.
    `refused` counts those at the door, and `shed` those of them whose deadline could not be met; an
    expiry is another thing, that of a request that was accepted. `rows` and `padded_rows` are those
    that were executed, `rows_answered` those of `succeeded`.
    """

    accepted: int
    refused: int
    shed: int
    succeeded: int
    failed: int
    expired: int
    cancelled: int
    batches: int
    batches_failed: int
    rows: int
    rows_answered: int
    padded_rows: int


@dataclass(frozen=True, slots=True)
class Duration:
    """How often, and how many seconds in all."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Durations:
    """Where the time went. For those that succeeded: queue + input + infer + output = success."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True, slots=True)
class BatchStats:
    """Batches of one number of real rows."""

    rows: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Device bytes of one model: the weights once, and what each bucket adds (rows, length)."""

    weights: int
    buckets: tuple[tuple[int, int | None, Memory], ...]

    @property
    def code(self) -> int:
        """Machine code of all buckets, always there."""
        return sum(memory.code for _, _, memory in self.buckets)

    @property
    def peak_batch(self) -> int:
        """The most that one execution adds while it runs."""
        return max((m.inputs + m.outputs + m.temporary for _, _, m in self.buckets), default=0)


@dataclass(frozen=True, slots=True)
class ModelStats:
    """One model at one moment. `cost_table` is empty and `memory` None before they are known.

    `last_inference_ms` is when a request was last answered, milliseconds since 1970, 0 for never.
    """

    name: str
    state: ModelState
    reason: str | None
    required: bool
    progress: Progress
    queued_rows: int
    queued_requests: int
    in_flight: int
    stalled_s: float
    counts: Counts
    durations: Durations
    batches: tuple[BatchStats, ...]
    last_inference_ms: int
    cost_table: tuple[Cost, ...]
    memory: MemoryUse | None

    @property
    def serving(self) -> bool:
        """Ready, and the device answers: no batch has been on its way for absurdly long."""
        return self.state is ModelState.READY and self.stalled_s == 0.0
