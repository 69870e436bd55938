"""A model's configuration and statistics in Triton's format, which perf_analyzer reads."""

from __future__ import annotations

from app.http.codecs.messages import Answer
from engine.api import (
    DEFAULT_PRIORITY,
    LOWEST_PRIORITY,
    BatchStats,
    Durations,
    ModelConfig,
    ModelSnapshot,
    Signature,
    TensorSpec,
)


class TensorConfig(Answer, frozen=True):
    """One tensor; `dims` are those of one row, [1] for a row of a single value."""

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
    """The device kind and number of instances."""

    name: str
    count: int
    kind: str


class QueuePolicy(Answer, frozen=True):
    """The default timeout, the action on a late request, and the maximum of queued rows."""

    timeout_action: str
    default_timeout_microseconds: int
    allow_timeout_override: bool
    max_queue_size: int


class DynamicBatching(Answer, frozen=True):
    """The bucket sizes, the maximum batching delay, the priorities and the queue policy."""

    preferred_batch_size: tuple[int, ...]
    max_queue_delay_microseconds: int
    priority_levels: int
    default_priority_level: int
    default_queue_policy: QueuePolicy


class TransactionPolicy(Answer, frozen=True):
    """One response per request."""

    decoupled: bool


class TritonConfig(Answer, frozen=True):
    """A model's configuration in Triton's format."""

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


def model_config(config: ModelConfig, signature: Signature) -> TritonConfig:
    """Return the configuration of a READY model."""
    return TritonConfig(
        name=config.name,
        platform=signature.platform,
        backend="jax",
        version_policy=VersionPolicy(LatestVersions(1)),
        max_batch_size=config.rows[-1],
        input=tuple(_tensor(spec) for spec in signature.inputs),
        output=tuple(_tensor(spec) for spec in signature.outputs),
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


class DurationStatistic(Answer, frozen=True):
    """Number of requests or batches, and their total nanoseconds."""

    count: int
    ns: int


NEVER = DurationStatistic(0, 0)
COMPUTE = ("compute_input", "compute_infer", "compute_output")


class InferenceStatistics(Answer, frozen=True):
    """Times per request; queue, input, infer and output add up to success."""

    success: DurationStatistic
    fail: DurationStatistic
    queue: DurationStatistic
    compute_input: DurationStatistic
    compute_infer: DurationStatistic
    compute_output: DurationStatistic
    cache_hit: DurationStatistic
    cache_miss: DurationStatistic


class BatchStatistics(Answer, frozen=True):
    """Statistics of the batches with `batch_size` rows, without padding."""

    batch_size: int
    compute_input: DurationStatistic
    compute_infer: DurationStatistic
    compute_output: DurationStatistic


class ModelStatistics(Answer, frozen=True):
    """Statistics of one model; `last_inference` in milliseconds since 1970, 0 for never."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: tuple[BatchStatistics, ...]


def model_statistics(stats: ModelSnapshot) -> ModelStatistics:
    """Convert the engine's statistics."""
    activity = stats.activity
    requests = _durations(activity.durations, "success", "fail", "queue", *COMPUTE)
    batches = (BatchStatistics(b.rows, **_durations(b, *COMPUTE)) for b in activity.batches)
    return ModelStatistics(
        name=stats.name,
        version=stats.version,
        last_inference=activity.last_inference_ms,
        inference_count=activity.counts.rows_answered,
        execution_count=activity.counts.batches - activity.counts.batches_failed,
        inference_stats=InferenceStatistics(**requests, cache_hit=NEVER, cache_miss=NEVER),
        batch_stats=tuple(batches),
    )


def _durations(stats: Durations | BatchStats, *fields: str) -> dict[str, DurationStatistic]:
    durations = {field: getattr(stats, field) for field in fields}
    return {key: DurationStatistic(d.count, round(d.seconds * 1e9)) for key, d in durations.items()}
