"""Is the process alive, may traffic come, and how far is the start-up?

Liveness never depends on load or on a model; readiness is false while starting, while draining, and
for good when a required model has failed.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from app import serving
from app.services import MODEL_VERSION, services
from engine.stats import ModelStats

blueprint = Blueprint("health", __name__)


def _answer(ok: bool, **body: Any) -> Response:
    response = jsonify(**body)
    response.status_code = 200 if ok else 503
    return response


@blueprint.get("/healthz")
def alive() -> Response:
    """200 while the process lives."""
    return jsonify(alive=True)


@blueprint.get("/readyz")
def ready() -> Response:
    """200 when every required model serves; else 503. Both say where each model stands."""
    engine = services().engine
    ok = engine.ready
    return _answer(ok, ready=ok, models={name: _where(engine.stats(name)) for name in engine.names})


def _where(stats: ModelStats) -> dict[str, Any]:
    progress = stats.progress
    expected = progress.expected_s
    where: dict[str, Any] = {
        "state": stats.state.value,
        "required": stats.required,
        "buckets_done": progress.buckets_done,
        "buckets_total": progress.buckets_total,
        "elapsed_seconds": round(progress.elapsed_s, 3),
        "expected_seconds": None if expected is None else round(expected, 3),
    }
    if stats.reason:
        where["reason"] = stats.reason
    if stats.stalled_s:
        where["reason"] = f"a batch has been on the device for {stats.stalled_s:.0f} s"
    return where


@blueprint.get("/v2/health/live")
def v2_live() -> Response:
    """The same as /healthz, as the protocol says it."""
    return jsonify(live=True)


@blueprint.get("/v2/health/ready")
def v2_ready() -> Response:
    """The same as /readyz, as the protocol says it."""
    ok = services().engine.ready
    return _answer(ok, ready=ok)


@blueprint.get("/v2/models/<name>/ready")
@blueprint.get("/v2/models/<name>/versions/<version>/ready")
def v2_model_ready(name: str, version: str = MODEL_VERSION) -> Response:
    """Does this one model serve?"""
    serving.check_version(name, version)
    ok = services().engine.stats(name).serving
    return _answer(ok, name=name, ready=ok)
