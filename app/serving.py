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

from flask import Response, g

from app import errors
from app.deferred import Deferred
from app.errors import TooManyWaiting, UnknownVersion
from app.operation import TIMEOUT_HEADER
from app.services import MODEL_VERSION, services, this_g, this_request
from engine.engine import Engine
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

_TIMEOUT_KEY: Final = f"HTTP_{TIMEOUT_HEADER.replace('-', '_').upper()}"
"""WSGI's name of the header."""

_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


def check_version(engine: Engine, name: str, version: str) -> None:
    """There is one version of every model. Raises `UnknownModel`, `UnknownVersion`."""
    engine.config(name)
    if version != MODEL_VERSION:
        raise UnknownVersion(f"model {name!r} has no version {version!r}; it has {MODEL_VERSION}")


class Visit:
    """A request for a model that serves, with its place at the gate.

    Flask's proxies and the app's services are looked up once, here.
    """

    __slots__ = ("_here", "_name", "_services", "model", "place", "request")

    def __init__(self, name: str, version: str = MODEL_VERSION) -> None:
        """Raises why the request cannot be served. The engine counts all refusals, the gate's too.

        Whatever may fail from here on belongs into a `with` block of the `place`.
        """
        self._services = services()
        self._here = this_g()
        self._name = name
        self.request = this_request()
        engine = self._services.engine
        check_version(engine, name, version)
        self.model = engine.admit(name)
        try:
            self.place = self._services.gate.admit()
        except TooManyWaiting as error:
            engine.count_refusal(name, error)
            raise

    def run(
        self,
        inputs: Arrays,
        encode: Callable[[Ticket, Arrays], Response],
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Deferred:
        """Submit, and return what becomes `encode(ticket, outputs)`, or the error it ended with.

        `encode` may not need Flask's request: it is called when that has ended. `timeout_s` is what
        the body asks for; a header may ask for less. A client that hangs up takes its request
        along.
        """
        engine, hangups, name = self._services.engine, self._services.hangups, self._name
        environ = self.request.environ
        client: socket.socket | None = environ.get("gunicorn.socket")
        path, request_id = self.request.path, self._here.request_id
        said: str | None = environ.get(_TIMEOUT_KEY)
        ticket = engine.submit(name, inputs, _shorter(said, timeout_s), priority)

        def finish() -> Response:
            try:
                if not ticket.wait(PATIENCE_S):
                    with hangups.watching(client, ticket.cancel):
                        return encode(ticket, engine.result(name, ticket))
                return encode(ticket, engine.result(name, ticket))
            except Exception as error:
                return errors.answer_to(error, path, request_id)

        self.place.keep()
        deferred = Deferred(ticket, finish, self.place.leave, quick=_quick(self.model, ticket))
        self._here.deferred = deferred
        return deferred


def _shorter(said: str | None, timeout_s: float | None) -> float | None:
    """The shorter of what the header and the body ask for. Raises `InvalidRequest`."""
    if said is None:
        return timeout_s
    if not _NUMBER.fullmatch(said) or not 0 < float(said) < math.inf:
        raise InvalidRequest(
            TIMEOUT_HEADER, f"got {said[:40]!r}, expected milliseconds, more than 0"
        )
    seconds = float(said) / 1e3
    return seconds if timeout_s is None else min(seconds, timeout_s)


def give_up() -> None:
    """A hook of the app has failed after the view: the answer that was to come will not be."""
    deferred: Deferred | None = g.pop("deferred", None)
    if deferred is not None:
        deferred.close()


def _quick(model: Model, ticket: Ticket) -> bool:
    """Is the answer small, and without code of the model's own?"""
    if model.postprocess is not None:
        return False
    return ticket.rows * _row_bytes(model.outputs, ticket.lane) <= QUICK_BYTES


@lru_cache(maxsize=1024)
def _row_bytes(outputs: tuple[TensorSpec, ...], length: int | None) -> int:
    return sum(spec.nbytes(1, length) for spec in outputs)
