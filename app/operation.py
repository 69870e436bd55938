"""What a route takes and every way in which it ends, said where the route is.

May touch: flask, msgspec. The OpenAPI document is made of what is said here, and a view's answer is
written as the type that it says: the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import msgspec
from flask import Response

from app.answer import Readiness

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
HEADER_LENGTH: Final = "Inference-Header-Content-Length"
TIMEOUT_HEADER: Final = "X-Request-Timeout-Ms"

REASONS: Final[Mapping[int, str]] = {
    400: "The request is wrong",
    404: "No such model or version",
    411: "The request says nothing about its length",
    413: "The body is too large",
    415: "The body is encoded in a way that is not understood",
    422: "These rows make NaN or infinity",
    429: "The queue or the process is full",
    500: "The device failed the batch",
    503: "The deadline cannot be met; or starting, shutting down, or failed",
    504: "No answer within the timeout",
}
"""Every error status that a route may name, and what it means."""

UNKNOWN: Final = (404,)
"""How a route ends that is about one model."""
NOT_SERVING: Final = (404, 503)
"""How a route ends that is about one model that serves."""
OPTIONAL_BODY: Final = (400, 413, 415)
"""How a route ends that may be sent a body."""
INFERENCE: Final = tuple(REASONS)
"""How a route ends that runs a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one route takes and gives.

    `answer` is the type of a 200's JSON, or of its text where `media` says another content type;
    with `BINARY` among them, tensors may follow the JSON, and that of the request too. `errors` are
    the statuses that it can end with beside 200. `takes` is the type of its body, if it has one,
    and `body_needed` whether it must.
    """

    answer: Any
    errors: tuple[int, ...] = ()
    media: tuple[str, ...] = (JSON,)
    takes: Any = None
    body_needed: bool = True

    @property
    def timed(self) -> bool:
        """May a request say how long its answer may take?"""
        return self.errors == INFERENCE

    @property
    def binary(self) -> bool:
        """May tensors follow the JSON?"""
        return BINARY in self.media


P = ParamSpec("P")
A = TypeVar("A")
V = TypeVar("V", bound=Callable[..., Any])


def documented(operation: Operation) -> Callable[[V], V]:
    """For a view that writes its response itself."""

    def mark(view: V) -> V:
        view.operation = operation  # type: ignore[attr-defined]
        return view

    return mark


def answers(
    answer: type[A], *errors: int, takes: Any = None
) -> Callable[[Callable[P, A]], Callable[P, Response]]:
    """For a view that returns its answer, of exactly this type. A body it takes may be missing."""
    operation = Operation(answer=answer, errors=errors, takes=takes, body_needed=False)

    def decorate(view: Callable[P, A]) -> Callable[P, Response]:
        @documented(operation)
        @wraps(view)
        def respond(*args: P.args, **kwargs: P.kwargs) -> Response:
            said = view(*args, **kwargs)
            ready = not isinstance(said, Readiness) or said.ready
            content = msgspec.json.encode(said)
            return Response(content, 200 if ready else 503, content_type=JSON)

        return respond

    return decorate


def operation_of(view: Callable[..., Any]) -> Operation:
    """What a view has said of itself. Raises LookupError for one that has said nothing."""
    operation: Operation | None = getattr(view, "operation", None)
    if operation is None:
        raise LookupError(f"{view.__module__}.{view.__name__} does not say what it answers")
    return operation
