"""The one table: what went wrong -> what the client is told.

May touch: flask, msgspec. Bodies are `{"error": "..."}`; a stack trace goes to the log, never to a
client.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final

import msgspec
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, InternalServerError

from app.answer import Answer
from app.operation import JSON
from engine import errors

log = logging.getLogger("brim.app")


class TooManyWaiting(errors.Refused):
    """As many requests wait in this process as it has threads to spare for waiting."""


INTERNAL: Final = 500
LONGEST: Final = 1000
"""Characters of an error message."""


class UnknownVersion(errors.BrimError):
    """A model of that name is there, but not in that version."""


class Unsupported(errors.BrimError):
    """The body is encoded in a way that is not understood here."""


class LengthRequired(errors.BrimError):
    """A POST that says nothing about its body."""


STATUS: Final[Mapping[type[errors.BrimError], int]] = {
    errors.InvalidRequest: 400,
    errors.UnknownModel: 404,
    UnknownVersion: 404,
    LengthRequired: 411,
    Unsupported: 415,
    errors.NonFiniteOutput: 422,  # this request's own rows; the same again ends the same
    errors.QueueFull: 429,
    TooManyWaiting: 429,
    errors.Cancelled: 499,  # nobody is there to read it; the log and the metrics are
    errors.ExecutionFailed: 500,
    errors.NotReady: 503,
    errors.Shed: 503,
    errors.ShuttingDown: 503,
    errors.ModelFailed: 503,
    errors.DeadlineExceeded: 504,
}
"""Every error that a request can end with. A test holds it complete."""


class Error(Answer, frozen=True):
    """An error of every route but OpenAI's."""

    error: str


class OpenAIProblem(Answer, frozen=True):
    """What OpenAI's clients read of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Answer, frozen=True):
    """An error of OpenAI's routes."""

    error: OpenAIProblem


def kind_of(path: str) -> type[Error | OpenAIError]:
    """How errors look on the route of this path: OpenAI's clients read an object."""
    return OpenAIError if path.startswith("/v1/") else Error


def answer_to(error: Exception, path: str, request_id: str) -> Response:
    """What the client that asked for `path` is told of an error, foreseen or not.

    It needs no request of Flask's: an answer may be written after that has ended.
    """
    if not isinstance(error, errors.BrimError):
        # the request id leads from the answer to the trace in the log
        log.error("request %s failed unexpectedly", request_id, exc_info=error)
        return _answer(path, f"internal error; the log has request {request_id}", INTERNAL)
    response = _answer(path, _short(str(error)), status_of(error))
    if isinstance(error, errors.Refused):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return response


def status_of(error: errors.BrimError) -> int:
    """The status of the nearest class in the table; a model's own subclasses are as their base."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def _answer(path: str, message: str, status: int) -> Response:
    """The error as the routes that it came from say it."""
    said: Error | OpenAIError = Error(message)
    if kind_of(path) is OpenAIError:
        kind = "invalid_request_error" if status < INTERNAL else "server_error"
        said = OpenAIError(OpenAIProblem(message, kind, None, None))
    return Response(msgspec.json.encode(said), status, content_type=JSON)


def _short(message: str) -> str:
    """What a client sent is named in the answer, but not all of its megabytes."""
    return message if len(message) <= LONGEST else f"{message[:LONGEST]}…"


def _brim_response(error: errors.BrimError) -> Response:
    return answer_to(error, request.path, request_id())


def _http_response(error: HTTPException) -> Response:
    """Flask's own errors (404, 405, 413, ...), as JSON, with the headers they need."""
    response = _answer(request.path, error.description or error.name, error.code or INTERNAL)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def _bug_response(error: Exception) -> Response:
    """What nobody foresaw."""
    original = getattr(error, "original_exception", None) or error
    return answer_to(original, request.path, request_id())


def request_id() -> str:
    """The id of the request that Flask serves now."""
    return str(g.get("request_id"))


def register(app: Flask) -> None:
    """Make the app answer every error from this table."""
    app.register_error_handler(errors.BrimError, _brim_response)
    app.register_error_handler(HTTPException, _http_response)
    app.register_error_handler(InternalServerError, _bug_response)
