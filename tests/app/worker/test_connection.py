"""One connection over a socket pair, led step by step: no gunicorn, no sleep, a clock by hand."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Request, Response
from gunicorn.config import Config
from gunicorn.workers.base import Worker

from app.http.responses.deferred import PendingAnswer
from app.http.responses.prepared import PreparedResponse
from app.worker.calls.job import Job
from app.worker.calls.refusal import Refusal
from app.worker.connection import Connection
from app.worker.limits.bounds import Bounds
from app.worker.limits.budget import ByteBudget
from app.worker.limits.limits import Limits
from app.worker.limits.states import LINGER_S, State
from app.worker.loop import Loop
from app.worker.protocol.cycle import App
from app.worker.protocol.head_cache import HeadCache
from app.worker.protocol.write_buffer import WriteBuffer
from app.worker.suspension import EXCHANGE, Place
from app.worker.transport import ASK_AFTER_S
from app.worker.worker import BrimWorker
from engine.testing import FakeClock
from tests.app.conftest import PATIENCE_S
from tests.app.worker.conftest import FakePending, LaneByHand, Pair

LIMITS = Limits(
    max_head_bytes=5000,
    max_body_bytes=300_000,
    head_timeout_s=10,
    body_timeout_s=30,
    send_timeout_s=20,
    min_bytes_per_s=1000,
)
BUDGET = 400_000
"""Of which large bodies may use 350,000."""


class Log:
    """gunicorn's log, as far as it is needed."""

    def __init__(self) -> None:
        self.accesses: list[str] = []
        self.log = logging.getLogger("test")
        self.debug, self.warning, self.exception = self.log.debug, self.log.info, self.log.info

    def access(self, response: Any, _request: Any, environ: Any, _time: Any) -> None:
        self.accesses.append(f"{environ.get('PATH_INFO')} {response.status}")


class Lanes:
    """A pool of one lane."""

    def __init__(self, lane: LaneByHand) -> None:
        self.lane = lane

    def submit(self, _lane: str, job: Job, *, first: bool = False) -> Refusal | None:
        return self.lane.submit(job, first=first)


def exits(_worker: Any, _request: Any) -> None:
    raise SystemExit


def exits_after(_worker: Any, _request: Any, _environ: Any, _response: Any) -> None:
    raise SystemExit


def short(start_response: Any, status: str = "200 OK") -> Iterable[bytes]:
    start_response(status, [("Content-Length", "5")])
    return [b""]


