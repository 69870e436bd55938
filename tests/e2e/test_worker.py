"""Brim's own gunicorn worker, as a client meets it; where it matters, beside gthread."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.e2e.server import BIN, ROOT, Server, free_port

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0
Serve = Callable[..., Server]
APP = "tests.e2e.hosted_app:app"


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start gunicorn with the app of `hosted_app`, with more options."""
    servers: list[Server] = []

    def one(*options: str, **env: str) -> Server:
        directory = tmp_path_factory.mktemp("hosted")
        port = free_port()
        command = [str(BIN / "gunicorn"), "-c", str(ROOT / "tests/e2e/hosted_app.py"), APP]
        command += ["--bind", f"127.0.0.1:{port}", "--graceful-timeout", "10", *options]
        env = {"GATE": str(directory / "gate"), "PYTHONPATH": str(ROOT)} | env
        server = Server(command, port, directory / "log", env)
        servers.append(server)
        if "--certfile" not in options:
            server.until(lambda: get(server, "/inline").status_code == 200, "a first answer")
        return server

    yield one
    for server in servers:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def server(launch: Serve) -> Server:
    """Leave it as you found it."""
    return launch()


@pytest.fixture(scope="module")
def gthread(launch: Serve) -> Server:
    """The same app under gunicorn's own worker."""
    return launch(WORKER="gthread")


def get(server: Server, path: str, **more: object) -> requests.Response:
    return requests.get(server.url + path, timeout=PATIENCE_S, **more)  # type: ignore[arg-type]


_OPEN: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _hang_up() -> Iterator[None]:
    """Close what a test has opened, however it ended."""
    yield
    while _OPEN:
        _OPEN.pop().close()


def connect(server: Server) -> socket.socket:
    _OPEN.append(socket.create_connection(("127.0.0.1", server.port), PATIENCE_S))
    return _OPEN[-1]


