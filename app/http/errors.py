"""Maps every error to the response that the client gets.

Bodies are `{"error": "..."}`, or OpenAI's error object below `/v1/`. A stack trace goes to the
log, never to a client.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, InternalServerError

from app.http.codecs.messages import Answer
from app.http.responses.operation import JSON
from app.http.responses.prepared import PreparedResponse
from app.http.services import services
from app.worker.limits.limits import LimitExceeded
from engine.api import errors

log = logging.getLogger("brim.app")


class Unsupported(errors.BrimError):
    """The body has an encoding that is not supported."""


class LengthRequired(errors.BrimError):
    """A POST with neither Content-Length nor Transfer-Encoding."""


_UNAVAILABLE: Final = "503 SERVICE UNAVAILABLE"
INTERNAL: Final = 500
NOT_FOUND: Final = 404
TOO_MANY: Final = 429
MAX_MESSAGE: Final = 1000
"""Characters of an error message."""

STATUS: Final[Mapping[type[errors.BrimError], int]] = {
    errors.InvalidRequest: 400,
    errors.RequestTooLarge: 413,
    errors.UnknownModel: 404,
    errors.UnknownVersion: 404,
    LengthRequired: 411,
    Unsupported: 415,
    errors.NonFiniteOutput: 422,  # caused by the request's own rows: a retry fails again
    errors.DeadlineTooShort: 422,  # or by its rows and its deadline
    errors.QueueFull: 429,
    errors.TooManyWaiting: 429,
    errors.Cancelled: 499,  # for the log and the metrics: the client is gone
    errors.ExecutionFailed: 500,
    errors.NoThread: 503,
    errors.NotReady: 503,
    errors.Shed: 503,
    errors.ShuttingDown: 503,
    errors.EngineLost: 503,
    errors.ModelFailed: 503,
    errors.DeadlineExceeded: 504,
}
"""Status of every error that can end a request. A test checks that none is missing."""


class Error(Answer, frozen=True):
    """An error of every route except OpenAI's."""

    error: str


class OpenAIProblem(Answer, frozen=True):
    """The details that OpenAI's clients read: `type` and `code` have its API's values, and `param`
    is the field that is wrong.
    """

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Answer, frozen=True):
    """An error of OpenAI's routes."""

    error: OpenAIProblem


def error_type(path: str) -> type[Error | OpenAIError]:
    """Return the type of the error bodies of the route at `path`."""
    return OpenAIError if path.startswith("/v1/") else Error


def error_response(error: BaseException, path: str, request_id: str) -> Response:
    """Build the response to a request for `path` that failed with `error`.

    Works outside Flask's request context: an answer may be written after the context has ended.
    """
    if isinstance(error, HTTPException) and not isinstance(error, InternalServerError):
        return http_response(error, path)
    if not isinstance(error, errors.BrimError):
        # the request id leads from the response to the stack trace in the log
        log.error("request %s failed unexpectedly", request_id, exc_info=error)
        return response(path, f"internal error; the log has request {request_id}", INTERNAL)
    message, status = str(error), status_of(error)
    if status == INTERNAL:  # the log has the reason, where it happened: maybe another process's
        log.error("request %s failed: %s", request_id, message)
        message = f"{message}; the log has request {request_id}"
    unknown = isinstance(error, errors.UnknownModel | errors.UnknownVersion)
    field = "model" if unknown else getattr(error, "field", None)
    answer = response(path, message, status, field)
    if isinstance(error, errors.Refused):
        answer.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return answer


def prepared_refusal(error: errors.Shed, request_id: str) -> PreparedResponse:
    """The same for a refusal below `/v2/`, without a Flask response: there may be thousands."""
    answer = PreparedResponse(msgspec.json.encode(Error(str(error))), JSON, _UNAVAILABLE)
    retry_after = str(max(1, math.ceil(error.retry_after_s)))
    answer.headers += ("Retry-After", retry_after), ("X-Request-Id", request_id)
    return answer


def status_of(error: errors.BrimError) -> int:
    """Return the status of the nearest base class in the table; a model may define subclasses."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def response(path: str, message: str, status: int, field: str | None = None) -> Response:
    """Build the response to a request for `path` in the form of its routes; `field` is the one that
    is wrong.
    """
    if len(message) > MAX_MESSAGE:  # it repeats megabytes of the client's input
        message = f"{message[:MAX_MESSAGE]}…"
    body: Error | OpenAIError = Error(message)
    if error_type(path) is OpenAIError:
        kind, code = ("invalid_request_error" if status < INTERNAL else "server_error"), None
        if status == TOO_MANY:
            kind, code = "rate_limit_error", "rate_limit_exceeded"
        elif status == NOT_FOUND and field == "model":
            code = "model_not_found"
        body = OpenAIError(OpenAIProblem(message, kind, field, code))
    return Response(msgspec.json.encode(body), status, content_type=JSON)


def http_response(error: HTTPException, path: str) -> Response:
    """Errors of Flask and werkzeug (404, 405, 413, ...) as JSON, with their headers."""
    answer = response(path, error.description or error.name, error.code or INTERNAL)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            answer.headers[name] = value
    return answer


def _answer(error: HTTPException) -> Response:
    if isinstance(error, LimitExceeded):
        services().limited(error.limit)
    return http_response(error, request.path)


def _other_response(error: Exception) -> Response:
    """Brim's errors, and unexpected ones: Flask wraps these in an InternalServerError."""
    original = getattr(error, "original_exception", None) or error
    return error_response(original, request.path, str(getattr(request, "request_id", None)))


def register(app: Flask) -> None:
    """Install this table as the app's error handlers."""
    app.register_error_handler(errors.BrimError, _other_response)
    app.register_error_handler(HTTPException, _answer)
    app.register_error_handler(InternalServerError, _other_response)
