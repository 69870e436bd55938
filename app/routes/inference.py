"""`POST /v2/models/{m}/infer` and what a client may ask about the models."""

from __future__ import annotations

import dataclasses
import socket
from typing import Any

from flask import Blueprint, Response, jsonify, request

from app.codec import InferResponse, oip_json
from app.errors import TooManyWaiting
from app.services import MODEL_VERSION, VERSION, services
from engine.engine import Engine
from engine.errors import InvalidRequest
from engine.model import Model
from engine.spec import Arrays, TensorSpec
from engine.ticket import Ticket

blueprint = Blueprint("inference", __name__)

PATIENCE_S = 0.005
"""How long a request waits before its socket is watched. A shorter wait is not worth two system
calls, and a client that left meanwhile is noticed as soon as the watch begins."""


@blueprint.post("/v2/models/<name>/infer")
def infer(name: str) -> Response:
    """Decode, submit, wait, encode."""
    engine = services().engine
    model = engine.admit(name)
    try:
        with services().gate.admit():
            return _infer(engine, name, model)
    except TooManyWaiting as error:
        engine.count_refusal(name, error)
        raise


def _infer(engine: Engine, name: str, model: Model) -> Response:
    if "Inference-Header-Content-Length" in request.headers:
        raise InvalidRequest(
            "Inference-Header-Content-Length", "binary tensors are not served; send JSON"
        )
    asked = oip_json.decode(request.get_data(cache=False), model.inputs, model.outputs)
    ticket = engine.submit(name, asked.inputs)
    outputs = _wait(engine, name, ticket)
    answer = InferResponse(
        model=name,
        version=MODEL_VERSION,
        outputs={key: outputs[key] for key in asked.outputs or outputs},
        id=asked.id,
        parameters=ticket.parameters,
    )
    return Response(oip_json.encode(answer, model.outputs), content_type="application/json")


def _wait(engine: Engine, name: str, ticket: Ticket) -> Arrays:
    if not ticket.wait(PATIENCE_S):
        client: socket.socket | None = request.environ.get("gunicorn.socket")
        with services().hangups.watching(client, ticket.cancel):
            return engine.result(name, ticket)
    return engine.result(name, ticket)


@blueprint.get("/v2")
def server() -> Response:
    """Who is this?"""
    return jsonify(name="brim", version=VERSION, extensions=[])


@blueprint.get("/v2/models")
def models() -> Response:
    """Which models are there?"""
    return jsonify(models=list(services().engine.names))


@blueprint.get("/v2/models/<name>")
def model(name: str) -> Response:
    """What are its tensors called, and which shapes do they have?"""
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


@blueprint.get("/v2/models/<name>/stats")
def stats(name: str) -> Response:
    """What does it cost, how much has it done, what does it take?"""
    said = services().engine.stats(name)
    return jsonify(
        name=name,
        version=MODEL_VERSION,
        state=said.state.value,
        reason=said.reason,
        queue_depth=said.queued_rows,
        queued_requests=said.queued_requests,
        batches_in_flight=said.in_flight,
        stalled_seconds=said.stalled_s,
        counts=dataclasses.asdict(said.counts),
        cost_table=[dataclasses.asdict(line) for line in said.cost_table],
        memory=None
        if said.memory is None
        else {
            "weights_bytes": said.memory.weights,
            "code_bytes": said.memory.code,
            "peak_batch_bytes": said.memory.peak_batch,
        },
    )
