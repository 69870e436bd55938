"""`POST /v2/models/{m}[/versions/{v}]/infer`: decode and submit; encode when it is done."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from flask import Blueprint, Response

from app.http import bodies as body
from app.http.codecs import oip
from app.http.codecs.messages import InferResponse
from app.http.hooks import Identified, this_request
from app.http.inference import InferenceContext
from app.http.responses.deferred import Deferred, PendingAnswer
from app.http.responses.operation import BINARY, HEADER_LENGTH, INFERENCE, JSON, Operation
from app.http.responses.prepared import PreparedResponse
from app.http.services import Services, services
from engine.api import Arrays, InvalidRequest, PendingResult

blueprint = Blueprint("inference", __name__)

_LENGTH_KEY: Final = f"HTTP_{HEADER_LENGTH.replace('-', '_').upper()}"
"""WSGI's name of the header."""


@blueprint.post("/v2/models/<name>/infer")
@blueprint.post("/v2/models/<name>/versions/<version>/infer")
@Operation(answer=oip.WireAnswer, errors=INFERENCE, takes=oip.WireRequest, media=(JSON, BINARY))
def infer(name: str, version: str | None = None) -> Response:
    """JSON, JSON with binary tensors after it, or one raw tensor."""
    request = this_request()
    return Deferred(submit(request, services(), partial(body.read, request), name, version))


def submit(
    request: Identified,
    services: Services,
    read: Callable[[], bytes],
    name: str,
    version: str | None = None,
) -> PendingAnswer:
    """Decode and submit a request, whose body `read()` returns. Raises its refusal.

    Needs nothing of Flask's context.
    """
    context = InferenceContext(request, services, name, version)
    with context.permit:
        served = context.interface
        inputs, outputs = served.signature.inputs, served.signature.outputs
        length = _header_length(request.environ.get(_LENGTH_KEY))
        content = read()
        size = len(content)
        body.check_json(size if length is None else min(length, size), services)
        decoded = oip.decode(content, length, inputs, outputs, context.max_rows)
        body.check_id(decoded.id, services)
        accepts = request.environ.get("HTTP_ACCEPT_ENCODING", "")

        def encode(pending: PendingResult, arrays: Arrays) -> PreparedResponse:
            parameters = pending.request.prepared.parameters
            result = InferResponse(name, served.version, arrays, decoded.id, parameters)
            content, header_length = oip.encode(result, decoded, outputs)
            if header_length is None:
                return body.answer(content, JSON, accepts)
            response = body.answer(content, BINARY, accepts)
            response.headers.append((HEADER_LENGTH, str(header_length)))
            return response

        return context.run(decoded.inputs, encode, decoded.timeout_s, decoded.priority)


def _header_length(header: str | None) -> int | None:
    """Return None for a request that is JSON alone."""
    if header is None:
        return None
    # no more digits than any length has: int() is slow on thousands of them
    if not (header.isascii() and header.isdecimal() and len(header) <= len(str(2**63))):
        raise InvalidRequest(HEADER_LENGTH, f"got {header[:40]!r}, expected a number of bytes")
    return int(header)