def fails(start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    raise ZeroDivisionError


def exits_late(start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"a part"
    raise SystemExit


def large(start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"x" * 3_000_000 + b"end"]


ODD: dict[str, Callable[[Any], Iterable[bytes]]] = {
    "/inline/short": short,
    "/inline/large": large,
    "/inline/none": lambda start_response: short(start_response, "304 Not Modified"),
    "/inline/fails": fails,
    "/exit": lambda _start_response: sys.exit(),
    "/exit/late": exits_late,
}


class Host:
    """A worker without gunicorn around it. Paths that begin with /inline run at once."""

    quitting = False
    refuse: Any = None

    def __init__(self, clock: FakeClock) -> None:
        self.cfg, self.log, self.loop = Config(), Log(), Loop(clock)
        self.lane = LaneByHand(clock)
        self.pool = Lanes(self.lane)
        self.timeout_s = math.inf
        self.keepalive_s = 75.0
        self.hooked: list[str | None] = []
        self.left: list[int] = []
        self.cfg.set("pre_request", lambda _host, request: self.hooked.append(request.path))
        self.cfg.set(
            "post_request",
            lambda _host, _request, _environ, response: self.hooked.append(
                response and response.status
            ),
        )
        self.exceeded: list[str] = []
        self.bounds = Bounds(LIMITS, ByteBudget(BUDGET), self.exceeded.append)
        self.budget = self.bounds.budget
        self.head_cache = HeadCache(self.cfg)
        self.suspended: dict[Any, Callable[[], object]] = {}
        self.requests = 0
        self.pending: list[FakePending] = []
        self.clock = clock
        self.ended: list[Connection] = []

    def handle_error(self, *said: Any) -> None:
        if self.refuse is None:
            Worker.handle_error(self, *said[:4])
        else:
            BrimWorker.handle_error(self, *said)  # type: ignore[arg-type]

    def place(self, environ: Any) -> Place:
        inline = str(environ["PATH_INFO"]).startswith("/inline")
        return Place("by hand", inline, self.timeout_s)

    def refusal(self, refusal: Refusal) -> App:
        def refuse(_environ: Any, start_response: Any) -> list[bytes]:
            body = refusal.reason.name.encode()
            start_response("503 Refused", [("Content-Length", str(len(body)))])
            return [body]

        return refuse

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/limited":
            exchange = environ[EXCHANGE]
            exchange.limit(exchange.read_at + 1.0)
            self.hang()
        return self.answer(environ, start_response)

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, body = environ["PATH_INFO"], b""
        with contextlib.suppress(Exception if path == "/inline/swallow" else ()):
            body = body if path == "/unread" else environ["wsgi.input"].read()
        if path in ("/inline/parts", "/parts"):
            start_response("200 OK", [])
            return (b"x" * 40_000 for _ in range(100))
        if path == "/inline/copied":
            return self.later()(environ.copy(), start_response)
        if path == "/inline/forgotten":
            self.later()(environ, start_response)
            return Response("mine")(environ, start_response)
        if (odd := path if path in ODD else path.removeprefix("/inline")) in ODD:
            return ODD[odd](start_response)
        if path in ("/inline/later", "/later"):
            return self.later(inline=path != "/later")(environ, start_response)
        if path == "/inline/wrapped":
            return (part.upper() for part in self.later()(environ, start_response))
        if path == "/inline/added":
            return self.later()(
                environ,
                lambda status, headers: start_response(status, [*headers, ("X-Added", "1")]),
            )
        if path == "/inline/lost":
            self.later()(environ, start_response)
            raise ZeroDivisionError
        return Response(path.encode() + b" " + body)(environ, start_response)

    def hang(self) -> None:
        """A test replaces it."""

    def later(self, *, inline: bool = True) -> PendingAnswer:
        pending = FakePending(self.clock() + 30)
        self.pending.append(pending)

        def finish() -> PreparedResponse:
            text = f"answer {pending.outcome}".encode()
            if isinstance(pending.outcome, str):
                return PreparedResponse(text, "text/plain", "504 GATEWAY TIMEOUT")
            return PreparedResponse(text, "text/plain")

        return PendingAnswer(pending, finish, lambda: self.left.append(1), inline=inline)

    def count_request(self) -> bool:
        self.requests += 1
        return False

    def results_ready(self, results: list[FakePending]) -> None:
        self.loop.call_soon([self.suspended.pop(result) for result in results])

    def closed(self, connection: Connection) -> None:
        self.ended.append(connection)


class Rig(SimpleNamespace):
    """A connection, the client's end, and the host."""

    connection: Connection
    client: socket.socket
    host: Host

    def tick(self) -> None:
        """Handle what is there."""
        for _ in range(5):
            self.host.loop.run_once(0)

    def send(self, data: bytes) -> None:
        for at in range(0, len(data) or 1, 50_000):  # what a socket takes without a reader
            self.client.sendall(data[at : at + 50_000])
            self.tick()

    def received(self) -> bytes:
        self.client.setblocking(False)
        try:
            return self.client.recv(1 << 20)
        except BlockingIOError:
            return b"nothing yet"

    def wait(self, seconds: float) -> None:
        self.host.clock.advance(seconds)
        self.tick()

    def run_pool(self) -> None:
        """What was submitted runs, and what comes of it."""
        while self.host.lane.calls:
            self.host.lane.make()
            self.tick()

    @property
    def closed(self) -> bool:
        return self.host.ended == [self.connection] and self.connection.state is State.CLOSED


@pytest.fixture
def make_rig() -> Iterator[Callable[[Pair], Rig]]:
    rigs: list[Rig] = []

    def make(pair: Pair) -> Rig:
        ours, theirs = pair
        ours.setblocking(False)
        host, client = Host(FakeClock()), ("127.0.0.1", 1)
        connection = Connection(host, ours, client, ("127.0.0.1", 2))  # type: ignore[arg-type]
        rigs.append(Rig(connection=connection, client=theirs, host=host))
        rigs[-1].tick()
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.connection.close()
        rig.host.loop.close()


@pytest.fixture
def rig(pair: Pair, make_rig: Callable[[Pair], Rig]) -> Rig:
    return make_rig(pair)


def request(path: str, body: bytes = b"", more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def test_an_inline_request_is_answered_where_it_is_read(rig: Rig) -> None:
    rig.send(request("/inline", b"body"))
    assert rig.received().endswith(b"/inline body")
    assert rig.host.lane.calls == 0
    assert rig.host.log.accesses == ["/inline 200 OK"]
    rig.send(request("/inline", b"again"))
    assert rig.received().endswith(b"/inline again")


def test_any_other_runs_in_the_pool_and_nothing_is_read_meanwhile(rig: Rig) -> None:
    rig.send(request("/slow") + request("/inline"))
    assert rig.connection.state is State.RUNNING
    assert rig.host.requests == 1
    while rig.host.lane.calls:
        rig.host.lane.make()
        rig.tick()
    said = rig.received()
    assert said.index(b"/slow ") < said.index(b"/inline ")


def deliver(*results: FakePending) -> None:
    """As the engine does, on a thread of its own."""

    def run() -> None:
        for result in results:
            result.set([7])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)


def test_a_suspended_request_is_answered_when_its_result_is_ready(rig: Rig) -> None:
    rig.send(request("/inline/later") + request("/inline"))
    assert rig.connection.state is State.SUSPENDED
    assert rig.received() == b"nothing yet"
    assert rig.host.log.accesses == []
    deliver(*rig.host.pending)
    rig.tick()
    said = rig.received()
    assert said.index(b"answer [7]") < said.index(b"/inline ")
    assert rig.host.suspended == {}


def test_a_middleware_around_the_answer_blocks_no_thread(rig: Rig) -> None:
    rig.send(request("/inline/wrapped"))
    assert rig.connection.state is State.SUSPENDED
    deliver(*rig.host.pending)
    rig.tick()
    # how long a middleware takes is not known
    assert rig.received() == b"nothing yet"
    rig.run_pool()
    assert rig.received().endswith(b"ANSWER [7]")


def test_a_header_that_a_middleware_adds_is_sent(rig: Rig) -> None:
    rig.send(request("/inline/added"))
    deliver(*rig.host.pending)
    rig.tick()
    head, _, body = rig.received().partition(b"\r\n\r\n")
    assert b"X-Added: 1" in head.split(b"\r\n")
    assert body == b"answer [7]"


def test_the_result_of_an_answer_that_a_middleware_loses_is_cancelled(rig: Rig) -> None:
    rig.send(request("/inline/lost"))
    assert rig.received().startswith(b"HTTP/1.1 500 ")
    assert rig.host.pending[0].outcome == "cancelled"
    assert rig.host.suspended == {}


def test_a_result_that_is_not_set_expires_at_its_deadline(rig: Rig) -> None:
    rig.send(request("/inline/later"))
    rig.wait(29)
    assert rig.received() == b"nothing yet"
    rig.wait(2)
    assert rig.received().endswith(b"answer expired")
    assert rig.host.suspended == {}


def test_a_client_that_closes_its_connection_cancels_its_result(rig: Rig) -> None:
    rig.send(request("/inline/later"))
    rig.client.close()
    rig.tick()
    assert rig.host.pending[0].outcome == "cancelled"
    assert rig.closed
    assert rig.host.log.accesses == ["/inline/later 504 GATEWAY TIMEOUT"]


def test_a_client_that_closed_before_its_request_was_submitted_cancels_it_too(rig: Rig) -> None:
    rig.client.sendall(request("/inline/later"))
    rig.client.close()
    rig.tick()
    assert rig.host.pending[0].outcome == "cancelled"
    assert rig.closed


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("late", [False, True], ids=["soon", "late"])
@pytest.mark.parametrize("when", ["before", "while it waits"])
@pytest.mark.parametrize(("version", "interim"), [("1.1", CONTINUE), ("1.0", b"")])
def test_a_client_that_closes_its_sending_half_gets_its_answer(
    rig: Rig, when: str, version: str, interim: bytes, late: bool
) -> None:
    """A late one is preceded by a question, which shows whether the client is still there."""
    rig.client.sendall(request("/inline/later").replace(b"/1.1", b"/" + version.encode()))
    if when == "while it waits":
        rig.tick()
    rig.client.shutdown(socket.SHUT_WR)
    rig.tick()
    rig.wait(2 * ASK_AFTER_S if late else ASK_AFTER_S / 2)
    assert rig.connection.state is State.SUSPENDED
    deliver(*rig.host.pending)
    rig.tick()
    said = rig.received()
    interim = interim if late else b""
    assert said.startswith(interim + b"HTTP/" + version.encode() + b" 200 OK\r\n")
    assert said.endswith(b"answer [7]")
    rig.tick()
    assert rig.closed


def test_a_client_that_was_asked_still_has_its_deadline(rig: Rig) -> None:
    rig.send(request("/inline/later"))
    rig.client.shutdown(socket.SHUT_WR)
    rig.tick()
    rig.wait(2 * ASK_AFTER_S)
    assert rig.received() == CONTINUE
    rig.wait(31)
    assert rig.host.pending[0].outcome == "expired"


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("when", ["before", "while it waits"])
def test_over_tcp_a_client_that_has_gone_is_found_out(
    tcp: Pair, make_rig: Callable[[Pair], Rig], how: str, when: str
) -> None:
    rig = make_rig(tcp)
    rig.client.sendall(request("/inline/later"))
    if when == "while it waits":
        rig.tick()
    if how == "resets":
        rig.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    rig.client.close()
    rig.tick()
    rig.wait(ASK_AFTER_S)
    give_up_at = time.monotonic() + PATIENCE_S
    while not rig.closed:  # the reset comes from the system, a moment later
        assert time.monotonic() < give_up_at
        rig.host.loop.run_once(0.01)
    assert [pending.outcome for pending in rig.host.pending] in (["cancelled"], [])
    assert rig.host.suspended == {}


def test_over_tcp_a_client_that_has_said_all_is_not_taken_for_gone(
    tcp: Pair, make_rig: Callable[[Pair], Rig]
) -> None:
    rig = make_rig(tcp)
    rig.send(request("/inline/later"))
    rig.client.shutdown(socket.SHUT_WR)
    rig.client.settimeout(PATIENCE_S)
    rig.tick()
    rig.wait(ASK_AFTER_S)
    said = b""
    while not said:  # the interim answer has come, so a reset would have come too
        rig.tick()
        with contextlib.suppress(BlockingIOError):
            said = rig.client.recv(100, socket.MSG_DONTWAIT)
    assert said == CONTINUE
    rig.tick()
    deliver(*rig.host.pending)
    rig.tick()
    assert rig.received().endswith(b"answer [7]")


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        pytest.param(b"", 10, id="nothing"),
        pytest.param(request("/inline"), 75, id="idle"),
        pytest.param(request("/inline/parts"), 20, id="an answer that it does not read"),
        pytest.param(b"bad\r\n\r\n", LINGER_S, id="refused, and it stays"),
    ],
)
def test_a_client_that_neither_sends_nor_reads_is_closed(
    rig: Rig, sent: bytes, seconds: float
) -> None:
    rig.send(sent)
    rig.wait(seconds - 0.5)
    assert not rig.closed
    rig.wait(1)
    assert rig.closed


