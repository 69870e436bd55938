"""Liveness, readiness and start-up progress.

Liveness never depends on load. It is false when no model serves or will ever serve in this process,
so that a supervisor can start another one. Readiness is false while starting and while draining,
and permanently when a required model has failed.
"""

from __future__ import annotations

import msgspec
from flask import Blueprint
from typing_extensions import override

from app.http.codecs.messages import Answer, Readiness, Verdict
from app.http.responses.operation import UNKNOWN, answers
from app.http.services import services
from engine.api import EngineStatus, ModelState, ModelStatus

blueprint = Blueprint("health", __name__)


class Alive(Verdict, frozen=True):
    """Whether the process serves, or may serve. `reason` is present if it does not."""

    alive: bool
    reason: str | msgspec.UnsetType = msgspec.UNSET

    @property
    @override
    def holds(self) -> bool:
        return self.alive


class ModelProgress(Answer, frozen=True):
    """State and progress of a model; `expected_seconds` estimates its whole start-up.

    `reason` is present if something is wrong.
    """

    state: ModelState
    required: bool
    buckets_done: int
    buckets_total: int
    elapsed_seconds: float
    expected_seconds: float | None
    reason: str | msgspec.UnsetType = msgspec.UNSET


class ServerProgress(Readiness, frozen=True):
    """Whether the server is ready, and the state of each model."""

    models: dict[str, ModelProgress]


class Live(Verdict, frozen=True):
    """The same in the protocol's form."""

    live: bool

    @property
    @override
    def holds(self) -> bool:
        return self.live


class ModelReady(Readiness, frozen=True):
    """Whether one model is ready. `reason` is present if something is wrong."""

    name: str
    reason: str | msgspec.UnsetType = msgspec.UNSET


@blueprint.get("/healthz")
@answers(Alive)
def alive() -> Alive:
    """Liveness: 200 while a model serves or may serve, 503 when only a new process can help."""
    status = services().engine.status()
    if status.alive:
        return Alive(alive=True)
    return Alive(alive=False, reason="; ".join(map(_reason, status.models)))


def _reason(status: ModelStatus) -> str:
    return f"model {status.name!r}: {_problem(status)}"


def _problem(status: ModelStatus) -> str | None:
    if status.load.stalled_s and status.reason is None:
        return f"a batch has been on the device for {status.load.stalled_s:.0f} s"
    return status.reason


@blueprint.get("/readyz")
@answers(ServerProgress)
def ready() -> ServerProgress:
    """Readiness: 200 if every required model is ready, else 503, with the state of each model."""
    status, lanes = services().engine.status(), services().lanes
    models = {model.name: _progress(model, lanes.stuck(model.name)) for model in status.models}
    return ServerProgress(ready=_ready(status), models=models)


def _ready(status: EngineStatus) -> bool:
    """Whether traffic may come to this process."""
    lanes = services().lanes
    return status.ready and not any(m.required and lanes.stuck(m.name) for m in status.models)


def _progress(stats: ModelStatus, stuck: int) -> ModelProgress:
    progress, reason = stats.progress, _problem(stats)
    expected = progress.expected_s
    hooks = stats.load.hooks
    stuck = stuck or (hooks.stuck if hooks.blocked else 0)
    if stuck:
        reason = f"{stuck} calls of its hooks have passed their deadlines and hold all threads"
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
    """Liveness as /healthz, in the protocol's form."""
    return Live(live=services().engine.status().alive)


@blueprint.get("/v2/health/ready")
@answers(Readiness)
def v2_ready() -> Readiness:
    """Readiness as /readyz, in the protocol's form."""
    return Readiness(ready=_ready(services().engine.status()))


@blueprint.get("/v2/models/<name>/ready")
@blueprint.get("/v2/models/<name>/versions/<version>/ready")
@answers(ModelReady, *UNKNOWN)
def v2_model_ready(name: str, version: str | None = None) -> ModelReady:
    """Whether this model is ready."""
    status, stuck = services().engine.endpoint(name, version).status(), services().lanes.stuck(name)
    reason = _progress(status, stuck).reason
    return ModelReady(name=name, ready=status.serving and not stuck, reason=reason)
