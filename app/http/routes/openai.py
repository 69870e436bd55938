"""OpenAI's routes: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

from flask import Blueprint, Response

from app.http import bodies as body
from app.http.codecs import openai
from app.http.codecs.messages import Answer, parse
from app.http.hooks import this_request
from app.http.inference import InferenceContext
from app.http.responses.deferred import Deferred
from app.http.responses.operation import INFERENCE, JSON, UNKNOWN, Operation, answers
from app.http.responses.prepared import PreparedResponse
from app.http.services import services
from engine.api import Arrays, BrimError, InvalidRequest, PendingResult, Signature, TensorSpec

blueprint = Blueprint("openai", __name__)


@blueprint.post("/v1/embeddings")
@Operation(answer=openai.EmbeddingsAnswer, errors=INFERENCE, takes=openai.EmbeddingsRequest)
def embeddings() -> Response:
    """Embeddings of texts, from a model with one text input and one vector output."""
    request = this_request()
    content = body.read(request)
    body.check_json(len(content), services())
    sent = parse(content, openai.EmbeddingsRequest)
    context = InferenceContext(request, services(), sent.model)
    with context.permit:
        text, vector = _tensors(sent.model, context.interface.signature)
        config = context.endpoint.config
        openai.check_dimensions(sent, vector, context.interface, config)
        inputs = openai.decode(sent, text, context.interface, config, context.max_rows)
        accepts = context.request.environ.get("HTTP_ACCEPT_ENCODING", "")

        def encode(pending: PendingResult, outputs: Arrays) -> PreparedResponse:
            prepared = pending.request.prepared
            content = openai.encode(
                sent, outputs[vector.name], vector, prepared.tokens, prepared.parameters
            )
            return body.answer(content, JSON, accepts)

        try:
            return Deferred(context.run(inputs, encode))
        except InvalidRequest as error:
            if error.field != text.name:
                raise
            # the model's own name of its input, which this protocol does not have
            raise InvalidRequest("input", error.problem) from None


def _tensors(name: str, signature: Signature) -> tuple[TensorSpec, TensorSpec]:
    """Return the tensors of an embedding model; the refusal of another one names those."""
    try:
        return openai.tensors(name, signature)
    except InvalidRequest as error:
        others = " or ".join(_embedding_models()) or "another server"
        raise InvalidRequest(error.field, f"{error.problem}; expected {others}") from None


def _embedding_models() -> Iterator[str]:
    engine = services().engine
    for name in engine.names:
        with suppress(BrimError):  # it is not READY, or makes no embeddings
            openai.tensors(name, engine.endpoint(name).interface.signature)
            yield name


class OpenAIModel(Answer, frozen=True):
    """A model in OpenAI's format."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["brim"]


class OpenAIModels(Answer, frozen=True):
    """All configured models, embedding models or not."""

    object: Literal["list"]
    data: tuple[OpenAIModel, ...]


@blueprint.get("/v1/models")
@answers(OpenAIModels)
def models() -> OpenAIModels:
    """The configured models."""
    return OpenAIModels("list", tuple(_model(name) for name in services().engine.names))


@blueprint.get("/v1/models/<name>")
@answers(OpenAIModel, *UNKNOWN)
def model(name: str) -> OpenAIModel:
    """One configured model."""
    services().engine.endpoint(name)
    return _model(name)


def _model(name: str) -> OpenAIModel:
    return OpenAIModel(name, "model", 0, "brim")