def test_an_answer_of_many_parts_is_made_as_fast_as_it_is_read(rig: Rig) -> None:
    rig.send(request("/inline/parts"))
    assert rig.connection.state is State.WRITING
    assert rig.connection._write_buffer._size < 200_000
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += rig.received().replace(b"nothing yet", b"")
        rig.tick()
    assert received.count(b"x" * 40_000) == 100
    assert rig.connection.state is State.HEAD


def test_a_client_that_leaves_its_answer_ends_it(rig: Rig) -> None:
    rig.send(request("/inline/parts"))
    rig.client.close()
    rig.tick()
    assert rig.closed
    assert rig.host.log.accesses == ["/inline/parts 200 OK"]


def test_a_body_beyond_the_limit_is_not_waited_for(rig: Rig) -> None:
    rig.host.wsgi = Response("413", 413)
    rig.send(request("/inline", b"x" * 300_001)[:-1500])
    said = rig.received()
    assert said.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in said
    assert rig.connection.state is State.LINGERING


def test_an_idle_connection_is_soon_left_when_the_worker_stops(rig: Rig) -> None:
    rig.send(request("/inline"))
    rig.connection.drain(2)
    rig.wait(1)
    assert not rig.closed
    rig.wait(1.5)
    assert rig.closed


def test_a_busy_connection_is_not_left_when_the_worker_stops(rig: Rig) -> None:
    rig.send(request("/inline/later"))
    rig.connection.drain(2)
    rig.wait(3)
    assert not rig.closed
    assert rig.connection.alarm.wakes_at < math.inf


