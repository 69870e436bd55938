"""Is the process alive, may traffic come, and how far is the start-up?

Liveness never depends on load or on a model; readiness is false while starting, while draining, and
for good when a required model has failed.
"""

from __future__ import annotations

import msgspec
from flask import Blueprint

from app import serving
from app.answer import Answer, Readiness
from app.operation import UNKNOWN, answers
from app.services import MODEL_VERSION, services
from engine.state import ModelState
from engine.stats import ModelStats

blueprint = Blueprint("health", __name__)


class Alive(Answer, frozen=True):
    """The process lives."""

    alive: bool


class ModelProgress(Answer, frozen=True):
    """Where a model stands; `expected_seconds` is an estimate of its whole start-up.

    `reason` is there when something is wrong.
    """

    state: ModelState
    required: bool
    buckets_done: int
    buckets_total: int
    elapsed_seconds: float
    expected_seconds: float | None
    reason: str | msgspec.UnsetType = msgspec.UNSET


class ServerProgress(Readiness, frozen=True):
    """Whether traffic may come, and where each model stands."""

    models: dict[str, ModelProgress]


class Live(Answer, frozen=True):
    """The process lives, as the protocol says it."""

    live: bool


class ServerReady(Readiness, frozen=True):
    """Whether traffic may come, as the protocol says it."""


class ModelReady(Readiness, frozen=True):
    """Whether one model serves."""

    name: str


@blueprint.get("/healthz")
@answers(Alive)
def alive() -> Alive:
    """200 while the process lives."""
    return Alive(alive=True)


@blueprint.get("/readyz")
@answers(ServerProgress)
def ready() -> ServerProgress:
    """200 when every required model serves; else 503. Both say where each model stands."""
    engine = services().engine
    models = {name: _where(engine.stats(name)) for name in engine.names}
    return ServerProgress(ready=engine.ready, models=models)


def _where(stats: ModelStats) -> ModelProgress:
    progress = stats.progress
    expected = progress.expected_s
    reason = stats.reason
    if stats.stalled_s:
        reason = f"a batch has been on the device for {stats.stalled_s:.0f} s"
    return ModelProgress(
        state=stats.state,
        required=stats.required,
        buckets_done=progress.buckets_done,
        buckets_total=progress.buckets_total,
        elapsed_seconds=round(progress.elapsed_s, 3),
        expected_seconds=None if expected is None else round(expected, 3),
        reason=reason or msgspec.UNSET,
    )


@blueprint.get("/v2/health/live")
@answers(Live)
def v2_live() -> Live:
    """The same as /healthz, as the protocol says it."""
    return Live(live=True)


@blueprint.get("/v2/health/ready")
@answers(ServerReady)
def v2_ready() -> ServerReady:
    """The same as /readyz, as the protocol says it."""
    return ServerReady(ready=services().engine.ready)


@blueprint.get("/v2/models/<name>/ready")
@blueprint.get("/v2/models/<name>/versions/<version>/ready")
@answers(ModelReady, *UNKNOWN)
def v2_model_ready(name: str, version: str = MODEL_VERSION) -> ModelReady:
    """Does this one model serve?"""
    serving.check_version(services().engine, name, version)
    return ModelReady(name=name, ready=services().engine.stats(name).serving)
