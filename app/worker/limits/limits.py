"""What one client may use, and the refusal of more."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from typing_extensions import override
from werkzeug.exceptions import HTTPException

from app.worker.limits.states import State


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may use. An application may have other limits than these."""

    max_head_bytes: int = 32 * 1024
    """Of a request line and its headers."""
    max_body_bytes: int = 16 * 1024 * 1024
    head_timeout_s: float = 10.0
    """For a whole head, and for a TLS handshake: from the connection, later from its first byte."""
    body_timeout_s: float = 30.0
    """For a body. Every `min_bytes_per_s` bytes give it a second more, but never more time from now
    on than this."""
    send_timeout_s: float = 30.0
    """For a client to read its answer, with more time for more bytes as for a body."""
    min_bytes_per_s: int = 16 * 1024

    def seconds_for(self, size: int) -> float:
        """How much time a client gains with bytes that have moved."""
        return size / self.min_bytes_per_s


class LimitExceeded(HTTPException):
    """A request goes beyond a limit, and is answered with `code`."""

    code: int

    def __init__(self, limit: str, code: int, problem: str) -> None:
        """`limit` is its name in the configuration."""
        super().__init__(problem)
        self.limit = limit
        self.code = code

    @override
    def __str__(self) -> str:
        return str(self.description)

    @override
    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """With a time after which the client may try again, if that makes sense."""
        more = [("Retry-After", "1")] if self.code == HTTPStatus.SERVICE_UNAVAILABLE else []
        return [*super().get_headers(environ, scope), *more]


def too_late(state: State, limits: Limits) -> LimitExceeded | None:
    """What a connection is closed for, or refused, if its time is over in this state; None for
    nothing wrong.
    """
    slow = f"or at limits.min_bytes_per_s, {limits.min_bytes_per_s}"
    match state:
        case State.HANDSHAKE | State.HEAD:
            name, what = "head_timeout_s", "the head did not arrive within"
            text = f"{what} limits.{name}, {limits.head_timeout_s}"
        case State.BODY:
            name, what = "body_timeout_s", "the body did not arrive within"
            text = f"{what} limits.{name}, {limits.body_timeout_s}, {slow}"
        case State.WRITING:
            name, what = "send_timeout_s", "the answer was not read within"
            text = f"{what} limits.{name}, {limits.send_timeout_s}, {slow}"
        case _:
            return None
    return LimitExceeded(name, HTTPStatus.REQUEST_TIMEOUT, text)
