"""`/v1/embeddings` and `/v1/models`, as OpenAI's clients speak them."""

from __future__ import annotations

from typing import Literal

from flask import Blueprint, Response

from app import body, serving
from app.answer import Answer
from app.codec import openai
from app.operation import INFERENCE, JSON, UNKNOWN, Operation, answers, documented
from app.services import services, this_request
from engine.errors import InvalidRequest
from engine.spec import Arrays
from engine.ticket import Ticket

blueprint = Blueprint("openai", __name__)


EMBEDDINGS = Operation(
    answer=openai.EmbeddingsAnswer, errors=INFERENCE, takes=openai.EmbeddingsRequest
)


@blueprint.post("/v1/embeddings")
@documented(EMBEDDINGS)
def embeddings() -> Response:
    """The embeddings of texts, by any model that has a text in and one vector out."""
    asked = openai.decode(body.read(this_request()))
    visit = serving.Visit(asked.model)
    with visit.place:
        text, vector = openai.tensors(asked.model, visit.model)
        if asked.dimensions not in (None, *vector.shape):
            problem = f"got {asked.dimensions}, expected {vector.shape[0]}"
            raise InvalidRequest("dimensions", problem)
        sentences = openai.sentences(asked, visit.model.detokenize)
        accepts = body.accepted(visit.request)

        def encode(ticket: Ticket, outputs: Arrays) -> Response:
            content = openai.encode(asked, outputs[vector.name], ticket.prepared.tokens)
            return body.answer(content, JSON, accepts)

        return visit.run({text.name: sentences}, encode)


class OpenAIModel(Answer, frozen=True):
    """A model, as OpenAI lists it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["brim"]


class OpenAIModels(Answer, frozen=True):
    """Every configured model, whether it embeds or not."""

    object: Literal["list"]
    data: tuple[OpenAIModel, ...]


@blueprint.get("/v1/models")
@answers(OpenAIModels)
def models() -> OpenAIModels:
    """Which models are there?"""
    return OpenAIModels("list", tuple(_model(name) for name in services().engine.names))


@blueprint.get("/v1/models/<name>")
@answers(OpenAIModel, *UNKNOWN)
def model(name: str) -> OpenAIModel:
    """Is this one there?"""
    services().engine.config(name)
    return _model(name)


def _model(name: str) -> OpenAIModel:
    return OpenAIModel(name, "model", 0, "brim")
