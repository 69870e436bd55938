"""A prepared answer is written as gunicorn would write the same status, headers and body."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.message import Request

from app.worker.limits.budget import ByteBudget
from app.worker.protocol.read_buffer import ReadBuffer
from app.worker.protocol.response import WorkerResponse
from app.worker.protocol.write_buffer import WriteBuffer
from tests.app.worker.conftest import Pair

POST = b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Answer:
    """What an application prepares."""

    status: str = "200 OK"
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("Content-Type", "a/b")])
    body: bytes = b"content"


def written(pair: Pair, head: bytes, answer: Answer, *, prepared: bool) -> object:
    """The bytes with sorted headers, and what the log and the connection read; or the error."""
    read_buffer, write_buffer = ReadBuffer(), WriteBuffer(pair[0], ByteBudget())
    read_buffer.feed(head)
    request = Request(Config(), read_buffer, ("127.0.0.1", 1), 1)
    kind = WorkerResponse if prepared else wsgi.Response
    response = kind(request, write_buffer, Config())
    try:
        if prepared:
            response.write_prepared(answer)
        else:
            length = ("Content-Length", str(len(answer.body)))
            response.start_response(answer.status, [*answer.headers, length])
            response.write(answer.body)
        response.close()
    except Exception as error:
        return type(error), response.headers_sent
    write_buffer.flush()
    start, _, body = pair[1].recv(65536).partition(b"\r\n\r\n")
    line, *lines = start.split(b"\r\n")
    lines = sorted(line for line in lines if not line.startswith(b"Date: "))
    state = response.status, response.status_code, response.sent, response.response_length
    return line, lines, body, state, sorted(response.headers), response.should_close()


ANSWERS = {
    "plain": Answer(),
    "without a body": Answer(body=b""),
    "an error": Answer("503 SERVICE UNAVAILABLE", [("Retry-After", "1"), ("Content-Type", "a/b")]),
    "a status that has no body": Answer("204 NO CONTENT"),
    "not modified": Answer("304 NOT MODIFIED"),
    "informational": Answer("100 CONTINUE"),
    "a header of the server's": Answer(headers=[("Server", "mine"), ("DATE", "now")]),
    "a hop-by-hop header": Answer(headers=[("connection", "close"), ("X-A", "1")]),
    "an upgrade": Answer(headers=[("Connection", "upgrade"), ("Upgrade", "websocket")]),
    "chunked twice": Answer(headers=[("Transfer-Encoding", "chunked")]),
    "its own length": Answer(headers=[("content-length", "3")]),
    "a longer name": Answer(headers=[("Connections", "3")]),
    "white space": Answer(headers=[("X-A", " a "), ("X-B", "b\t")]),
    "an empty value": Answer(headers=[("X-A", "")]),
    "latin-1": Answer(headers=[("X-A", "\xe9")]),
    "beyond latin-1": Answer(headers=[("X-A", "\u0178")]),
    "a name beyond ASCII": Answer(headers=[("X-\u212a", "a")]),
    "a line break": Answer(headers=[("X-A", "a\r\nSet-Cookie: b")]),
    "a line break in a name": Answer(headers=[("X-A: a\r\nX-B", "b")]),
    "a colon in a name": Answer(headers=[("X-A: a", "b")]),
    "a space in a name": Answer(headers=[("X A", "b")]),
    "an empty name": Answer(headers=[("", "b")]),
    "a status that is none": Answer("20 OK"),
    "a line break in the status": Answer("200 OK\r\nX-A: a"),
}


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(POST, id="POST"),
        pytest.param(b"HEAD / HTTP/1.1\r\n\r\n", id="HEAD"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", id="1.0"),
        pytest.param(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", id="1.0 kept"),
        pytest.param(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", id="close"),
    ],
)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_it_is_as_gunicorn_writes_it(pair: Pair, head: bytes, answer: Answer) -> None:
    expected = written(pair, head, answer, prepared=False)
    assert written(pair, head, answer, prepared=True) == expected


def test_a_plain_answer_is_one_piece(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []
    monkeypatch.setattr(WriteBuffer, "sendall", lambda _self, data: pieces.append(data))
    response = WorkerResponse(_request(), WriteBuffer(pair[0], ByteBudget()), Config())
    response.write_prepared(Answer())
    response.close()
    assert len(pieces) == 1


def _request() -> Request:
    read_buffer = ReadBuffer()
    read_buffer.feed(POST)
    return Request(Config(), read_buffer, ("127.0.0.1", 1), 1)
