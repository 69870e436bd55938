"""What is done before and after every request: it is named, timed and counted.

May touch: flask, random, time. One hook on each side does it all, because every hook costs every
request.
"""

from __future__ import annotations

import random
import re
import time
from functools import partial
from typing import Final

from flask import Flask, Response

from app import serving
from app.deferred import Deferred
from app.http_metrics import HttpMetrics
from app.services import this_g, this_request

UNTRACKED: Final = ("metrics",)
"""Endpoints whose requests are not counted: a scrape is no traffic."""

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")


def _new_id() -> str:
    """32 hexadecimal digits. A name and no secret: the system's generator costs a system call."""
    return f"{random.getrandbits(128):032x}"


def register(app: Flask, metrics: HttpMetrics) -> None:
    """For every request of this app, whoever wrote its route."""

    @app.before_request
    def begin() -> None:
        """The client's id for this request, if it is printable and short, or one of ours."""
        here = this_g()
        here.begun_at = time.perf_counter()
        theirs = this_request().environ.get("HTTP_X_REQUEST_ID", "")
        here.request_id = theirs if _REQUEST_ID.fullmatch(theirs) else _new_id()

    @app.after_request
    def end(response: Response) -> Response:
        here, request = this_g(), this_request()
        response.headers["X-Request-Id"] = here.request_id
        if request.endpoint not in UNTRACKED:
            # URLs without a route are one series together
            note = partial(metrics.note, request.method, str(request.url_rule), here.begun_at)
            if isinstance(response, Deferred):
                response.then(note)
            else:
                note(response)
        if not isinstance(response, Deferred):
            serving.give_up()  # of a `Deferred` that another hook has replaced
        return response

    @app.teardown_request
    def give_up(error: BaseException | None) -> None:
        if error is not None:
            serving.give_up()
