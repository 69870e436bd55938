"""One request through the engine, for whatever route it came by.

May touch: flask's request, for its socket.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from flask import Response, g, request

from app import errors
from app.deferred import Deferred
from app.errors import TooManyWaiting, UnknownVersion
from app.gate import Place
from app.operation import TIMEOUT_HEADER
from app.services import MODEL_VERSION, services
from engine.errors import InvalidRequest
from engine.model import Model
from engine.spec import Arrays, TensorSpec
from engine.ticket import Ticket

PATIENCE_S = 0.005
"""How long a request waits before its socket is watched. A shorter wait is not worth two system
calls, and a client that left meanwhile is noticed as soon as the watch begins."""

QUICK_BYTES: Final = 64 * 1024
"""Bytes of arrays. To write as many as JSON takes about a millisecond; other requests may wait so
long for the thread that reads them, and not longer."""

_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


def admit(name: str, version: str = MODEL_VERSION) -> Model:
    """The model for a request that is about to come, or why it cannot be served."""
    check_version(name, version)
    return services().engine.admit(name)


def check_version(name: str, version: str) -> None:
    """There is one version of every model. Raises `UnknownModel`, `UnknownVersion`."""
    services().engine.config(name)
    if version != MODEL_VERSION:
        raise UnknownVersion(f"model {name!r} has no version {version!r}; it has {MODEL_VERSION}")


def _shorter(timeout_s: float | None) -> float | None:
    """The shorter of what the body and the header ask for. Raises `InvalidRequest`."""
    said = request.headers.get(TIMEOUT_HEADER)
    if said is None:
        return timeout_s
    if not _NUMBER.fullmatch(said) or not 0 < float(said) < math.inf:
        raise InvalidRequest(
            TIMEOUT_HEADER, f"got {said[:40]!r}, expected milliseconds, more than 0"
        )
    seconds = float(said) / 1e3
    return seconds if timeout_s is None else min(seconds, timeout_s)


def place(name: str) -> Place:
    """A place at the gate. The engine counts all refusals, the gate's too."""
    try:
        return services().gate.admit()
    except TooManyWaiting as error:
        services().engine.count_refusal(name, error)
        raise


def run(
    name: str,
    inputs: Arrays,
    place: Place,
    encode: Callable[[Ticket, Arrays], Response],
    timeout_s: float | None = None,
    priority: int = 0,
) -> Deferred:
    """Submit, and return what becomes `encode(ticket, outputs)`, or the error that it ended with.

    `encode` may not need Flask's request: it is called when that has ended. `timeout_s` is what the
    body asks for; a header may ask for less. A client that hangs up takes its request along.
    """
    engine, hangups = services().engine, services().hangups
    model = engine.model(name)
    client: socket.socket | None = request.environ.get("gunicorn.socket")
    path, request_id = request.path, errors.request_id()
    ticket = engine.submit(name, inputs, _shorter(timeout_s), priority)

    def finish() -> Response:
        try:
            if not ticket.wait(PATIENCE_S):
                with hangups.watching(client, ticket.cancel):
                    return encode(ticket, engine.result(name, ticket))
            return encode(ticket, engine.result(name, ticket))
        except Exception as error:
            return errors.answer_to(error, path, request_id)

    place.keep()
    deferred = Deferred(ticket, finish, place.leave, quick=_quick(model, ticket))
    g.deferred = deferred
    return deferred


def give_up() -> None:
    """A hook of the app has failed after the view: the answer that was to come will not be."""
    deferred: Deferred | None = g.pop("deferred", None)
    if deferred is not None:
        deferred.close()


def _quick(model: Model, ticket: Ticket) -> bool:
    """Is the answer small, and without code of the model's own?"""
    if model.postprocess is not None:
        return False
    row = sum(_row_bytes(spec, ticket.lane) for spec in model.outputs)
    return ticket.rows * row <= QUICK_BYTES


@lru_cache(maxsize=1024)
def _row_bytes(spec: TensorSpec, length: int | None) -> int:
    return spec.nbytes(1, length)
