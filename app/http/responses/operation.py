"""Declarations, at each view, of what its route accepts and of every status it can respond with.

The OpenAPI document is generated from them, and responses are written as the declared types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import msgspec
from flask import Response

from app.http.codecs.messages import Verdict

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
HEADER_LENGTH: Final = "Inference-Header-Content-Length"
TIMEOUT_HEADER: Final = "X-Request-Timeout-Ms"

REASONS: Final[Mapping[int, str]] = {
    400: "The request is wrong",
    404: "No such model or version",
    408: "The body did not arrive in time",
    411: "The request does not give its length",
    413: "The body is too large, or has too many rows",
    415: "The encoding of the body is not supported",
    422: "The outputs of these rows are NaN or infinite; or no device could answer in time",
    429: "The queue or the process is full",
    500: "The device failed the batch",
    503: "The deadline cannot be met; or the model is starting, shutting down or failed; or there "
    "is no room for the body",
    504: "No answer within the timeout",
}
"""Every error status that a route may declare, and its meaning."""

UNKNOWN: Final = (404,)
"""Errors of a route about one configured model."""
NOT_SERVING: Final = (404, 503)
"""Errors of a route about one READY model."""
OPTIONAL_BODY: Final = (400, 408, 413, 415, 503)
"""Errors of a route with an optional body."""
INFERENCE: Final = tuple(REASONS)
"""Errors of a route that runs a model."""

P = ParamSpec("P")
A = TypeVar("A")
V = TypeVar("V", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one route accepts and responds with; decorates a view that builds its response itself.

    `answer` is the type of the JSON of a 200, or of its text if `media` has another content type;
    with `BINARY` in `media`, tensors may follow the JSON of request and response. `errors` are the
    statuses other than 200. `takes` is the type of the request body, if it has one.
    """

    answer: Any
    errors: tuple[int, ...] = ()
    media: tuple[str, ...] = (JSON,)
    takes: Any = None

    def __call__(self, view: V) -> V:
        """Declare this operation at `view`."""
        view.operation = self  # type: ignore[attr-defined]
        return view

    @property
    def infers(self) -> bool:
        """Whether the route runs a model: its body is required, and it may have a timeout."""
        return self.errors == INFERENCE

    @property
    def binary(self) -> bool:
        """Whether binary tensors may follow the JSON."""
        return BINARY in self.media


def answers(
    answer: type[A], *errors: int, takes: Any = None
) -> Callable[[Callable[P, A]], Callable[P, Response]]:
    """Decorate a view that returns an object of type `answer`. Its request body is optional."""

    def decorate(view: Callable[P, A]) -> Callable[P, Response]:
        @Operation(answer=answer, errors=errors, takes=takes)
        @wraps(view)
        def respond(*args: P.args, **kwargs: P.kwargs) -> Response:
            body = view(*args, **kwargs)
            status = 503 if isinstance(body, Verdict) and not body.holds else 200
            return Response(msgspec.json.encode(body), status, content_type=JSON)

        return respond

    return decorate


def operation_of(view: Callable[..., Any]) -> Operation:
    """Return a view's declaration. Raises LookupError if it has none."""
    operation: Operation | None = getattr(view, "operation", None)
    if operation is None:
        raise LookupError(f"{view.__module__}.{view.__name__} does not declare its Operation")
    return operation
