"""Answers where Flask makes none: to bytes that are no request, and to exceptions that it does not
handle, of a middleware around the app for example.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.http import errors, hooks
from app.http.dispatch.cors import Cors
from app.http.dispatch.direct import DirectRequest
from app.http.hooks import HttpMetrics
from app.http.responses.prepared import PreparedResponse
from app.worker.limits.limits import LimitExceeded


def refuse(
    metrics: HttpMetrics,
    cors: Cors,
    environ: Mapping[str, Any],
    status: int,
    reason: str,
    error: BaseException,
) -> PreparedResponse:
    """Build the answer, in the form of all errors and with a request id, and count it.

    `environ` is what is known of the request; `reason` is for the client. A 500 is logged here.
    """
    request, path = DirectRequest(dict(environ)), environ["PATH_INFO"]
    if status == errors.INTERNAL or isinstance(error, LimitExceeded):
        response = errors.error_response(error, path, request.request_id)
    else:
        response = errors.response(path, reason, status)
    hooks.finish(request, response)
    # as URLs without a route, these are one series together
    metrics.note(environ["REQUEST_METHOD"], str(None), request.begun_at, response.status_code)
    return cors.answer(environ, PreparedResponse.of(response))
