"""`/v1/embeddings` and `/v1/models`, as OpenAI's clients speak them."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from app import body, serving
from app.codec import openai
from app.services import services
from engine.errors import InvalidRequest
from engine.model import Model
from engine.spec import TensorSpec

blueprint = Blueprint("openai", __name__)


@blueprint.post("/v1/embeddings")
def embeddings() -> Response:
    """The embeddings of texts, by any model that has a text in and one vector out."""
    asked = openai.decode(body.read())
    model = serving.admit(asked.model)
    text, vector = _tensors(asked.model, model)
    if asked.dimensions not in (None, *vector.shape):
        raise InvalidRequest("dimensions", f"got {asked.dimensions}, expected {vector.shape[0]}")
    with serving.place(asked.model):
        sentences = openai.sentences(asked, model.detokenize)
        ticket, outputs = serving.run(asked.model, {text.name: sentences})
        content = openai.encode(asked, outputs[vector.name], ticket.prepared.tokens)
    return body.compress(Response(content, content_type="application/json"))


def _tensors(name: str, model: Model) -> tuple[TensorSpec, TensorSpec]:
    """The one text that goes in and the one vector that comes out."""
    one_text = len(model.inputs) == 1 and model.inputs[0].datatype == "BYTES"
    vectors = [spec for spec in model.outputs if spec.datatype == "FP32" and len(spec.shape) == 1]
    if not one_text or model.inputs[0].shape or len(vectors) != 1:
        raise InvalidRequest("model", f"{name!r} does not turn texts into embeddings")
    return model.inputs[0], vectors[0]


@blueprint.get("/v1/models")
def models() -> Response:
    """Which models are there?"""
    return jsonify(object="list", data=[_model(name) for name in services().engine.names])


@blueprint.get("/v1/models/<name>")
def model(name: str) -> Response:
    """Is this one there?"""
    services().engine.config(name)
    return jsonify(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "brim"}
