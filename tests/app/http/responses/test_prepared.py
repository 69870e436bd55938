"""A prepared answer with the headers of hooks is what Flask would have sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from flask import Response
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app.http.responses.prepared import PreparedResponse


def redirect(response: Response) -> None:
    response.headers["Location"] = "/\xfcber"


def locate(response: Response) -> None:
    response.headers["content-location"] = "/\xfcber"


def named(response: Response) -> None:
    response.headers["X-Request-Id"] = "seven"
    response.set_cookie("a", "b")


def lower(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in headers)


@pytest.mark.parametrize("change", [lambda _response: None, redirect, locate, named])
def test_the_headers_of_hooks_are_sent_as_flask_would_send_them(
    change: Callable[[Response], None],
) -> None:
    environ = EnvironBuilder("/", method="POST").get_environ()
    response = Response(b"full", content_type="application/json")
    deferred = Response(content_type="application/octet-stream")
    change(response)
    change(deferred)
    prepared = PreparedResponse(b"full", "application/json")
    prepared.add(deferred.headers)
    expected, status, headers = run_wsgi_app(response, environ, buffered=True)
    parts, prepared_status, prepared_headers = run_wsgi_app(prepared, environ, buffered=True)
    assert (prepared_status, lower(prepared_headers)) == (status, lower(headers))
    assert b"".join(parts) == b"".join(expected)


def test_a_response_of_flask_is_sent_the_same_when_it_is_prepared() -> None:
    environ = EnvironBuilder("/", method="POST").get_environ()
    response = Response(b"{}", 503, {"Retry-After": "2"}, content_type="application/json")
    expected, status, headers = run_wsgi_app(response, environ, buffered=True)
    parts, prepared_status, prepared_headers = run_wsgi_app(
        PreparedResponse.of(response), environ, buffered=True
    )
    assert (prepared_status, lower(prepared_headers)) == (status, lower(headers))
    assert b"".join(parts) == b"".join(expected)


def test_a_view_may_return_a_prepared_answer() -> None:
    assert (
        Response.force_type(
            PreparedResponse(b"full", "text/plain"),  # type: ignore[arg-type]
            EnvironBuilder("/").get_environ(),
        ).get_data()
        == b"full"
    )