def test_what_came_while_the_pool_ran_completes_what_was_here(rig: Rig) -> None:
    second = request("/inline", b"second")
    rig.send(request("/slow") + second[:10])
    rig.send(second[10:])
    rig.run_pool()
    assert rig.received().endswith(b"/inline second")


@pytest.mark.parametrize("path", ["/exit", "/exit/late"])
@pytest.mark.parametrize("where", ["", "/inline"])
def test_a_view_that_exits_is_a_500_or_a_cut_and_never_a_whole_answer(
    rig: Rig, path: str, where: str
) -> None:
    rig.send(request(where + path))
    rig.run_pool()
    said = rig.received()
    assert said.startswith(b"HTTP/1.1 500 " if path == "/exit" else b"HTTP/1.1 200 ")
    assert not said.endswith(b"0\r\n\r\n")
    assert rig.connection.state is State.LINGERING


@pytest.mark.parametrize("path", ["/inline/exit", "/inline/exit/late"])
def test_the_exit_that_a_signal_asks_for_is_not_swallowed(rig: Rig, path: str) -> None:
    rig.host.quitting = True
    with pytest.raises(SystemExit):
        rig.send(request(path))


@pytest.mark.parametrize("hook", ["pre_request", "post_request"])
def test_a_hook_of_gunicorn_that_exits_ends_its_request_alone(rig: Rig, hook: str) -> None:
    rig.host.cfg.set(hook, exits if hook == "pre_request" else exits_after)
    rig.send(request("/inline"))
    code = b"500" if hook == "pre_request" else b"200"
    assert rig.received().startswith(b"HTTP/1.1 %s " % code)


def refuse(environ: Any, status: int, reason: str, _error: BaseException) -> PreparedResponse:
    words = f"{environ['PATH_INFO']} {environ.get('HTTP_X_REQUEST_ID')} {reason}"
    return PreparedResponse(words.encode(), "text/plain", f"{status} REFUSED")


