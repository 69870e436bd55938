"""When gunicorn's parser is let loose: never later than it could tell, and on all that has come."""

from __future__ import annotations

import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from hypothesis import given
from hypothesis import strategies as st

from app.worker.protocol.bodies import OVERHEAD, ChunkedBody, ChunkScanner
from app.worker.protocol.head_cache import Head
from app.worker.protocol.read_buffer import Incomplete, ReadBuffer

CFG = Config()
HEAD = b"POST /a HTTP/1.1\r\nHost: b\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def fed(*parts: bytes) -> ReadBuffer:
    read_buffer = ReadBuffer()
    for part in parts:
        read_buffer.feed(part)
    return read_buffer


def parse(read_buffer: ReadBuffer) -> Request:
    request = Request(CFG, read_buffer, ("127.0.0.1", 1), 1)
    read_buffer.take_back()
    return request


def due_in(read_buffer: ReadBuffer) -> bool:
    return read_buffer.head() is not None or read_buffer.is_refused_already(CFG)


@pytest.mark.parametrize(
    ("data", "due"),
    [
        pytest.param(b"", False, id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: b\r\n", False, id="a head without its end"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", True, id="a whole head"),
        pytest.param(b"GET / HTTP/1.1\nHost", True, id="a bare LF"),
        pytest.param(b"GET /" + b"a" * 4000, False, id="a line that may still end"),
        pytest.param(b"GET /" + b"a" * 5000, True, id="a line that is too long"),
        pytest.param(b"\r\n" + b"a" * 5000, True, id="a long line after an empty one"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 140_000, True, id="a head too long"),
    ],
)
def test_a_head_is_due_when_gunicorn_can_tell_what_it_is(data: bytes, due: bool) -> None:
    assert due_in(fed(data)) is due


@given(st.integers(1, 60))
def test_a_head_in_pieces_is_due_with_its_last_byte_and_not_before(step: int) -> None:
    whole = HEAD + b"X: 1\r\n\r\n"
    read_buffer = ReadBuffer()
    for at in range(0, len(whole), step):
        read_buffer.feed(whole[at : at + step])
        assert due_in(read_buffer) is (at + step >= len(whole))
    request = parse(read_buffer)
    assert (request.method, request.path) == ("POST", "/a")


@given(st.integers(1, 7))
def test_a_head_whose_lines_are_cut_anywhere_is_not_parsed_before_its_end(step: int) -> None:
    lines = HEAD + b"X: 1\r\n" * 9
    read_buffer = ReadBuffer()
    for at in range(0, len(lines), step):
        read_buffer.feed(lines[at : at + step])
        # the last byte may be the half of a line break
        assert not due_in(read_buffer)
    read_buffer.feed(b"Y: 1\nZ")
    assert due_in(read_buffer)


def test_what_is_left_behind_a_request_begins_the_next() -> None:
    read_buffer = fed(HEAD + b"Content-Length: 3\r\n\r\nabc" + HEAD, b"Content-Length: 2\r\n\r\nde")
    first = parse(read_buffer)
    assert first.body.read() == b"abc"
    read_buffer.next_request()
    assert parse(read_buffer).body.read() == b"de"
    read_buffer.next_request()
    assert read_buffer.held == 0


def test_a_head_ends_with_its_empty_line_and_stays() -> None:
    read_buffer = fed(HEAD, b"\r\nabc")
    assert read_buffer.head() == read_buffer.head() == HEAD + b"\r\n"
    assert (read_buffer.take(len(HEAD) + 2), read_buffer.take(3)) == (HEAD + b"\r\n", b"abc")


def test_reading_beyond_what_has_come_says_so_until_nothing_will_follow() -> None:
    read_buffer = fed(HEAD + b"Content-Length: 5\r\n\r\nab")
    request = parse(read_buffer)
    with pytest.raises(Incomplete):
        request.body.read()
    read_buffer.ended = True
    assert read_buffer.chunk() == b""


def test_a_large_body_is_given_out_in_the_pieces_of_a_socket() -> None:
    read_buffer = fed(b"x" * 3_000_000)
    assert len(read_buffer.chunk()) == 8192
    assert len(read_buffer.chunk(100_000)) == 100_000
    assert len(read_buffer.chunk(5_000_000)) == 1024 * 1024


