"""`POST /v2/models/{m}[/versions/{v}]/infer`: decode and submit; encode when it is done."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response

from app import body, serving
from app.codec import InferResponse, oip
from app.operation import BINARY, HEADER_LENGTH, INFERENCE, JSON, Operation, documented
from app.services import MODEL_VERSION
from engine.errors import InvalidRequest
from engine.spec import Arrays
from engine.ticket import Ticket

blueprint = Blueprint("inference", __name__)

INFER: Final = Operation(
    answer=oip.WireAnswer, errors=INFERENCE, takes=oip.WireRequest, media=(JSON, BINARY)
)

_LENGTH_KEY: Final = f"HTTP_{HEADER_LENGTH.replace('-', '_').upper()}"
"""WSGI's name of the header."""


@blueprint.post("/v2/models/<name>/infer")
@blueprint.post("/v2/models/<name>/versions/<version>/infer")
@documented(INFER)
def infer(name: str, version: str = MODEL_VERSION) -> Response:
    """JSON, JSON with binary tensors after it, or one raw tensor."""
    visit = serving.Visit(name, version)
    with visit.place:
        request, model = visit.request, visit.model
        length = _header_length(request.environ.get(_LENGTH_KEY))
        asked = oip.decode(body.read(request), length, model.inputs, model.outputs)
        accepts = body.accepted(request)

        def encode(ticket: Ticket, outputs: Arrays) -> Response:
            said = InferResponse(name, MODEL_VERSION, outputs, asked.id, ticket.prepared.parameters)
            content, header_length = oip.encode(said, asked, model.outputs)
            if header_length is None:
                return body.answer(content, JSON, accepts)
            response = body.answer(content, BINARY, accepts)
            response.headers[HEADER_LENGTH] = str(header_length)
            return response

        return visit.run(asked.inputs, encode, asked.timeout_s, asked.priority)


def _header_length(said: str | None) -> int | None:
    """None for a request that is JSON alone."""
    if said is None:
        return None
    # no more digits than any length has: int() is slow on thousands of them
    if not (said.isascii() and said.isdecimal() and len(said) <= len(str(2**63))):
        raise InvalidRequest(HEADER_LENGTH, f"got {said[:40]!r}, expected a number of bytes")
    return int(said)
