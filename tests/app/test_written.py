"""An answer whose bytes are known is sent without looking, and is what Flask would have sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Response
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app.written import Written


def redirect(response: Response) -> None:
    response.headers["Location"] = "/\xfcber"


def locate(response: Response) -> None:
    response.headers["content-location"] = "/\xfcber"


def empty(response: Response) -> None:
    response.status_code = 204


def unchanged(response: Response) -> None:
    response.status_code = 304


def created(response: Response) -> None:
    response.status_code = 201


def rewritten(response: Response) -> None:
    response.set_data("\xfcber")


def unmeasured(response: Response) -> None:
    response.response = [b"in", b"two"]


def named(response: Response) -> None:
    response.headers["X-Request-Id"] = "seven"
    response.set_cookie("a", "b")


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize(
    "change",
    [lambda _response: None, redirect, locate, empty, unchanged, created, rewritten, named],
)
def test_whatever_is_done_to_it_it_is_sent_as_flask_would_send_it(
    change: Callable[[Response], None], method: str
) -> None:
    environ = EnvironBuilder("/", method=method).get_environ()
    written = Written(b"full", "application/json")
    response = Response(b"full", content_type="application/json")
    change(written)
    change(response)
    expected, status, headers = run_wsgi_app(response, environ, buffered=True)
    parts, written_status, written_headers = run_wsgi_app(written, environ, buffered=True)
    assert (written_status, written_headers) == (status, headers)
    assert b"".join(parts) == b"".join(expected)


def test_nothing_is_looked_for_that_cannot_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Response, "get_wsgi_headers", lambda *_args: 1 // 0)
    parts, *_ = run_wsgi_app(
        Written(b"full", "text/plain"), EnvironBuilder("/", method="POST").get_environ()
    )
    assert list(parts) == [b"full"]