@pytest.mark.parametrize(
    ("sent", "line", "words"),
    [
        (b"GET /a HTTP/2.0\r\nX-Request-Id: b\r\n\r\n", b"505", b"/a b Invalid HTTP Version"),
        (b"GET /a HTTP/1.1\r\nX : 1\r\n\r\n", b"400", b"/a None Invalid HTTP header name: 'X '"),
        (b"GET /" + b"a" * 9000, b"414", b"aaa None Request Line is too large"),
        (b"GET /a HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n", b"431", b"/a None limit request"),
        (b"GET /inline/exit HTTP/1.1\r\nX-Request-Id: b\r\n\r\n", b"500", b"/inline/exit b "),
    ],
)
def test_an_application_may_word_every_refusal_and_it_is_in_the_access_log(
    rig: Rig, sent: bytes, line: bytes, words: bytes
) -> None:
    rig.host.refuse = refuse
    rig.send(sent)
    said = rig.received()
    assert said.startswith(b"HTTP/1.1 %s REFUSED\r\n" % line)
    assert words in said
    assert b"Connection: close" in said
    path = words.split(b" ")[0].decode()
    (access,) = rig.host.log.accesses
    assert access.endswith(f"{path} {line.decode()} REFUSED")
    assert rig.connection.state is State.LINGERING


def test_a_connection_whose_request_was_answered_while_the_worker_stops_is_soon_left(
    rig: Rig,
) -> None:
    rig.send(request("/inline/later"))
    rig.connection.drain(2)
    rig.host.keepalive_s = 2.0
    deliver(*rig.host.pending)
    rig.tick()
    assert rig.received().endswith(b"answer [7]")
    rig.wait(1)
    assert not rig.closed
    rig.wait(1.5)
    assert rig.closed


def test_a_client_that_has_said_all_is_answered_and_left(rig: Rig) -> None:
    rig.client.sendall(request("/inline"))
    rig.client.shutdown(socket.SHUT_WR)
    rig.tick()
    assert rig.received().endswith(b"/inline ")
    assert rig.closed
    assert len(rig.host.loop._poller._handlers) == 1  # the loop's own


def test_behind_a_body_that_could_not_be_read_there_is_no_request(rig: Rig) -> None:
    head = b"POST /inline/swallow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    rig.send(head + b"3\r\nabcXX" + request("/inline", b"smuggled"))
    said = rig.received()
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"smuggled" not in said
    assert rig.connection.state is State.LINGERING


def test_a_client_that_leaves_its_body_is_no_request(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rig.send(request("/inline", b"12345")[:-1])
    rig.client.close()
    rig.tick()
    assert rig.closed
    assert rig.host.hooked == []
    assert "Error" not in caplog.text
    assert rig.connection._reader.buffer.held == 0


def test_a_request_that_cannot_begin_is_told_to_both_hooks(rig: Rig) -> None:
    rig.send(request("/inline", b"", "Script_Name: /elsewhere\r\n"))
    assert rig.received().startswith(b"HTTP/1.1 500 ")
    assert rig.host.hooked == ["/inline", None]


def test_a_middleware_that_copies_the_environ_blocks_no_thread(rig: Rig) -> None:
    rig.send(request("/inline/copied"))
    assert rig.connection.state is State.SUSPENDED
    deliver(*rig.host.pending)
    rig.tick()
    assert rig.received().endswith(b"answer [7]")


def test_an_answer_that_a_middleware_forgets_is_given_up(rig: Rig) -> None:
    rig.send(request("/inline/forgotten"))
    deliver(*rig.host.pending)
    rig.tick()
    rig.run_pool()
    assert rig.received().endswith(b"mine")
    assert rig.host.left == [1]


@pytest.mark.parametrize("path", ["/inline/short", "/inline/none"])
def test_an_answer_shorter_than_it_says_is_the_last_of_its_connection(rig: Rig, path: str) -> None:
    rig.send(request(path))
    rig.received()
    assert (rig.connection.state is State.LINGERING) is (path == "/inline/short")


def test_a_failure_before_the_answer_is_one_line_in_the_access_log(rig: Rig) -> None:
    rig.send(request("/inline/fails"))
    assert rig.received().startswith(b"HTTP/1.1 500 ")
    assert [line.partition(" ")[2] for line in rig.host.log.accesses] == [
        "500 Internal Server Error"
    ]


def test_an_answer_that_is_read_as_fast_as_it_is_made_lets_others_in_between(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WriteBuffer, "full", property(lambda _write_buffer: True))
    rig.client.sendall(request("/inline/parts"))
    rig.host.loop.run_once(0)
    assert 1 <= rig.received().count(b"x" * 40_000) <= 2


def test_what_is_left_of_a_body_is_skipped_where_the_request_ran(rig: Rig) -> None:
    head = b"POST /unread HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    rig.send(head + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n")
    cycle = rig.connection._cycle
    assert cycle is not None
    rig.host.lane.make()
    rig.tick()
    rig.host.lane.make()
    assert cycle.request.body.reader.parser is None
    rig.tick()
    rig.send(request("/inline", b"next"))
    assert rig.received().endswith(b"/inline next")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"Content-Length: 300001\r\n\r\nabc", id="its length says so"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n493e1\r\nabc", id="a chunk says so"),
    ],
)
def test_a_body_beyond_the_limit_cannot_be_mistaken_for_what_has_come_of_it(
    rig: Rig, body: bytes
) -> None:
    @Request.application
    def app(request: Request) -> Response:
        return Response(request.get_data())

    rig.host.wsgi = app
    rig.send(b"POST /inline HTTP/1.1\r\n" + body)
    assert rig.received().startswith(b"HTTP/1.1 413 ")


