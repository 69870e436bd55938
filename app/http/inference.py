"""Runs one inference request in the engine, for the routes of every protocol."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from app.http import errors
from app.http.hooks import Identified
from app.http.responses.deferred import PendingAnswer
from app.http.responses.operation import TIMEOUT_HEADER
from app.http.responses.prepared import PreparedResponse
from app.http.services import Services
from app.worker.transport import ASK_AFTER_S
from engine.api import (
    Arrays,
    DeadlineExceeded,
    Endpoint,
    InvalidRequest,
    ModelInterface,
    PendingResult,
    Refused,
    Shed,
    TensorSpec,
    TokenIds,
)

WORTH_CHECKING_S: Final = 0.01
"""Seconds that a request has waited before its time is compared with that."""

INLINE_BYTES: Final = 64 * 1024
"""Bytes of arrays. To write so much as JSON takes about a millisecond, which may block the loop."""

_TIMEOUT_KEY: Final = f"HTTP_{TIMEOUT_HEADER.replace('-', '_').upper()}"
"""WSGI's name of the header."""

_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


class InferenceContext:
    """One inference request: its endpoint, and its permit of the concurrency limiter.

    The endpoint is looked up once, here.
    """

    __slots__ = ("_disconnects", "endpoint", "interface", "permit", "request")

    def __init__(
        self, request: Identified, services: Services, name: str, version: str | None = None
    ) -> None:
        """Raises the refusal if the request cannot be served, or if all its time has passed before
        it came here; the engine counts it.

        Use the context inside `with context.permit`, which releases the permit on an error.
        """
        self._disconnects = services.disconnects
        self.request = request
        self.endpoint = services.engine.endpoint(name, version)
        self.interface = self.endpoint.admit()
        try:
            late = waited_too_long(request, self.endpoint)
            if late is not None:
                raise late
            self.permit = services.limiter.acquire()
        except Refused as error:
            self.endpoint.count_refusal(error)
            raise

    @property
    def max_rows(self) -> int:
        """A request of more rows is refused before its values are decoded."""
        return self.endpoint.config.max_request_rows

    def run(
        self,
        inputs: Arrays | TokenIds,
        encode: Callable[[PendingResult, Arrays], PreparedResponse],
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> PendingAnswer:
        """Submit, and return the answer that becomes `encode(pending, outputs)`, or an error.

        `encode` is called after Flask's request has ended. The timeout is the shorter one of
        `timeout_s`, which comes from the body, and the header's. A disconnect cancels the request.
        """
        disconnects = self._disconnects
        request, environ = self.request, self.request.environ
        client: socket.socket | None = environ.get("gunicorn.socket")
        pending = self._submit(inputs, timeout_s, priority)

        def finish() -> PreparedResponse:
            try:
                # under gthread; a client that disconnects meanwhile is noticed at once then
                if not pending.wait(ASK_AFTER_S):
                    with disconnects.watch(client, pending.cancel, environ["SERVER_PROTOCOL"]):
                        return encode(pending, pending.result())
                return encode(pending, pending.result())
            except BaseException as error:  # SystemExit too: a hook ends its request alone
                path, request_id = environ["PATH_INFO"], request.request_id
                return PreparedResponse.of(errors.error_response(error, path, request_id))

        permit = self.permit
        permit.detach()

        def release() -> None:
            pending.release()
            permit.release()

        inline = _inline(self.interface, pending)
        answer = PendingAnswer(pending, finish, release, inline=inline)
        request.pending = answer
        return answer

    def _submit(
        self, inputs: Arrays | TokenIds, timeout_s: float | None, priority: int
    ) -> PendingResult:
        endpoint, request = self.endpoint, self.request
        header_s = timeout_of(request.environ)
        if header_s is not None:
            timeout_s = header_s if timeout_s is None else min(header_s, timeout_s)
        exchange, arrived_at = request.exchange, None
        if exchange is not None:
            arrived_at, longest_s = exchange.read_at, endpoint.config.timeout_s
            exchange.limit(
                arrived_at + min(longest_s, longest_s if timeout_s is None else timeout_s)
            )
        try:
            prepared = endpoint.prepare(self.interface, inputs, timeout_s, priority, arrived_at)
        except DeadlineExceeded as error:
            if not request.given_up:  # the worker has counted it otherwise
                endpoint.count_refusal(error)
            raise
        return endpoint.submit(prepared)


def waited_too_long(request: Identified, endpoint: Endpoint) -> Shed | None:
    """The refusal of a request that has waited for half of its time before it came here. Under
    overload most requests are refused: before the body is decoded that is cheapest, and with half
    of the time left the client gets it in time.
    """
    waited_s = request.waited_s
    if waited_s < WORTH_CHECKING_S:
        return None
    allowed_s, own_s = endpoint.config.timeout_s, timeout_of(request.environ)
    if own_s is not None:
        allowed_s = min(allowed_s, own_s)
    if waited_s < allowed_s / 2:
        return None
    if request.exchange is not None:
        request.exchange.overdue()
    text = f"an answer within {allowed_s:.3g} s cannot be promised: it waited {waited_s:.3g} s"
    return Shed(f"{text} for this process", waited_s)


def timeout_of(environ: Mapping[str, Any]) -> float | None:
    """Return the timeout in the header, in seconds, if there is one. Raises `InvalidRequest`."""
    header: str | None = environ.get(_TIMEOUT_KEY)
    if header is None:
        return None
    if not _NUMBER.fullmatch(header) or not 0 < float(header) < math.inf:
        problem = f"got {header[:40]!r}, expected milliseconds, more than 0"
        raise InvalidRequest(TIMEOUT_HEADER, problem)
    return float(header) / 1e3


def _inline(interface: ModelInterface, pending: PendingResult) -> bool:
    """Whether the answer is small, and the model has no `postprocess`."""
    if interface.processor.postprocess is not None:
        return False
    request = pending.request
    row_bytes = _row_bytes(interface.signature.outputs, request.bucket_length)
    return request.rows * row_bytes <= INLINE_BYTES


@lru_cache(maxsize=1024)
def _row_bytes(outputs: tuple[TensorSpec, ...], length: int | None) -> int:
    return sum(spec.nbytes(1, length) for spec in outputs)
