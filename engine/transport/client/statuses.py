"""States and statistics of models that the engine has not told, or cannot tell any more."""

from __future__ import annotations

import time

from engine.models.config import ModelConfig
from engine.models.model import ModelState
from engine.serving.version import FIRST_VERSION
from engine.telemetry.recorder import ModelRecorder
from engine.telemetry.snapshots import LoadSnapshot, ModelSnapshot, ModelStatus, Progress


def unknown(config: ModelConfig) -> ModelStatus:
    """Before the engine has written anything."""
    progress = Progress(0, len(config.grid.buckets), 0.0, None)
    state, load = ModelState.LOADING, LoadSnapshot()
    return ModelStatus(config.name, FIRST_VERSION, state, None, config.required, progress, load)


def with_status(before: ModelSnapshot | None, status: ModelStatus) -> ModelSnapshot:
    """The statistics of a model before the engine was lost, with its status now."""
    activity = ModelRecorder(time.monotonic).activity() if before is None else before.activity
    known = {name: getattr(status, name) for name in ModelStatus.__dataclass_fields__}
    costs, memory = ((), None) if before is None else (before.cost_table, before.memory)
    return ModelSnapshot(**known, activity=activity, cost_table=costs, memory=memory)