def test_what_an_answer_closes_is_closed_in_the_pool_when_its_client_leaves(rig: Rig) -> None:
    rig.send(request("/parts"))
    rig.run_pool()
    assert rig.connection.state is State.WRITING
    rig.client.close()
    rig.tick()
    assert rig.closed
    assert rig.host.log.accesses == []
    rig.run_pool()
    assert rig.host.log.accesses == ["/parts 200 OK"]


def test_a_client_that_reads_while_the_pool_still_writes_gets_all_of_its_answer(rig: Rig) -> None:
    rig.send(request("/parts"))
    rig.host.lane.make()
    rig.tick()
    rig.host.lane.make()  # the socket is full now
    received = rig.received()  # and writable again, before the loop hears of the pool's call
    rig.tick()
    while not received.endswith(b"0\r\n\r\n"):
        rig.run_pool()
        more = rig.received()
        assert more != b"nothing yet"
        received += more
        rig.tick()
    assert received.count(b"x" * 40_000) == 100


def test_head_has_no_body_where_the_answer_was_prepared(rig: Rig) -> None:
    rig.send(b"HEAD /inline/later HTTP/1.1\r\n\r\n")
    deliver(*rig.host.pending)
    rig.tick()
    said = rig.received()
    assert b"Content-Length: 10\r\n" in said
    assert said.endswith(b"\r\n\r\n")


# --- deadlines ------------------------------------------------------------------------------------


@pytest.fixture
def timed(rig: Rig) -> Rig:
    """Requests that run in the lane have a second."""
    rig.host.timeout_s = 1.0
    return rig


def test_a_call_that_overruns_its_deadline_loses_its_request_on_time(timed: Rig) -> None:
    timed.send(request("/slow", b"body"))
    hangs = timed.host.lane.take()
    timed.wait(0.999)
    assert timed.received() == b"nothing yet"
    timed.wait(0.001)
    assert timed.received().endswith(b"EXPIRED")
    assert timed.host.lane.load().stuck == 1
    # the connection serves its client, whatever the call does
    timed.send(request("/inline", b"next"))
    assert timed.received().endswith(b"/inline next")
    timed.host.lane.make(hangs)
    timed.tick()
    assert timed.received() == b"nothing yet"
    assert timed.host.lane.load().stuck == 0


def test_a_request_that_is_given_up_is_told_once_to_the_log_and_to_both_hooks(timed: Rig) -> None:
    timed.send(request("/slow"))
    hangs = timed.host.lane.take()
    timed.wait(1.0)
    timed.host.lane.make(hangs)
    timed.tick()
    assert timed.host.log.accesses == ["/slow 503 Refused"]
    assert timed.host.hooked == ["/slow", "503 Refused"]


def test_the_clock_starts_when_the_request_has_been_read(timed: Rig) -> None:
    whole = request("/slow", b"body")
    timed.send(whole[:-1])
    timed.wait(5.0)
    timed.send(whole[-1:])
    timed.wait(0.5)
    timed.host.lane.take()
    assert timed.received() == b"nothing yet"
    timed.wait(0.5)
    assert timed.received().endswith(b"EXPIRED")


def test_a_call_that_still_waits_at_its_deadline_is_answered_and_never_made(timed: Rig) -> None:
    timed.send(request("/slow"))
    timed.wait(1.0)
    assert timed.received().endswith(b"EXPIRED")
    timed.run_pool()
    assert timed.host.lane.load() == (0, 0, 0, False)
    assert timed.received() == b"nothing yet"


def test_a_request_that_cannot_be_in_time_is_refused_and_its_connection_stays(timed: Rig) -> None:
    for _ in range(4):
        timed.host.lane.submit(Job(lambda: None))
        timed.host.lane.take()
    timed.wait(3.0)
    timed.send(request("/slow", b"late") + request("/inline", b"next"))
    said = timed.received()
    assert said.index(b"LATE") < said.index(b"/inline next")
    assert timed.host.log.accesses == ["/slow 503 Refused", "/inline 200 OK"]


def test_a_deadline_in_the_body_counts_from_when_the_request_was_read(rig: Rig) -> None:
    rig.send(request("/limited"))
    rig.wait(0.5)
    job = rig.host.lane.take()
    said: list[bytes] = []

    def hang() -> None:  # the application has read its deadline, and goes on
        rig.tick()
        rig.wait(0.5)
        said.append(rig.received())

    rig.host.hang = hang
    rig.host.lane.make(job)
    assert said[0].endswith(b"EXPIRED")


def test_an_answer_that_has_begun_is_not_replaced(timed: Rig) -> None:
    timed.send(request("/parts"))
    timed.host.lane.make()
    timed.tick()
    timed.host.lane.make()
    timed.tick()
    timed.wait(5.0)
    received = b""
    while timed.connection.state is not State.HEAD:
        received += timed.received()
        timed.tick()
        timed.run_pool()
    received += timed.received()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"EXPIRED" not in received
    assert received.count(b"x") == 4_000_000


