"""Frozen values that describe the engine at one moment, made on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from engine.compilation.interface import Memory
from engine.models.model import ModelState
from engine.scheduling.costs.cost_table import Cost


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a start-up is. `expected_s` is an estimate of the whole, None before there is one.

    `buckets_done` counts verified buckets. `elapsed_s` stops when the model is READY or FAILED.
    """

    buckets_done: int
    buckets_total: int
    elapsed_s: float
    expected_s: float | None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Accepted requests, by how they ended: each in exactly one way.

    The server causes `failed` and `expired`. The client causes `cancelled`: it disconnected;
    `nonfinite`: its own rows made NaN or infinity; and `own_deadline`: it allowed less time than
    the model's `slo_ms` and `timeout_ms`, and that has passed.
    """

    succeeded: int
    failed: int
    expired: int
    cancelled: int
    nonfinite: int
    own_deadline: int


OUTCOMES: Final = tuple(Outcomes.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Counts(Outcomes):
    """Totals since the start, in requests where the name gives no other unit.

    `refused` counts requests that were not accepted, and `shed` those of them whose deadline could
    not be met. `rows` and `padded_rows` were executed, in failed batches too; `rows_answered` are
    those of `succeeded`.
    """

    accepted: int
    refused: int
    shed: int
    batches: int
    batches_failed: int
    rows: int
    rows_answered: int
    padded_rows: int


@dataclass(frozen=True, slots=True)
class Duration:
    """How often, and seconds in total."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds of requests. Of those that succeeded, queue + input + infer + output = success."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True, slots=True)
class BatchStats:
    """Completed batches with the same number of real rows."""

    rows: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Device bytes of one model: the weights, and for each bucket (rows, length) what it adds."""

    weights: int
    buckets: tuple[tuple[int, int | None, Memory], ...]

    @property
    def code(self) -> int:
        """Machine code of all buckets; it stays loaded."""
        return sum(memory.code for _, _, memory in self.buckets)

    @property
    def peak_batch(self) -> int:
        """The most that one execution adds while it runs."""
        return max((m.inputs + m.outputs + m.temporary for _, _, m in self.buckets), default=0)


@dataclass(frozen=True, slots=True)
class HooksSnapshot:
    """What the threads for a model's hooks in this process do. `stuck` are those whose request was
    given up and whose hook has not returned; `blocked`: all of them hang.
    """

    waiting: int = 0
    busy: int = 0
    stuck: int = 0
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """What is queued and what is in flight.

    `oldest_batch_s` is the age of the oldest batch in flight. `stalled_s` is the same where that is
    longer than any batch can take, and 0 otherwise; `hung`, where only a new process can help.
    The device needs `drain_s` seconds for all.
    A request that has not come yet is taken after all others if its priority is lower than
    `last_priority`, or the same with a deadline from `last_deadline` on. The queued rows take
    `places_taken` of the queue, and `divided` requests have more rows than places, see `Places`.
    """

    queued_rows: int = 0
    queued_requests: int = 0
    batches_in_flight: int = 0
    oldest_batch_s: float = 0.0
    stalled_s: float = 0.0
    drain_s: float = 0.0
    last_priority: int = 0
    last_deadline: float = 0.0
    places_taken: int = 0
    divided: int = 0
    hung: bool = False
    hooks: HooksSnapshot = HooksSnapshot()


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """`counts[i]` values are at most `edges[i]` and above the edge before it.

    There is one more count than edges, of values above all of them.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Histograms:
    """Since the start: requests from arrival to outcome and to dispatch, and completed batches."""

    request_latency_s: HistogramSnapshot
    queue_wait_s: HistogramSnapshot
    execution_s: HistogramSnapshot
    batch_rows: HistogramSnapshot


@dataclass(frozen=True, slots=True)
class Recent:
    """The last minute, or less since the start. `p99_s` and `fill` are NaN without any value.

    `p99_s` is of requests that succeeded, `requests_per_second` of all with an outcome, `fill` real
    rows per bucket row, `error_rate` the share of outcomes that were the server's failure.
    """

    p99_s: float
    requests_per_second: float
    fill: float
    error_rate: float


@dataclass(frozen=True, slots=True)
class Activity:
    """What one model has done since the start.

    `last_inference_ms` is when a request last succeeded, milliseconds since 1970, 0 for never.
    `refusals` counts by the error's class name, `reasons` batches by why they were dispatched;
    what never happened has no key. `rows_completed` and `padded_rows_completed` leave out batches
    that failed.
    """

    counts: Counts
    durations: Durations
    batches: tuple[BatchStats, ...]
    last_inference_ms: int
    refusals: Mapping[str, int]
    reasons: Mapping[str, int]
    rows_completed: int
    padded_rows_completed: int
    histograms: Histograms
    recent: Recent


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What decides whether one model serves, and how soon."""

    name: str
    version: str
    state: ModelState
    reason: str | None
    required: bool
    progress: Progress
    load: LoadSnapshot

    @property
    def serving(self) -> bool:
        """READY, no batch has been in flight for longer than any batch can take, and there is a
        thread for its hooks.
        """
        return (
            self.state is ModelState.READY
            and self.load.stalled_s == 0.0
            and not self.load.hooks.blocked
        )

    @property
    def dead(self) -> bool:
        """It will never serve again in this process."""
        return self.state is ModelState.FAILED or self.load.hung


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Every model's status. `ready`: every required model serves, and at least one."""

    models: tuple[ModelStatus, ...]

    @property
    def ready(self) -> bool:
        """Whether traffic may come."""
        required = [model for model in self.models if model.required]
        return any(m.serving for m in self.models) and all(m.serving for m in required)

    @property
    def alive(self) -> bool:
        """Whether any model serves, or may do so without a new process."""
        return not all(model.dead for model in self.models)


@dataclass(frozen=True, slots=True)
class ModelSnapshot(ModelStatus):
    """One model at one moment. `cost_table` is empty and `memory` None before they are known."""

    activity: Activity
    cost_table: tuple[Cost, ...]
    memory: MemoryUse | None


@dataclass(frozen=True, slots=True)
class EngineSnapshot(EngineStatus):
    """The whole engine at one moment."""

    models: tuple[ModelSnapshot, ...]
    compiles_after_ready: int
