"""What a client may ask about the server and its models."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
from flask import Blueprint, Response, jsonify

from app import body, serving, triton
from app.codec.typed import parse
from app.services import MODEL_VERSION, VERSION, services
from engine.spec import TensorSpec
from engine.stats import ModelStats

blueprint = Blueprint("models", __name__)

EXTENSIONS = ("binary_tensor_data", "model_configuration", "schedule_policy", "statistics")


@blueprint.get("/v2")
def server() -> Response:
    """Who is this?"""
    return jsonify(name="brim", version=VERSION, extensions=EXTENSIONS)


@blueprint.get("/v2/models")
def models() -> Response:
    """Which models are there?"""
    return jsonify(models=list(services().engine.names))


@blueprint.get("/v2/models/<name>")
@blueprint.get("/v2/models/<name>/versions/<version>")
def model(name: str, version: str = MODEL_VERSION) -> Response:
    """What are its tensors called, and which shapes do they have?"""
    serving.check_version(name, version)
    served = services().engine.model(name)
    return jsonify(
        name=name,
        versions=[MODEL_VERSION],
        platform=served.platform,
        inputs=[_metadata(spec) for spec in served.inputs],
        outputs=[_metadata(spec) for spec in served.outputs],
    )


def _metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.wire_shape}


@blueprint.get("/v2/models/<name>/config")
@blueprint.get("/v2/models/<name>/versions/<version>/config")
def config(name: str, version: str = MODEL_VERSION) -> Response:
    """Its configuration, as Triton's clients read it."""
    serving.check_version(name, version)
    engine = services().engine
    return jsonify(triton.model_config(engine.config(name), engine.model(name)))


@blueprint.get("/v2/models/stats")
def all_stats() -> Response:
    """Triton's statistics of every model."""
    engine = services().engine
    every = [triton.model_statistics(engine.stats(name), MODEL_VERSION) for name in engine.names]
    return jsonify(model_stats=every)


@blueprint.get("/v2/models/<name>/stats")
@blueprint.get("/v2/models/<name>/versions/<version>/stats")
def stats(name: str, version: str = MODEL_VERSION) -> Response:
    """Triton's statistics, and beside them what only Brim knows: the cost table, memory, load."""
    serving.check_version(name, version)
    said = services().engine.stats(name)
    return jsonify(model_stats=[triton.model_statistics(said, MODEL_VERSION)], **_ours(said))


def _ours(said: ModelStats) -> dict[str, Any]:
    memory = said.memory
    return {
        "name": said.name,
        "version": MODEL_VERSION,
        "state": said.state.value,
        "reason": said.reason,
        "queue_depth": said.queued_rows,
        "queued_requests": said.queued_requests,
        "batches_in_flight": said.in_flight,
        "stalled_seconds": said.stalled_s,
        "counts": dataclasses.asdict(said.counts),
        "cost_table": [dataclasses.asdict(line) for line in said.cost_table],
        "memory": memory
        and {
            "weights_bytes": memory.weights,
            "code_bytes": memory.code,
            "peak_batch_bytes": memory.peak_batch,
        },
    }


class IndexRequest(msgspec.Struct):
    """The body of a repository index; it may be empty."""

    ready: bool = False


@blueprint.post("/v2/repository/index")
def index() -> Response:
    """Every model's state, as Triton says it; with `{"ready": true}` only those that serve."""
    ready_only = parse(body.read_optional() or b"{}", IndexRequest).ready
    engine = services().engine
    every = [engine.stats(name) for name in engine.names]
    return jsonify(
        [
            {
                "name": said.name,
                "version": MODEL_VERSION,
                "state": "READY" if said.serving else "UNAVAILABLE",
                "reason": "" if said.serving else said.reason or said.state.value,
            }
            for said in every
            if said.serving or not ready_only
        ]
    )