def test_an_answer_whose_making_overruns_is_given_up_and_released(timed: Rig) -> None:
    timed.send(request("/later"))
    timed.host.lane.make()
    timed.tick()
    assert timed.connection.state is State.SUSPENDED
    timed.host.pending[0].set([7])
    timed.tick()
    hangs = timed.host.lane.take()
    timed.wait(1.0)
    assert timed.received().endswith(b"EXPIRED")
    timed.host.lane.make(hangs)
    timed.tick()
    assert timed.received() == b"nothing yet"
    assert timed.host.left


def test_where_no_thread_can_be_started_one_request_is_refused(rig: Rig) -> None:
    rig.host.lane.exhausted = True
    rig.send(request("/slow"))
    assert rig.received().endswith(b"NO_THREAD")
    rig.send(request("/inline"))
    assert rig.received().startswith(b"HTTP/1.1 200")


# --- limits ---------------------------------------------------------------------------------------


@pytest.fixture
def limited(rig: Rig) -> Rig:
    """A connection whose application words the refusals."""
    rig.host.refuse = refuse
    return rig


CHUNKED = b"POST /inline HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begins", "seconds", "limit"),
    [
        pytest.param(b"GET / HT", 10, "head_timeout_s", id="a head"),
        pytest.param(request("/inline") + b"GET / HT", 10, "head_timeout_s", id="a second head"),
        pytest.param(request("/inline", b"x" * 99)[:-98], 30, "body_timeout_s", id="a body"),
        pytest.param(CHUNKED + b"ff\r\n", 30, "body_timeout_s", id="a chunk"),
        pytest.param(CHUNKED, 30, "body_timeout_s", id="chunks"),
    ],
)
@pytest.mark.parametrize("drips", [False, True], ids=["stalls", "drips"])
def test_what_does_not_arrive_in_time_is_408_also_if_it_drips(
    limited: Rig, begins: bytes, seconds: int, limit: str, drips: bool
) -> None:
    limited.send(begins)
    limited.received()
    for _ in range(seconds - 1):
        limited.wait(1)
        if drips:
            limited.send(b"1")
        assert limited.received() == b"nothing yet"
    limited.wait(2)
    said = limited.received()
    assert said.startswith(b"HTTP/1.1 408 REFUSED")
    assert f"limits.{limit}, {seconds}".encode() in said
    assert b"Connection: close" in said
    assert limited.host.exceeded == [limit]
    assert limited.connection.state is State.LINGERING
    assert limited.host.budget.held == 0


def test_a_body_that_comes_at_the_lowest_rate_is_read(limited: Rig) -> None:
    body = b"x" * 200_000
    limited.send(request("/inline", body)[: -len(body)])
    for _ in range(200):
        limited.wait(1)
        limited.send(b"x" * 1000)
    assert limited.received().startswith(b"HTTP/1.1 200 ")
    assert limited.host.exceeded == []


def test_a_body_whose_client_slows_down_has_no_more_time_than_one_that_begins(
    limited: Rig,
) -> None:
    limited.send(request("/inline", b"x" * 250_000)[:-50_000])  # at once, good for 200 s
    for _ in range(29):
        limited.wait(1)
        limited.send(b"x")
    assert limited.connection.state is State.BODY
    limited.wait(2)
    assert limited.received().startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_is_read_a_byte_at_a_time_ends_with_its_connection(limited: Rig) -> None:
    limited.send(request("/inline/large"))
    assert limited.connection.state is State.WRITING
    limited.client.setblocking(False)
    for _ in range(19):
        limited.wait(1)
        assert limited.client.recv(1)
    assert not limited.closed
    limited.wait(2)
    assert limited.closed
    assert limited.host.exceeded == ["send_timeout_s"]
    assert limited.host.budget.held == 0


def test_an_answer_that_is_read_in_steps_that_the_system_does_not_report_is_sent_whole(
    limited: Rig,
) -> None:
    limited.send(request("/inline/large"))
    received = b""
    while not received.endswith(b"end\r\n0\r\n\r\n"):
        limited.wait(19)
        received += limited.client.recv(40_000)
        limited.tick()
        assert not limited.closed
    assert limited.host.exceeded == []


def test_an_answer_that_is_read_fast_enough_is_sent_whole(limited: Rig) -> None:
    limited.send(request("/inline/large"))
    received = b""
    while not received.endswith(b"end\r\n0\r\n\r\n"):
        limited.wait(19)
        received += limited.client.recv(400_000)
        limited.tick()
        assert not limited.closed
    assert limited.host.exceeded == []
    assert limited.host.budget.held == 0


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"X: " + b"y" * 4000, b"200", id="long"),
        pytest.param(b"X: " + b"y" * 5000, b"431", id="too long"),
        pytest.param(b"\r\n".join([b"X: " + b"y" * 100] * 60), b"431", id="too many"),
    ],
)
@pytest.mark.parametrize("step", [10_000, 100])
def test_a_head_beyond_its_limit_is_431(
    limited: Rig, head: bytes, status: bytes, step: int
) -> None:
    whole = b"POST /inline HTTP/1.1\r\nContent-Length: 0\r\n" + head + b"\r\n\r\n"
    for at in range(0, len(whole), step):
        with contextlib.suppress(BrokenPipeError):  # refused before its end
            limited.send(whole[at : at + step])
    assert limited.received().startswith(b"HTTP/1.1 " + status)
    assert limited.host.exceeded == (["max_head_bytes"] if status == b"431" else [])


