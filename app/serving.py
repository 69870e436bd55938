"""One request through the engine, for whatever route it came by.

May touch: flask's request, for its socket.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flask import request

from app.errors import TooManyWaiting, UnknownVersion
from app.operation import TIMEOUT_HEADER
from app.services import MODEL_VERSION, services
from engine.errors import InvalidRequest
from engine.model import Model
from engine.spec import Arrays
from engine.ticket import Ticket

PATIENCE_S = 0.005
"""How long a request waits before its socket is watched. A shorter wait is not worth two system
calls, and a client that left meanwhile is noticed as soon as the watch begins."""

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


@contextmanager
def place(name: str) -> Iterator[None]:
    """A place at the gate. The engine counts all refusals, the gate's too."""
    try:
        with services().gate.admit():
            yield
    except TooManyWaiting as error:
        services().engine.count_refusal(name, error)
        raise


def run(
    name: str, inputs: Arrays, timeout_s: float | None = None, priority: int = 0
) -> tuple[Ticket, Arrays]:
    """Submit and wait; a client that hangs up meanwhile takes its request along.

    `timeout_s` is what the body asks for; a header may ask for less.
    """
    engine = services().engine
    ticket = engine.submit(name, inputs, _shorter(timeout_s), priority)
    if ticket.wait(PATIENCE_S):
        return ticket, engine.result(name, ticket)
    client: socket.socket | None = request.environ.get("gunicorn.socket")
    with services().hangups.watching(client, ticket.cancel):
        return ticket, engine.result(name, ticket)
