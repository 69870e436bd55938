"""What Triton's clients ask of a model, under Triton's names: its configuration and its statistics.

May touch: nothing but frozen values of the engine. perf_analyzer reads both.
"""

from __future__ import annotations

from typing import Any

from engine.config import ModelConfig
from engine.model import Model
from engine.spec import TensorSpec
from engine.stats import BatchStats, Duration, ModelStats
from engine.waiting import DEFAULT_PRIORITY, LOWEST_PRIORITY

NANOSECONDS = 1e9


def model_config(config: ModelConfig, model: Model) -> dict[str, Any]:
    """`dims` are those of one row; a row that is one value has dims [1], as Triton wants it."""
    return {
        "name": config.name,
        "platform": model.platform,
        "backend": "jax",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": config.rows[-1],
        "input": [_tensor(spec) for spec in model.inputs],
        "output": [_tensor(spec) for spec in model.outputs],
        "instance_group": [{"name": config.name, "count": 1, "kind": "KIND_AUTO"}],
        "dynamic_batching": {
            "preferred_batch_size": list(config.rows),
            "max_queue_delay_microseconds": round(config.max_wait_s * 1e6),
            "priority_levels": LOWEST_PRIORITY,
            "default_priority_level": DEFAULT_PRIORITY,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round(config.timeout_s * 1e6),
                "allow_timeout_override": True,
                "max_queue_size": config.max_queue_rows,
            },
        },
        "model_transaction_policy": {"decoupled": False},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape or (1,))}


def model_statistics(stats: ModelStats, version: str) -> dict[str, Any]:
    """Durations are per request and add up: queue, input, infer and output make up success."""
    durations = stats.durations
    empty = {"count": 0, "ns": 0}
    return {
        "name": stats.name,
        "version": version,
        "last_inference": stats.last_inference_ms,
        "inference_count": stats.counts.rows_answered,
        "execution_count": stats.counts.batches - stats.counts.batches_failed,
        "inference_stats": {
            "success": _duration(durations.success),
            "fail": _duration(durations.fail),
            "queue": _duration(durations.queue),
            "compute_input": _duration(durations.compute_input),
            "compute_infer": _duration(durations.compute_infer),
            "compute_output": _duration(durations.compute_output),
            "cache_hit": empty,
            "cache_miss": empty,
        },
        "batch_stats": [_batch(batch) for batch in stats.batches],
    }


def _batch(batch: BatchStats) -> dict[str, Any]:
    return {
        "batch_size": batch.rows,
        "compute_input": _duration(batch.compute_input),
        "compute_infer": _duration(batch.compute_infer),
        "compute_output": _duration(batch.compute_output),
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": round(duration.seconds * NANOSECONDS)}
