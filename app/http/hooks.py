"""Request ids, arrival times and metrics. One hook does it all: each hook costs every request."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from flask import Flask, Request, Response
from flask import request as proxy

from app.http.responses.deferred import Deferred, PendingAnswer
from app.http.responses.prepared import PreparedResponse
from app.http.services import services
from app.worker.calls.lane import LaneLoad
from app.worker.suspension import EXCHANGE, Exchange
from engine.api import EngineClient

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")


class Identified:
    """A request with an id, its arrival, its pending answer, and what Brim's worker knows of it.
    `reserved` are its bytes of the budget.

    The id is the client's if that is printable and short, otherwise 32 random hexadecimal digits.
    """

    environ: dict[str, Any]

    def identify(self, environ: dict[str, Any]) -> None:
        """Set the attributes."""
        self.exchange: Exchange | None = environ.get(EXCHANGE)
        self.begun_at = time.monotonic() if self.exchange is None else self.exchange.read_at
        self.pending: PendingAnswer | None = None
        self.reserved = 0
        self.request_id: str = environ.get("HTTP_X_REQUEST_ID", "")
        if not _REQUEST_ID.fullmatch(self.request_id):
            # an id is no secret, and the system's generator costs a system call
            self.request_id = f"{random.getrandbits(128):032x}"

    @property
    def waited_s(self) -> float:
        """Seconds since it was read, before it came here."""
        return 0.0 if self.exchange is None else time.monotonic() - self.exchange.read_at

    @property
    def given_up(self) -> bool:
        """Whether the worker has answered it, because its deadline has passed."""
        return self.exchange is not None and self.exchange.given_up

    def give_up(self) -> None:
        """The pending answer will not be sent: cancel it."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.close()


class BrimRequest(Request, Identified):
    """Flask's request, identified."""

    def __init__(self, environ: dict[str, Any], *args: Any, **named: Any) -> None:
        super().__init__(environ, *args, **named)
        self.identify(environ)


class HttpMetrics(Protocol):
    """Counts requests and serves `/metrics`."""

    def install(self, app: Flask, engine: EngineClient, beat: Callable[[], object]) -> None:
        """Add `/metrics` to `app`, with the metrics of `engine`. A scrape calls `beat` first."""

    def tracks(self, request: Request) -> bool:
        """Whether `request` is counted."""

    def note_lanes(self, lanes: Mapping[str, LaneLoad]) -> None:
        """Show what this process's threads do at this moment."""

    def note(self, method: str, rule: str, begun_at: float, status: int) -> None:
        """Count an answered request that was read at `begun_at`, on `time.monotonic`."""

    def note_bytes(self, held: int) -> None:
        """Show how many bytes of bodies and answers this process holds at this moment."""

    def limited(self, limit: str) -> None:
        """Count what went beyond the limit of this name."""


def this_request() -> BrimRequest:
    """Return Flask's request itself: its proxy looks it up again for every attribute."""
    return cast("BrimRequest", proxy._get_current_object())  # type: ignore[attr-defined]


def finish(request: Identified, response: Response | PendingAnswer) -> None:
    """Give the response the id of its request."""
    response.headers["X-Request-Id"] = request.request_id
    answer = response.answer if isinstance(response, Deferred) else response
    if answer is not request.pending:
        request.give_up()  # a hook has replaced it


def note(
    metrics: HttpMetrics,
    request: Identified,
    response: Response | PreparedResponse | PendingAnswer,
    method: str,
    rule: str,
) -> None:
    """Count the request when its answer is known."""

    def count(answer: Response | PreparedResponse) -> None:
        if not request.given_up:  # otherwise it has another answer
            metrics.note(method, rule, request.begun_at, answer.status_code)

    if isinstance(response, Deferred | PendingAnswer):
        response.then(count)
    else:
        count(response)


def register(app: Flask, metrics: HttpMetrics) -> None:
    """Add the hooks to `app`. They run for every request, also on a user's own routes."""

    @app.after_request
    def end(response: Response) -> Response:
        request = this_request()
        finish(request, response)
        if metrics.tracks(request):
            # URLs without a route are one series together
            note(metrics, request, response, request.method, str(request.url_rule))
        return response

    @app.teardown_request
    def give_up(error: BaseException | None) -> None:
        request = this_request()
        if error is not None:
            request.give_up()
        if request.reserved:
            services().budget.add(-request.reserved)