@pytest.mark.parametrize("step", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("body", "done"),
    [
        pytest.param(b"0\r\n\r\n", True, id="empty"),
        pytest.param(b"3\r\nabc\r\n0\r\n\r\n", True, id="one chunk"),
        pytest.param(b"3\r\nabc\r\n0\r\n", False, id="trailers may follow"),
        pytest.param(b"3\r\nabc\r\n0\r\nX: 1\r\n", False, id="more trailers may follow"),
        pytest.param(b"3\r\nabc\r\n0\r\nX: 1\r\n\r\n", True, id="with a trailer"),
        pytest.param(b"3;a=b\r\nabc\r\n0\r\n\r\n", True, id="with an extension"),
        pytest.param(b"5\r\n0\r\n\r\n\r\n", False, id="an end inside a chunk is none"),
        pytest.param(b"3\r\nabc", False, id="a chunk without its end"),
        pytest.param(b"zz\r\n", True, id="no size"),
        pytest.param(b"3\r\nabcX", True, id="no end of a chunk"),
        pytest.param(b"3\nabc\r\n", True, id="a bare LF"),
        pytest.param(b"0\r\nX: 1\n", True, id="a bare LF in a trailer"),
    ],
)
def test_chunks_are_done_with_their_end_or_with_what_cannot_be_one(
    body: bytes, done: bool, step: int
) -> None:
    chunks = ChunkScanner()
    for at in range(0, len(body), step):
        assert not chunks.done or done
        chunks.feed(body[at : at + step])
    assert chunks.done is done


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 400))
def test_any_chunked_body_is_complete_with_its_last_byte_and_read_by_gunicorn(
    parts: list[bytes], step: int
) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    read_buffer = fed(CHUNKED)
    request = parse(read_buffer)
    watch = ChunkedBody(read_buffer, 1 << 20)
    for at in range(0, len(body), step):
        assert not watch.complete
        read_buffer.feed(body[at : at + step])
        watch.feed(body[at : at + step])
    assert watch.complete
    assert request.body.read() == b"".join(parts)


@pytest.mark.parametrize(
    ("sent", "refused"),
    [
        (HEAD + b"Content-Length: 100\r\n\r\n", False),
        (HEAD + b"Content-Length: 101\r\n\r\n", True),
        (CHUNKED + b"64\r\n", False),
        (CHUNKED + b"65\r\n", True),
        (CHUNKED + b"1;" + b"a" * (OVERHEAD + 300), True),
        (CHUNKED + b"1\r\nx\r\n" * 100, False),
    ],
    ids=[
        "as long as may be",
        "longer",
        "chunks",
        "chunks that are longer",
        "nothing but extension",
        "chunks of one byte",
    ],
)
def test_a_body_beyond_the_limit_is_known_before_it_has_come(sent: bytes, refused: bool) -> None:
    read_buffer = fed(sent)
    refusal = Head(parse(read_buffer)).body(read_buffer, 100).refusal
    assert (refusal is not None) is refused
    if refusal is not None:
        assert (refusal.code, refusal.limit) == (413, "max_body_bytes")


@pytest.mark.parametrize(
    ("size", "chunks", "refused"),
    [
        pytest.param(1, 13_107, False, id="a small body in chunks of one byte"),
        pytest.param(1, 13_300, True, id="more chunks of one byte than that"),
        pytest.param(120, 100_000, False, id="a large body in chunks of 120 bytes"),
        pytest.param(40, 100_000, True, id="a large body in chunks of 40 bytes"),
    ],
)
def test_a_body_may_have_only_so_many_chunks(size: int, chunks: int, refused: bool) -> None:
    watch = ChunkedBody(ReadBuffer(), 1 << 30)
    for _ in range(chunks):
        watch.feed(b"%x\r\n" % size + b"x" * size + b"\r\n")
    assert (watch.refusal is not None) is refused


@pytest.mark.parametrize("step", [100, 8192, 1 << 20])
def test_what_a_reader_has_read_of_a_large_chunked_body_is_not_kept(step: int) -> None:
    sent = bytes(range(256)) * 4096  # 1 MiB
    body = b"".join(b"100000\r\n%s\r\n" % sent for _ in range(8)) + b"0\r\n\r\n"
    read_buffer = fed(CHUNKED, body, b"the next request")
    request = parse(read_buffer)
    read_buffer.ended = True  # as after `take_body`
    received = bytearray()
    while part := request.body.read(step):
        received += part
    assert received == sent * 8
    assert read_buffer.size < 4 << 20
    read_buffer.next_request()
    assert read_buffer.rest == b"the next request"
