"""A head that is known means what gunicorn's parser would make of it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.message import Request

from app.worker.limits.budget import ByteBudget
from app.worker.protocol.head_cache import MAX_HEADS, MAX_LENGTH, Head, HeadCache
from app.worker.protocol.read_buffer import ReadBuffer
from app.worker.protocol.write_buffer import WriteBuffer
from tests.app.worker.conftest import Pair

HERE, THERE, SERVER = ("127.0.0.1", 1), ("192.0.2.7", 1), ("127.0.0.1", 8000)

PLAIN = b"POST /a%20b?c=d HTTP/1.1\r\nHost: x:1\r\nContent-Length: 3\r\n\r\n"
HEADS = {
    "a body": PLAIN,
    "none": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no header at all": b"GET / HTTP/1.1\r\n\r\n",
    "behind an empty line": b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an old version": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "the last": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a field twice": b"GET / HTTP/1.1\r\nX-A: 1\r\nX-A: 2\r\nContent-Type: a/b\r\n\r\n",
    "forwarded": b"GET / HTTP/1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: y\r\n\r\n",
}


def read(data: bytes, address: Any = HERE, number: int = 1) -> tuple[Request, ReadBuffer]:
    """As gunicorn's parser has it."""
    read_buffer = ReadBuffer()
    read_buffer.feed(data)
    request = Request(Config(), read_buffer, address, number)
    read_buffer.take_back()
    return request, read_buffer


def meaning(request: Request) -> dict[str, Any]:
    """All that it says of itself but for the places where its bytes are."""
    kept = {name: value for name, value in vars(request).items() if name not in ("unreader", "cfg")}
    return kept | {"body": request.body.read(), "should_close": request.should_close()}


def plain(environ: dict[str, Any]) -> dict[str, Any]:
    """Those entries that can be compared."""
    odd = ("wsgi.errors", "wsgi.early_hints", "wsgi.input")
    return {name: value for name, value in environ.items() if name not in odd}


@pytest.mark.parametrize("address", [HERE, THERE, "/a.sock"], ids=["near", "far", "unix"])
@pytest.mark.parametrize("data", HEADS.values(), ids=HEADS)
def test_a_request_with_a_known_head_is_as_gunicorn_would_have_parsed_it(
    data: bytes, address: Any, pair: Pair
) -> None:
    write_buffer, cfg = WriteBuffer(pair[0], ByteBudget()), Config()
    head = Head(read(data, address)[0])
    assert head.reusable
    head.open(head.request(ReadBuffer(), address, 1), write_buffer, SERVER, cfg)
    again = address if isinstance(address, str) else (address[0], 2)
    parsed, _ = read(data + b"abc", again, 2)
    _, read_buffer = read(data + b"abc")
    request = head.request(read_buffer, again, 2)
    request.body = head.body(read_buffer, 100).stream()
    _, environ = head.open(request, write_buffer, SERVER, cfg)
    _, expected = wsgi.create(parsed, write_buffer, again, SERVER, cfg)
    expected |= {"wsgi.multithread": True, "gunicorn.socket": pair[0]}
    assert plain(environ) == plain(expected)
    assert environ["wsgi.input"] is request.body
    assert environ["wsgi.early_hints"].__closure__ is not None
    assert meaning(request) == meaning(parsed)


def test_what_one_request_does_to_itself_is_not_seen_by_the_next(pair: Pair) -> None:
    head = Head(read(PLAIN)[0])
    for number in (1, 2, 3):
        request = head.request(ReadBuffer(), HERE, number)
        request.body = BytesIO()
        _, environ = head.open(request, WriteBuffer(pair[0], ByteBudget()), SERVER, Config())
        assert not request.must_close
        assert ("X-HOOK", "1") not in request.headers
        assert "x.seen" not in environ
        request.headers.append(("X-HOOK", "1"))
        request.force_close()
        environ["x.seen"] = True


def test_a_head_is_known_for_the_addresses_it_was_sent_between() -> None:
    known = HeadCache(Config())
    head = Head(read(PLAIN)[0])
    known.learn(PLAIN, HERE, SERVER, head)
    assert known.find(PLAIN, ("127.0.0.1", 77), SERVER) is head
    assert known.find(PLAIN, THERE, SERVER) is None
    assert known.find(PLAIN, HERE, ("127.0.0.1", 8001)) is None
    assert known.find(PLAIN[:-2] + b"X: 1\r\n\r\n", HERE, SERVER) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", id="chunks"),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", id="expects"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_LENGTH + b"\r\n\r\n",
            id="too long to keep",
        ),
    ],
)
def test_what_is_more_than_its_head_is_read_every_time(data: bytes) -> None:
    known = HeadCache(Config())
    known.learn(data, HERE, SERVER, Head(read(data)[0]))
    assert known.find(data, HERE, SERVER) is None


def test_those_that_were_not_used_for_the_longest_time_are_forgotten() -> None:
    known = HeadCache(Config())
    lines = [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(MAX_HEADS + 1)]
    for line in lines:
        known.learn(line, HERE, SERVER, Head(read(line)[0]))
        assert known.find(lines[0], HERE, SERVER)
    assert known.find(lines[1], HERE, SERVER) is None
    assert known.find(lines[2], HERE, SERVER)


def test_where_a_hook_may_change_a_request_every_head_is_read() -> None:
    cfg = Config()
    cfg.set("pre_request", lambda _worker, request: request.headers.append(("X-ID", "another")))
    known = HeadCache(cfg)
    known.learn(PLAIN, HERE, SERVER, Head(read(PLAIN)[0]))
    assert known.find(PLAIN, HERE, SERVER) is None


def test_behind_a_proxy_that_names_the_client_every_head_is_parsed() -> None:
    cfg = Config()
    cfg.set("proxy_protocol", "v1")
    known = HeadCache(cfg)
    known.learn(PLAIN, HERE, SERVER, Head(read(PLAIN)[0]))
    assert known.find(PLAIN, HERE, SERVER) is None
