"""What Triton's clients ask of a model, under Triton's names: its configuration and its statistics.

May touch: nothing but frozen values of the engine. perf_analyzer reads both.
"""

from __future__ import annotations

from app.answer import Answer
from engine.config import ModelConfig
from engine.model import Model
from engine.spec import TensorSpec
from engine.stats import BatchStats, Duration, ModelStats
from engine.waiting import DEFAULT_PRIORITY, LOWEST_PRIORITY

NANOSECONDS = 1e9


# --- the configuration ----------------------------------------------------------------------------


class TensorConfig(Answer, frozen=True):
    """One tensor; `dims` are those of one row, [1] for a row that is one value."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class LatestVersions(Answer, frozen=True):
    """How many versions are served."""

    num_versions: int


class VersionPolicy(Answer, frozen=True):
    """Which versions are served."""

    latest: LatestVersions


class InstanceGroup(Answer, frozen=True):
    """Where the model runs."""

    name: str
    count: int
    kind: str


class QueuePolicy(Answer, frozen=True):
    """What happens to a request that waits too long, and how many rows may wait."""

    timeout_action: str
    default_timeout_microseconds: int
    allow_timeout_override: bool
    max_queue_size: int


class DynamicBatching(Answer, frozen=True):
    """The buckets, the longest that a free device is held, the priorities and the deadlines."""

    preferred_batch_size: tuple[int, ...]
    max_queue_delay_microseconds: int
    priority_levels: int
    default_priority_level: int
    default_queue_policy: QueuePolicy


class TransactionPolicy(Answer, frozen=True):
    """One answer a request."""

    decoupled: bool


class TritonConfig(Answer, frozen=True):
    """A model's configuration as Triton's clients read it."""

    name: str
    platform: str
    backend: str
    version_policy: VersionPolicy
    max_batch_size: int
    input: tuple[TensorConfig, ...]
    output: tuple[TensorConfig, ...]
    instance_group: tuple[InstanceGroup, ...]
    dynamic_batching: DynamicBatching
    model_transaction_policy: TransactionPolicy


def model_config(config: ModelConfig, model: Model) -> TritonConfig:
    """The configuration of a model that serves."""
    return TritonConfig(
        name=config.name,
        platform=model.platform,
        backend="jax",
        version_policy=VersionPolicy(LatestVersions(1)),
        max_batch_size=config.rows[-1],
        input=tuple(_tensor(spec) for spec in model.inputs),
        output=tuple(_tensor(spec) for spec in model.outputs),
        instance_group=(InstanceGroup(config.name, 1, "KIND_AUTO"),),
        dynamic_batching=_batching(config),
        model_transaction_policy=TransactionPolicy(decoupled=False),
    )


def _batching(config: ModelConfig) -> DynamicBatching:
    return DynamicBatching(
        preferred_batch_size=config.rows,
        max_queue_delay_microseconds=round(config.max_wait_s * 1e6),
        priority_levels=LOWEST_PRIORITY,
        default_priority_level=DEFAULT_PRIORITY,
        default_queue_policy=QueuePolicy(
            timeout_action="REJECT",
            default_timeout_microseconds=round(config.timeout_s * 1e6),
            allow_timeout_override=True,
            max_queue_size=config.max_queue_rows,
        ),
    )


def _tensor(spec: TensorSpec) -> TensorConfig:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return TensorConfig(spec.name, f"TYPE_{datatype}", spec.shape or (1,))


# --- the statistics -------------------------------------------------------------------------------


class Spent(Answer, frozen=True):
    """How often, and how many nanoseconds in all."""

    count: int
    ns: int


class InferenceStatistics(Answer, frozen=True):
    """Time is per request and adds up: queue, input, infer and output make up success."""

    success: Spent
    fail: Spent
    queue: Spent
    compute_input: Spent
    compute_infer: Spent
    compute_output: Spent
    cache_hit: Spent
    cache_miss: Spent


class BatchStatistics(Answer, frozen=True):
    """Batches of one number of real rows."""

    batch_size: int
    compute_input: Spent
    compute_infer: Spent
    compute_output: Spent


class ModelStatistics(Answer, frozen=True):
    """One model; `last_inference` in milliseconds since 1970, 0 for never."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: tuple[BatchStatistics, ...]


def model_statistics(stats: ModelStats, version: str) -> ModelStatistics:
    """What the engine counted."""
    durations = stats.durations
    return ModelStatistics(
        name=stats.name,
        version=version,
        last_inference=stats.last_inference_ms,
        inference_count=stats.counts.rows_answered,
        execution_count=stats.counts.batches - stats.counts.batches_failed,
        inference_stats=InferenceStatistics(
            success=_spent(durations.success),
            fail=_spent(durations.fail),
            queue=_spent(durations.queue),
            compute_input=_spent(durations.compute_input),
            compute_infer=_spent(durations.compute_infer),
            compute_output=_spent(durations.compute_output),
            cache_hit=Spent(0, 0),
            cache_miss=Spent(0, 0),
        ),
        batch_stats=tuple(_batch(batch) for batch in stats.batches),
    )


def _batch(batch: BatchStats) -> BatchStatistics:
    return BatchStatistics(
        batch_size=batch.rows,
        compute_input=_spent(batch.compute_input),
        compute_infer=_spent(batch.compute_infer),
        compute_output=_spent(batch.compute_output),
    )


def _spent(duration: Duration) -> Spent:
    return Spent(duration.count, round(duration.seconds * NANOSECONDS))