def body_of(size: int, *, chunked: bool, path: str = "/inline") -> bytes:
    if not chunked:
        return request(path, b"x" * size)
    head = f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n"
    return head.encode() + b"x" * size + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("held", "size", "served"),
    [
        pytest.param(0, 300_000, True, id="the largest body in an empty process"),
        pytest.param(250_000, 90_000, True, id="one for which there is room"),
        pytest.param(260_000, 95_000, False, id="one for which there is none"),
        pytest.param(330_000, 60_000, True, id="a small one where no large one has room"),
        pytest.param(350_000, 60_000, False, id="a small one without room"),
    ],
)
def test_a_body_without_room_is_503_and_its_bytes_are_dropped(
    limited: Rig, held: int, size: int, served: bool, chunked: bool
) -> None:
    budget = limited.host.budget
    budget.add(held)
    limited.send(body_of(size, chunked=chunked))
    said = limited.received()
    assert said.startswith(b"HTTP/1.1 200" if served else b"HTTP/1.1 503")
    for _ in range(20):  # the answer is as long as the body
        limited.received()
        limited.tick()
    assert budget.held == held
    assert limited.connection._reader.buffer.size == 0
    if not served:
        assert b"limits.max_bytes_in_flight is 400000" in said
        assert limited.host.exceeded == ["max_bytes_in_flight"]


def test_a_body_without_room_is_refused_by_its_length_and_not_asked_for(limited: Rig) -> None:
    limited.host.budget.add(260_000)
    limited.send(request("/inline", b"x" * 95_000, "Expect: 100-continue\r\n")[:-95_000])
    assert limited.received().startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/inline/later", "/unread", "/inline/parts"])
def test_a_body_has_its_room_until_it_is_answered(limited: Rig, path: str, chunked: bool) -> None:
    budget = limited.host.budget
    sent = body_of(10_000, chunked=chunked, path=path)
    limited.send(sent[:-3])
    assert 9_000 < budget.held < 11_000
    limited.send(sent[-3:])
    assert budget.held >= 10_000
    deliver(*limited.host.pending)
    limited.run_pool()
    for _ in range(100):
        limited.received()
        limited.tick()
    assert limited.connection.state is State.HEAD
    assert budget.held == 0


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HT", id="in a head"),
        pytest.param(body_of(10_000, chunked=False)[:-1], id="in a body"),
        pytest.param(body_of(10_000, chunked=True)[:-1], id="in a chunked body"),
        pytest.param(body_of(10_000, chunked=False, path="/inline/later"), id="in its wait"),
        pytest.param(request("/inline/large"), id="in its answer"),
        pytest.param(body_of(300_001, chunked=False)[:-9], id="refused"),
    ],
)
def test_a_client_that_leaves_gives_its_room_back(limited: Rig, sent: bytes) -> None:
    limited.send(sent)
    limited.client.close()
    limited.tick()
    assert limited.closed
    assert limited.host.budget.held == 0


def test_an_answer_that_is_not_read_leaves_less_room_for_bodies(limited: Rig) -> None:
    limited.send(request("/inline/large"))
    assert limited.host.budget.held > BUDGET
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        other = Connection(limited.host, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))  # type: ignore[arg-type]
        theirs.sendall(request("/inline"))
        limited.tick()
        assert theirs.recv(10_000).startswith(b"HTTP/1.1 200"), "a request without a body"
        theirs.sendall(request("/inline", b"x"))
        limited.tick()
        assert theirs.recv(10_000).startswith(b"HTTP/1.1 503")
        other.close()


def test_pipelined_requests_wait_in_the_clients_kernel(limited: Rig) -> None:
    limited.client.setblocking(False)
    limited.send(request("/slow"))
    with contextlib.suppress(BlockingIOError):
        for _ in range(10_000):
            limited.send(request("/inline", b"x" * 1000))
    assert limited.connection._reader.buffer.size < 200_000


def test_a_chunked_body_whose_call_was_given_up_is_the_last_of_its_connection(timed: Rig) -> None:
    timed.send(body_of(10, chunked=True, path="/unread") + request("/inline", b"next"))
    hangs = timed.host.lane.take()
    timed.wait(1.0)
    said = timed.received()
    assert b"EXPIRED" in said
    assert b"Connection: close" in said
    timed.host.lane.make(hangs)  # it may read on, and must not find another request's bytes
    timed.tick()
    assert b"next" not in timed.received()
