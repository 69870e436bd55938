"""What is no request has a status, and as much of an environ as can be read of it."""

from __future__ import annotations

import pytest
from gunicorn.config import Config
from gunicorn.http import errors
from gunicorn.http.message import Request

from app.worker.protocol import refusals
from app.worker.protocol.read_buffer import ReadBuffer
from app.worker.protocol.refusals import Refusal
from tests.app.worker.protocol.test_response import Answer

OURS = {errors.InvalidResponseHeader, errors.InvalidResponseHeaderName}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.ConfigurationProblem, 404),
        (errors.LimitRequestLine, 414),
        (errors.LimitRequestHeaders, 431),
        (errors.ExpectationFailed, 417),
        (errors.UnsupportedTransferCoding, 501),
        (errors.InvalidHTTPVersion, 505),
        (errors.ForbiddenProxyRequest, 403),
        (errors.InvalidRequestLine, 400),
        (errors.InvalidRequestMethod, 400),
        (errors.InvalidHeader, 400),
        (errors.InvalidHeaderName, 400),
        (errors.ObsoleteFolding, 400),
        (errors.InvalidChunkSize, 400),
        *((kind, 500) for kind in OURS),
    ],
)
def test_what_the_parser_raises_has_a_status(kind: type[Exception], status: int) -> None:
    assert refusals.status_of(kind("x")) == status


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(), OSError()], ids=repr)
def test_anything_else_is_the_applications_failure(error: BaseException) -> None:
    assert refusals.status_of(error) == 500


@pytest.mark.parametrize(
    ("head", "method", "path", "number"),
    [
        (b"GET /v1/models HTTP/2.0\r\nHost: b\r\n\r\n", "GET", "/v1/models", None),
        (b"GET /v1/a%20b?c HTTP/1.1\r\nx-request-ID: \tab \r\n", "GET", "/v1/a b", "ab"),
        (b"GET /" + b"a" * 9000, "GET", "/" + "a" * 8187, None),
        (b"\x16\x03\x01\x02\x00", "-", "-", None),
        (b"", "-", "-", None),
    ],
)
def test_the_first_line_and_the_id_are_read_where_they_can_be(
    head: bytes, method: str, path: str, number: str | None
) -> None:
    environ = refusals.environ_of(None, head, ("10.0.0.1", 5))
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == (method, path)
    assert environ.get("HTTP_X_REQUEST_ID") == number
    assert environ["REMOTE_ADDR"] == "10.0.0.1"


def test_a_parsed_request_is_described_by_its_own_fields() -> None:
    buffer = ReadBuffer()
    buffer.feed(b"POST /v1/%41?q=1 HTTP/1.1\r\nX-Request-Id: seven\r\nContent-Length: 0\r\n\r\n")
    request = Request(Config(), buffer, "", 1)
    environ = refusals.environ_of(request, b"", "")
    assert environ == {
        "HTTP_X_REQUEST_ID": "seven",
        "HTTP_CONTENT_LENGTH": "0",
        "REQUEST_METHOD": "POST",
        "RAW_URI": "/v1/%41?q=1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": "/v1/A",
        "REMOTE_ADDR": "-",
    }


@pytest.mark.parametrize("body", [True, False])
def test_a_refusal_ends_the_connection(body: bool) -> None:
    refusal = Refusal.of(Answer("400 BAD REQUEST"), "brim", body=body)
    head, _, content = refusal.data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 BAD REQUEST\r\nServer: brim\r\nDate: ")
    assert b"\r\nConnection: close\r\nContent-Type: a/b\r\nContent-Length: 7" in head
    assert content == (b"content" if body else b"")
    assert refusal.sent == len(content)