def to_the_end(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    said = b""
    try:
        while part := client.recv(1 << 20):
            said += part
    except ConnectionResetError:
        pass
    return said


def talk(server: Server, *sent: bytes) -> bytes:
    with connect(server) as client:
        for part in sent:
            client.sendall(part)
        return to_the_end(client)


def until_contains(client: socket.socket, *wanted: bytes) -> bytes:
    """Read until all of it has come."""
    said = b""
    while not all(part in said for part in wanted):
        part = client.recv(1 << 20)
        assert part, said
        said += part
    return said


def request(path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: brim", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


CLOSE = "Connection: close"


# --- what comes in -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/inline", "/pool"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_request_may_arrive_in_pieces_of_any_size(server: Server, path: str, step: int) -> None:
    whole = request(path, b"x" * 300, CLOSE)
    parts = [whole[at : at + step] for at in range(0, len(whole), step)]
    said = talk(server, *parts)
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.endswith(path.encode() + b" " + b"x" * 300)


CHUNKED = b"POST /inline HTTP/1.1\r\nHost: brim\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"0\r\n\r\n", id="empty"),
        pytest.param(b"5\r\nhello\r\n0\r\n\r\n", id="one"),
        pytest.param(
            b"2;a=b\r\nhe\r\n003\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n", id="extension, trailer"
        ),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_chunked_bodies_end_where_they_say(server: Server, body: bytes, step: int) -> None:
    then = request("/inline/next", b"", CLOSE)
    parts = [(CHUNKED + body)[at : at + step] for at in range(0, len(CHUNKED + body), step)]
    first, second = (part.rpartition(b"\r\n\r\n")[2] for part in split(talk(server, *parts, then)))
    assert first == (b"/inline hello" if b"llo" in body else b"/inline ")
    assert second == b"/inline/next "


def split(said: bytes) -> list[bytes]:
    return [b"HTTP/1.1 " + part for part in said.split(b"HTTP/1.1 ")[1:]]


def test_pipelined_requests_are_answered_in_order_wherever_they_run(server: Server) -> None:
    paths = ["/inline/0", "/pool/1", "/inline/2", "/pool/3", "/stream", "/inline/5", "/environ/6"]
    sent = b"".join(request(path, b"b" * 10) for path in paths) + request("/inline/9", b"", CLOSE)
    answers = split(talk(server, sent))
    assert len(answers) == 8
    assert [answers[at].rpartition(b"\r\n\r\n")[2].split()[0] for at in (0, 1, 2, 3, 5, 7)] == [
        b"/inline/0",
        b"/pool/1",
        b"/inline/2",
        b"/pool/3",
        b"/inline/5",
        b"/inline/9",
    ]


def test_a_thousand_pipelined_requests_are_answered(server: Server) -> None:
    sent = request("/inline") * 1000 + request("/inline", b"last", CLOSE)
    assert len(split(talk(server, sent))) == 1001


def test_a_client_is_asked_for_its_body_when_it_waits_for_that(server: Server) -> None:
    head, _, _ = request("/inline", b"body!", "Expect: 100-continue", CLOSE).partition(b"body!")
    with connect(server) as client:
        client.sendall(head)
        assert until_contains(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body!")
        said = to_the_end(client)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert said.endswith(b"/inline body!")


def test_a_body_that_is_too_long_is_not_asked_for(server: Server) -> None:
    head = request("/unread", b"", CLOSE, "Expect: 100-continue").replace(b"h: 0", b"h: 999999")
    said = talk(server, head)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert said.endswith(b"not read")


def test_a_body_that_is_too_long_does_not_keep_its_client_from_the_answer(server: Server) -> None:
    said = talk(server, request("/unread", b"x" * 3_000_000))
    assert b"Connection: close" in said
    assert said.endswith(b"not read")


def test_a_body_that_is_not_read_is_skipped(server: Server) -> None:
    said = talk(
        server, request("/unread", b"GET / HTTP/1.1\r\n\r\n"), request("/inline", b"", CLOSE)
    )
    assert [answer.rpartition(b"\r\n\r\n")[2] for answer in split(said)] == [
        b"not read",
        b"/inline ",
    ]


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        (b"GET /inline HTTP/1.0\r\n", False),
        (b"GET /inline HTTP/1.0\r\nConnection: keep-alive\r\n", True),
        (b"GET /inline HTTP/1.1\r\nHost: b\r\n", True),
        (b"GET /inline HTTP/1.1\r\nHost: b\r\nConnection: close\r\n", False),
    ],
)
def test_a_connection_stays_or_ends_as_its_client_wants(
    server: Server, head: bytes, stays: bool
) -> None:
    with connect(server) as client:
        client.sendall(head + b"\r\n")
        said = until_contains(client, b"/inline ")
        assert (b"Connection: keep-alive" in said) is stays
        if stays:
            client.sendall(request("/inline", b"again", CLOSE))
        assert (b"again" in to_the_end(client)) is stays


# --- refused as gunicorn refuses it --------------------------------------------------------------

HEAD = b"POST /inline HTTP/1.1\r\nHost: b\r\n"
BAD = {
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two equal lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a length and chunks": HEAD
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length with a sign": HEAD + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": HEAD + b"Content-Length: -3\r\n\r\nabc",
    "a length of two numbers": HEAD + b"Content-Length: 3, 3\r\n\r\nabc",
    "no number": HEAD + b"Content-Length: abc\r\n\r\nabc",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked, not last": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare LF in the head": b"GET /inline HTTP/1.1\nHost: b\n\n",
    "a bare LF after a header": HEAD + b"X: 1\nY: 2\r\n\r\n",
    "a bare CR in a header": HEAD + b"X: 1\rY: 2\r\n\r\n",
    "a NUL in a header": HEAD + b"X: 1\0\r\n\r\n",
    "a space before the colon": HEAD + b"Content-Length : 3\r\n\r\nabc",
    "a folded header": HEAD + b"X: 1\r\n 2\r\n\r\n",
    "an underscore": HEAD + b"Content_Length: 3\r\n\r\nabc",
    "no colon": HEAD + b"X\r\n\r\n",
    "two hosts": HEAD + b"Host: c\r\n\r\n",
    "no version": b"GET /inline\r\n\r\n",
    "HTTP/2": b"GET /inline HTTP/2.0\r\nHost: b\r\n\r\n",
    "HTTP/3.1": b"GET /inline HTTP/3.1\r\nHost: b\r\n\r\n",
    "a lower-case method": b"get /inline HTTP/1.1\r\nHost: b\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: b\r\n\r\n",
    "only empty lines": b"\r\n\r\n\r\n",
    "an empty line first": b"\r\nGET /inline HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n",
    "another expectation": HEAD + b"Expect: tea\r\n\r\n",
    "a line too long": b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: b\r\n\r\n",
    "a line that does not end": b"GET /" + b"a" * 9000,
    "a header too long": HEAD + b"X: " + b"a" * 9000 + b"\r\n\r\n",
    "too many headers": HEAD + b"X: 1\r\n" * 200 + b"\r\n",
    "a chunk of no number": CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    "a chunk with a sign": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "a chunk with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk without its end": CHUNKED + b"3\r\nabcXX",
    "a bare LF after a size": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "a bare CR in an extension": CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "a bad extension": CHUNKED + b"3;\x01\r\nabc\r\n0\r\n\r\n",
    "a bad trailer": CHUNKED + b"0\r\nContent-Length: 3\r\n\r\n",
    "a bare LF in a trailer": CHUNKED + b"0\r\nX: 1\n\r\n",
    "not HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD.keys())
def test_what_is_no_request_is_refused_as_gthread_refuses_it(
    server: Server, gthread: Server, sent: bytes
) -> None:
    ours, theirs = talk_once(server, sent), talk_once(gthread, sent)
    assert status(ours) == status(theirs)
    assert len(split(ours)) == 1
    assert b"smuggled" not in ours


def talk_once(server: Server, sent: bytes) -> bytes:
    """Say this and what would be smuggled behind it, and nothing more."""
    with connect(server) as client:
        client.sendall(sent)
        if b" HTTP/1.1\r\nHost: b\r\nConnection: close" not in sent:
            client.shutdown(socket.SHUT_WR)
        return to_the_end(client)


def status(said: bytes) -> bytes:
    return said.partition(b"\r\n")[0]


def test_the_application_sees_the_same_environ_as_under_gthread(
    server: Server, gthread: Server
) -> None:
    def environ(one: Server) -> str:
        headers = {"X-Twice": "1", "User-Agent": "test", "Content-Type": "text/x"}
        said = requests.post(f"{one.url}/environ?a=%20b", data=b"12", headers=headers, timeout=10)
        same = said.text.replace("'brim.exchange', ", "").replace(str(one.port), "PORT")
        return same.partition("REMOTE_PORT")[2][-2000:]

    assert (
        environ(server).partition("REQUEST_METHOD")[2]
        == (environ(gthread).partition("REQUEST_METHOD")[2])
    )


# --- what goes out -------------------------------------------------------------------------------


def test_an_answer_of_unknown_length_is_chunked(server: Server) -> None:
    said = get(server, "/stream")
    assert said.headers["Transfer-Encoding"] == "chunked"
    assert said.text == "".join(f"{number}," for number in range(10_000))


def test_an_answer_of_unknown_length_to_http_1_0_ends_with_the_connection(server: Server) -> None:
    said = talk(server, b"GET /stream HTTP/1.0\r\n\r\n")
    assert said.endswith(b",9998,9999,")
    assert b"chunked" not in said


def test_a_file_is_sent_whole(server: Server) -> None:
    assert get(server, "/file").content == (ROOT / "tests/e2e/hosted_app.py").read_bytes()


def test_head_has_no_body(server: Server) -> None:
    said = talk(server, b"HEAD /inline HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 8" in said
    assert said.endswith(b"\r\n\r\n")


def test_a_failing_application_is_a_500_and_a_trace_in_the_log(server: Server) -> None:
    assert get(server, "/fail").status_code == 500
    assert "RuntimeError: told to" in server.log


STAGES = {
    # what happens: status, the end of what is sent, whether the next request is answered
    "late": (b"200 OK", b"one, two", True),
    "write": (b"200 OK", b"written, one, two", True),
    "call": (b"500 Internal Server Error", b"</html>\n", False),
    "twice": (b"500 Internal Server Error", b"</html>\n", False),
    "never": (b"500 Internal Server Error", b"</html>\n", False),
    "first": (b"500 Internal Server Error", b"</html>\n", False),
    "later": (b"200 OK", b"one, ", False),
    "close": (b"200 OK", b"one, two", False),
    "short": (b"200 OK", b"one, two", False),
}
"""What `hosted_app.Odd` does. gthread differs in "short": it goes on, so that the beginning of the
next answer is taken for the rest of this one."""


@pytest.mark.parametrize("how", STAGES)
def test_an_application_may_fail_at_any_stage_and_is_closed_once(
    server: Server, gthread: Server, how: str
) -> None:
    expected_status, end, goes_on = STAGES[how]
    for one in (server, gthread):
        said = talk(one, request(f"/odd/{how}"), request("/inline", b"next", CLOSE))
        answers = split(said)
        assert status(answers[0]).endswith(expected_status)
        if one is server or how != "short":
            assert (len(answers) == 2) is goes_on
            head, _, body = answers[0].partition(b"\r\n\r\n")
            assert (unchunked(body) if b"chunked" in head else body).endswith(end)
        closed = how not in ("call", "twice")
        one.until(partial(has_closed, one, how, closed), "the end")


def has_closed(server: Server, how: str, times: int) -> bool:
    return server.log.count(f"closed {how}\n") == times


def unchunked(body: bytes) -> bytes:
    """What the chunks carry, whether the last is there or not."""
    plain = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        plain += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return plain


def test_views_that_end_their_thread_leave_enough_of_them(server: Server) -> None:
    for _ in range(5):  # of 4 threads
        assert get(server, "/odd/exit").status_code == 500
    assert get(server, "/pool").text == "/pool "


def test_hooks_and_the_access_log_hear_of_every_request(launch: Serve) -> None:
    server = launch(HOOKS="yes")
    get(server, "/inline/heard")
    server.until(lambda: "hook after /inline/heard 200 OK" in server.log, "the hook")
    assert "hook before /inline/heard" in server.log
    assert "access GET /inline/heard 200" in server.log
    numbers = talk(server, request("/number") * 2, request("/number", b"", CLOSE))
    assert [said[-1:] for said in split(numbers)] == [b"1", b"2", b"3"]


# --- others beside it ----------------------------------------------------------------------------


def test_views_that_block_and_clients_that_are_slow_do_not_stop_the_others(launch: Serve) -> None:
    server = launch("--worker-connections", "2000")
    blocked = [connect(server) for _ in range(8)]  # of 4 threads
    for client in blocked:
        client.sendall(request("/block"))
    idle = [connect(server) for _ in range(1000)]
    for client in idle[:100]:
        client.sendall(b"POST /inline HTTP/1.1\r\nHost:")
    for client in idle[100:200]:
        client.sendall(request("/inline", b"12345")[:-1])
    readers = idle[200:240]
    for client in readers:
        client.sendall(request("/inline/large"))
    for number in range(50):
        assert get(server, f"/inline/{number}").text == f"/inline/{number} "
    Path(server.log_directory / "gate").touch()
    for client in blocked:
        assert b"/block " in until_contains(client, b"/block ")
    for client in readers:
        until_contains(client, b"/inline/large ")
    for client in idle[100:200]:
        client.sendall(b"5")
        until_contains(client, b"/inline 12345")
    for client in [*blocked, *idle]:
        client.close()


def test_a_client_that_never_reads_holds_no_thread(launch: Serve) -> None:
    server = launch()
    readers = [connect(server) for _ in range(8)]  # of 4 threads
    for client in readers:
        client.sendall(request("/large"))
    assert get(server, "/pool").text == "/pool "
    for client in readers:
        said = 0
        while said < 5_000_000:
            said += len(client.recv(1 << 20))
        client.close()


def test_a_client_may_vanish_at_any_stage_and_leaves_nothing_behind(server: Server) -> None:
    worker = get(server, "/pid").text
    files, traces = open_files(worker), server.log.count("Traceback")
    stages = [b"", b"PO", request("/inline", b"12345")[:-1], request("/pool"), request("/large")]
    stages += [CHUNKED, CHUNKED + b"5\r\nab", request("/stream"), request("/inline") + b"PO"]
    for sent in stages:
        for reset in (True, False):
            client = connect(server)
            client.sendall(sent)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
    server.until(lambda: open_files(worker) <= files, "the end of all connections")
    assert server.log.count("Traceback") == traces


def open_files(pid: str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("path", ["/inline", "/pool", "/large"])
def test_a_client_that_has_said_all_is_answered(server: Server, gthread: Server, path: str) -> None:
    for one in (server, gthread):
        with connect(one) as client:
            client.sendall(request(path))
            client.shutdown(socket.SHUT_WR)
            assert status(to_the_end(client)) == b"HTTP/1.1 200 OK"


def test_a_process_without_free_files_serves_its_clients_and_then_the_others(
    launch: Serve,
) -> None:
    server = launch(FILES="64")
    clients = [connect(server) for _ in range(100)]
    for client in clients:
        client.sendall(request("/inline", b"", CLOSE))
    server.until(lambda: "no more connections for a moment" in server.log, "the warning")
    for client in clients:
        assert to_the_end(client).endswith(b"/inline ")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(request("/inline"), id="idle"),
        pytest.param(b"", id="silent"),
        pytest.param(request("/inline")[:20], id="half a head"),
        pytest.param(request("/inline", b"body")[:-1], id="half a body"),
    ],
)
def test_where_connections_have_taken_all_files_a_new_one_takes_an_old_ones_place(
    launch: Serve, sent: bytes
) -> None:
    server = launch(FILES="64")
    clients = [connect(server) for _ in range(80)]
    for client in clients:
        client.sendall(sent)
    # a probe, on a connection of its own
    assert get(server, "/inline").text == "/inline "


def test_a_unix_socket_is_served(launch: Serve, tmp_path: Path) -> None:
    server = launch("--bind", f"unix:{tmp_path}/socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(f"{tmp_path}/socket")
        client.sendall(request("/inline", b"1") * 2 + request("/pool", b"3", CLOSE))
        assert len(split(to_the_end(client))) == 3
    assert get(server, "/inline").status_code == 200


def test_where_connections_have_taken_all_places_a_new_one_takes_an_old_ones(
    launch: Serve,
) -> None:
    server = launch("--worker-connections", "20")
    clients = [connect(server) for _ in range(20)]
    for client in clients:  # one after the other
        client.sendall(request("/inline"))
        assert until_contains(client, b"/inline ")
    assert get(server, "/inline").text == "/inline "
    assert to_the_end(clients[0]) == b""
    clients[-1].sendall(request("/inline", b"", CLOSE))
    assert to_the_end(clients[-1]).endswith(b"/inline ")


def test_an_idle_connection_costs_little(launch: Serve) -> None:
    server = launch("--worker-connections", "3000")
    worker = int(get(server, "/pid").text)
    before = resident(worker)
    clients = [connect(server) for _ in range(2000)]
    for client in clients:
        client.sendall(request("/inline"))
        until_contains(client, b"/inline ")
    assert (resident(worker) - before) / len(clients) < 20_000
    for client in clients:
        client.close()


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# --- its life ------------------------------------------------------------------------------------


def test_sigterm_lets_requests_finish_and_answers_what_an_idle_client_sends(launch: Serve) -> None:
    server = launch("--graceful-timeout", "100")
    idle, busy = connect(server), connect(server)
    idle.sendall(request("/inline"))
    until_contains(idle, b"/inline ")
    busy.sendall(request("/block"))
    server.until(lambda: "/block waits" in server.log, "the request")
    server.process.send_signal(signal.SIGTERM)
    said = b""
    while b"Connection: close" not in said:  # until the signal has arrived
        idle.sendall(request("/inline", b"more"))
        said = until_contains(idle, b"/inline more")
    assert to_the_end(idle) == b""
    Path(server.log_directory / "gate").touch()
    assert to_the_end(busy).endswith(b"/block ")
    assert server.process.wait(PATIENCE_S) == 0


def test_sigquit_ends_it_at_once(launch: Serve) -> None:
    server = launch()
    busy = connect(server)
    busy.sendall(request("/block"))
    server.until(lambda: "/block waits" in server.log, "the request")
    assert server.stop(signal.SIGQUIT) == 0
    assert to_the_end(busy) == b""


def test_sighup_replaces_the_worker_when_it_has_answered(launch: Serve) -> None:
    server = launch()
    first = get(server, "/pid").text
    busy = connect(server)
    busy.sendall(request("/block", b"", CLOSE))
    server.until(lambda: "/block waits" in server.log, "the request")
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: get(server, "/pid").text != first, "another worker")
    Path(server.log_directory / "gate").touch()
    assert to_the_end(busy).endswith(b"/block ")


def test_after_sigusr1_it_writes_into_the_log_that_is_there_then(
    launch: Serve, tmp_path: Path
) -> None:
    log = tmp_path / "errors"
    server = launch("--error-logfile", str(log))
    get(server, "/odd/errors")
    assert "a word for the log" in log.read_text(encoding="utf-8")
    log.rename(tmp_path / "old")
    os.kill(int(get(server, "/pid").text), signal.SIGUSR1)
    server.until(log.exists, "a new log")
    assert get(server, "/odd/errors").status_code == 200
    assert "a word for the log" in log.read_text(encoding="utf-8")


def test_after_max_requests_another_worker_takes_over(launch: Serve) -> None:
    server = launch("--max-requests", "5")
    pids = set()

    def enough() -> bool:
        with contextlib.suppress(requests.ConnectionError):  # between two workers
            pids.add(get(server, "/pid").text)
        return len(pids) > 2

    server.until(enough, "a third worker")


def test_max_requests_lets_those_finish_that_run(launch: Serve) -> None:
    server = launch("--max-requests", "5", "--graceful-timeout", "100")
    first = get(server, "/pid").text
    busy = connect(server)
    busy.sendall(request("/block"))
    server.until(lambda: "/block waits" in server.log, "the request")
    said = talk(server, request("/inline") * 5)
    assert b"Connection: close" in split(said)[-1]
    Path(server.log_directory / "gate").touch()
    assert to_the_end(busy).endswith(b"/block ")

    def another() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return get(server, "/pid").text != first
        return False

    server.until(another, "another worker")


def test_a_worker_that_hangs_is_replaced(launch: Serve) -> None:
    server = launch("--timeout", "2")
    first = get(server, "/pid").text
    with connect(server) as client:
        client.sendall(request("/hang"))
        server.until(lambda: "WORKER TIMEOUT" in server.log, "the timeout")
    server.until(lambda: get(server, "/pid").text != first, "another worker")


def test_no_more_connections_than_allowed_are_taken(launch: Serve) -> None:
    server = launch("--worker-connections", "3")
    clients = [connect(server) for _ in range(3)]
    for client in clients:  # an idle one would be closed for another
        client.sendall(request("/inline") + request("/inline", b"body")[:-1])
        until_contains(client, b"/inline ")
    late = connect(server)
    late.sendall(request("/inline", b"late", CLOSE))
    late.settimeout(0.3)
    with pytest.raises(TimeoutError):
        late.recv(1)
    late.settimeout(PATIENCE_S)
    clients.pop().close()
    assert to_the_end(late).endswith(b"/inline late")


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(launch: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    server = launch("--certfile", str(certificate), "--keyfile", str(key))
    server.until(lambda: secure(server, request("/inline", b"", CLOSE)) != b"", "a first answer")
    return server


def secure(server: Server, sent: bytes) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with connect(server) as plain, context.wrap_socket(plain) as client:
            client.sendall(sent)
            return to_the_end(client)
    except ConnectionRefusedError:
        return b""


def test_tls_is_spoken(tls: Server) -> None:
    said = secure(tls, request("/inline", b"x" * 90_000) + request("/pool", b"y" * 50_000, CLOSE))
    first, second = split(said)
    assert first.endswith(b"/inline " + b"x" * 90_000)
    assert second.endswith(b"/pool " + b"y" * 50_000)
    assert secure(tls, request("/large", b"", CLOSE)).endswith(b"7" * 5_000_000)


def test_requests_in_many_records_are_answered_in_order_wherever_they_run(tls: Server) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    paths = [f"/{where}/{number}" for number in range(10) for where in ("pool", "inline")]
    with connect(tls) as plain, context.wrap_socket(plain) as client:
        for path in paths:
            client.sendall(request(path, b"b" * 20_000)[:-7])
            client.sendall(b"b" * 7)
        client.sendall(request("/pool/last", b"", CLOSE))
        answers = split(to_the_end(client))
    said = [answer.rpartition(b"\r\n\r\n")[2].split(b" ")[0].decode() for answer in answers]
    assert said == [*paths, "/pool/last"]


def test_a_client_without_tls_at_a_tls_port_disturbs_no_other(tls: Server) -> None:
    silent = connect(tls)
    assert b"200 OK" not in talk(tls, request("/inline", b"", CLOSE))
    assert b"200 OK" in secure(tls, request("/inline", b"", CLOSE))
    silent.close()


def test_threads_are_only_those_that_views_need(server: Server) -> None:
    worker = int(get(server, "/pid").text)
    assert len(list(Path(f"/proc/{worker}/task").iterdir())) <= 1 + 4
