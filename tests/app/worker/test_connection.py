"""One connection over a socket pair, led step by step: no gunicorn, no sleep, a clock by hand."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Request, Response
from gunicorn.config import Config
from gunicorn.workers.base import Worker

from app.deferred import Deferred
from app.worker.connection import (
    BODY_S,
    HEAD_S,
    LINGER_S,
    WRITE_S,
    Connection,
    State,
)
from app.worker.heads import Heads
from app.worker.loop import Loop
from app.worker.outbox import Outbox
from engine.errors import Cancelled, DeadlineExceeded
from engine.model import Prepared
from engine.spec import Extent
from engine.testing import FakeClock
from engine.ticket import Ticket, announce
from tests.app.conftest import PATIENCE_S
from tests.app.worker.conftest import Pair


class Log:
    """gunicorn's log, as far as it is needed."""

    def __init__(self) -> None:
        self.accesses: list[str] = []
        self.log = logging.getLogger("test")
        self.debug, self.warning, self.exception = self.log.debug, self.log.info, self.log.info

    def access(self, response: Any, _request: Any, environ: Any, _time: Any) -> None:
        self.accesses.append(f"{environ.get('PATH_INFO')} {response.status}")


class ByHand:
    """A pool whose calls are made when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def submit(self, call: Callable[[], object]) -> None:
        self.calls.append(call)


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


ODD: dict[str, Callable[[Any], Iterable[bytes]]] = {
    "/quick/short": short,
    "/quick/none": lambda start_response: short(start_response, "304 Not Modified"),
    "/quick/fails": fails,
    "/exit": lambda _start_response: sys.exit(),
    "/exit/late": exits_late,
}


class Host:
    """A worker without gunicorn around it. Paths that begin with /quick run at once."""

    handle_error = Worker.handle_error

    def __init__(self, clock: FakeClock) -> None:
        self.cfg, self.log, self.loop, self.pool = Config(), Log(), Loop(clock), ByHand()
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
        self.longest_body = 1000
        self.heads = Heads(self.cfg)
        self.parked: dict[Ticket, Callable[[], object]] = {}
        self.requests = 0
        self.tickets: list[Ticket] = []
        self.clock = clock
        self.ended: list[Connection] = []

    def quick(self, environ: Any) -> bool:
        return str(environ["PATH_INFO"]).startswith("/quick")

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, body = environ["PATH_INFO"], b""
        with contextlib.suppress(Exception if path == "/quick/swallow" else ()):
            body = body if path == "/unread" else environ["wsgi.input"].read()
        if path in ("/quick/parts", "/parts"):
            start_response("200 OK", [])
            return (b"x" * 40_000 for _ in range(100))
        if path == "/quick/copied":
            return self.later()(environ.copy(), start_response)
        if path == "/quick/forgotten":
            self.later()(environ, start_response)
            return Response("mine")(environ, start_response)
        if path in ODD:
            return ODD[path](start_response)
        if path == "/quick/later":
            return self.later()(environ, start_response)
        if path == "/quick/wrapped":
            return (part.upper() for part in self.later()(environ, start_response))
        if path == "/quick/lost":
            self.later()(environ, start_response)
            raise ZeroDivisionError
        return Response(path.encode() + b" " + body)(environ, start_response)

    def later(self) -> Deferred:
        ticket = Ticket(
            Prepared({}),
            Extent(1, None),
            lane=None,
            enqueued_at=self.clock(),
            deadline=self.clock() + 30,
            clock=self.clock,
            settled=lambda _tickets: None,
        )
        self.tickets.append(ticket)

        def finish() -> Response:
            try:
                return Response(f"answer {ticket.result()['y']}")
            except (Cancelled, DeadlineExceeded) as error:
                return Response(type(error).__name__, 504)

        return Deferred(ticket, finish, lambda: self.left.append(1), quick=True)

    def count_request(self) -> bool:
        self.requests += 1
        return False

    def tickets_done(self, tickets: list[Ticket]) -> None:
        self.loop.call_soon([self.parked.pop(ticket) for ticket in tickets])

    def closed(self, connection: Connection) -> None:
        self.ended.append(connection)


class Rig(SimpleNamespace):
    """A connection, the client's end, and the host."""

    connection: Connection
    client: socket.socket
    host: Host

    def turn(self) -> None:
        """Handle what is there."""
        for _ in range(5):
            self.host.loop.run_once(0)

    def send(self, data: bytes) -> None:
        self.client.sendall(data)
        self.turn()

    def received(self) -> bytes:
        self.client.setblocking(False)
        try:
            return self.client.recv(1 << 20)
        except BlockingIOError:
            return b"nothing yet"

    def wait(self, seconds: float) -> None:
        self.host.clock.advance(seconds)
        self.turn()

    def run_pool(self) -> None:
        """What was submitted runs, and what comes of it."""
        while self.host.pool.calls:
            self.host.pool.calls.pop(0)()
            self.turn()

    @property
    def closed(self) -> bool:
        return self.host.ended == [self.connection] and self.connection.state is State.CLOSED


@pytest.fixture
def rig(pair: Pair) -> Iterator[Rig]:
    ours, theirs = pair
    ours.setblocking(False)
    host = Host(FakeClock())
    connection = Connection(host, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))  # type: ignore[arg-type]
    rig = Rig(connection=connection, client=theirs, host=host)
    rig.turn()
    yield rig
    connection.close()
    host.loop.close()


def request(path: str, body: bytes = b"", more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def test_a_quick_request_is_answered_where_it_is_read(rig: Rig) -> None:
    rig.send(request("/quick", b"body"))
    assert rig.received().endswith(b"/quick body")
    assert rig.host.pool.calls == []
    assert rig.host.log.accesses == ["/quick 200 OK"]
    rig.send(request("/quick", b"again"))
    assert rig.received().endswith(b"/quick again")


def test_any_other_runs_in_the_pool_and_nothing_is_read_meanwhile(rig: Rig) -> None:
    rig.send(request("/slow") + request("/quick"))
    assert rig.connection.state is State.RUNNING
    assert rig.host.requests == 1
    while rig.host.pool.calls:
        rig.host.pool.calls.pop(0)()
        rig.turn()
    said = rig.received()
    assert said.index(b"/slow ") < said.index(b"/quick ")


def deliver(*tickets: Ticket) -> None:
    """As the engine does for a batch, on a thread of its own."""

    def run() -> None:
        for ticket in tickets:
            ticket.deliver(0, {"y": [7]})  # type: ignore[dict-item]
        announce(tickets)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)


def test_a_request_that_waits_for_the_engine_is_answered_when_its_ticket_is_done(rig: Rig) -> None:
    rig.send(request("/quick/later") + request("/quick"))
    assert rig.connection.state is State.PARKED
    assert rig.received() == b"nothing yet"
    assert rig.host.log.accesses == []
    deliver(*rig.host.tickets)
    rig.turn()
    said = rig.received()
    assert said.index(b"answer [7]") < said.index(b"/quick ")
    assert rig.host.parked == {}


def test_a_middleware_around_the_answer_makes_nobody_wait(rig: Rig) -> None:
    rig.send(request("/quick/wrapped"))
    assert rig.connection.state is State.PARKED
    deliver(*rig.host.tickets)
    rig.turn()
    # how long a middleware takes nobody knows
    assert rig.received() == b"nothing yet"
    rig.run_pool()
    assert rig.received().endswith(b"ANSWER [7]")


def test_an_answer_that_a_middleware_loses_is_not_computed(rig: Rig) -> None:
    rig.send(request("/quick/lost"))
    assert rig.received().startswith(b"HTTP/1.1 500 ")
    with pytest.raises(Cancelled):
        rig.host.tickets[0].result()
    assert rig.host.parked == {}


def test_a_ticket_that_nobody_settles_is_settled_at_its_deadline(rig: Rig) -> None:
    rig.send(request("/quick/later"))
    rig.wait(29)
    assert rig.received() == b"nothing yet"
    rig.wait(2)
    assert rig.received().endswith(b"DeadlineExceeded")
    assert rig.host.parked == {}


def test_a_client_that_leaves_takes_its_ticket_along(rig: Rig) -> None:
    rig.send(request("/quick/later"))
    rig.client.close()
    rig.turn()
    with pytest.raises(Cancelled):
        rig.host.tickets[0].result()
    assert rig.closed
    assert rig.host.log.accesses == ["/quick/later 504 GATEWAY TIMEOUT"]


def test_a_client_that_left_before_its_ticket_was_there_takes_it_along_too(rig: Rig) -> None:
    rig.client.sendall(request("/quick/later"))
    rig.client.close()
    rig.turn()
    with pytest.raises(Cancelled):
        rig.host.tickets[0].result()
    assert rig.closed


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        pytest.param(b"", HEAD_S, id="nothing"),
        pytest.param(b"GET / HT", HEAD_S, id="a part of a head"),
        pytest.param(request("/quick", b"12")[:-1], BODY_S, id="a part of a body"),
        pytest.param(request("/quick"), 75, id="idle"),
        pytest.param(request("/quick/parts"), WRITE_S, id="an answer that it does not read"),
        pytest.param(b"bad\r\n\r\n", LINGER_S, id="refused, and it stays"),
    ],
)
def test_a_client_that_says_and_takes_nothing_is_left(
    rig: Rig, sent: bytes, seconds: float
) -> None:
    rig.send(sent)
    rig.wait(seconds - 0.5)
    assert not rig.closed
    rig.wait(1)
    assert rig.closed


def test_a_head_that_comes_byte_by_byte_has_no_more_time_for_that(rig: Rig) -> None:
    for _ in range(9):
        rig.send(b"a")
        rig.wait(1)
    assert not rig.closed
    rig.wait(2)
    assert rig.closed


def test_a_body_that_goes_on_coming_has_all_the_time(rig: Rig) -> None:
    head, body = request("/quick", b"12345").split(b"1")[0], b"12345"
    head = request("/quick", body)[: -len(body)]
    rig.send(head)
    for number in body:
        rig.wait(BODY_S - 1)
        rig.send(bytes([number]))
    assert rig.received().endswith(b"/quick 12345")


def test_an_answer_of_many_parts_is_made_as_fast_as_it_is_read(rig: Rig) -> None:
    rig.send(request("/quick/parts"))
    assert rig.connection.state is State.WRITING
    assert rig.connection._outbox._size < 200_000
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += rig.received().replace(b"nothing yet", b"")
        rig.turn()
    assert received.count(b"x" * 40_000) == 100
    assert rig.connection.state is State.HEAD


def test_a_client_that_leaves_its_answer_ends_it(rig: Rig) -> None:
    rig.send(request("/quick/parts"))
    rig.client.close()
    rig.turn()
    assert rig.closed
    assert rig.host.log.accesses == ["/quick/parts 200 OK"]


def test_a_body_beyond_the_limit_is_not_waited_for(rig: Rig) -> None:
    rig.host.wsgi = Response("413", 413)
    rig.send(request("/quick", b"x" * 2000)[:-1500])
    said = rig.received()
    assert said.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in said
    assert rig.connection.state is State.LINGERING


def test_an_idle_connection_is_soon_left_when_the_worker_stops(rig: Rig) -> None:
    rig.send(request("/quick"))
    rig.connection.drain(2)
    rig.wait(1)
    assert not rig.closed
    rig.wait(1.5)
    assert rig.closed


def test_a_busy_connection_is_not_left_when_the_worker_stops(rig: Rig) -> None:
    rig.send(request("/quick/later"))
    rig.connection.drain(2)
    rig.wait(3)
    assert not rig.closed
    assert rig.connection.wakes_at < math.inf


def test_what_came_while_the_pool_ran_completes_what_was_here(rig: Rig) -> None:
    second = request("/quick", b"second")
    rig.send(request("/slow") + second[:10])
    rig.send(second[10:])
    rig.run_pool()
    assert rig.received().endswith(b"/quick second")


@pytest.mark.parametrize("path", ["/exit", "/exit/late"])
def test_a_view_that_ends_its_thread_is_a_500_or_a_cut_and_never_a_whole_answer(
    rig: Rig, path: str
) -> None:
    rig.send(request(path))
    with pytest.raises(SystemExit):
        rig.run_pool()
    rig.turn()
    rig.run_pool()
    said = rig.received()
    assert said.startswith(b"HTTP/1.1 500 " if path == "/exit" else b"HTTP/1.1 200 ")
    assert not said.endswith(b"0\r\n\r\n")
    assert rig.connection.state is State.LINGERING


def test_a_connection_whose_request_was_answered_while_the_worker_stops_is_soon_left(
    rig: Rig,
) -> None:
    rig.send(request("/quick/later"))
    rig.connection.drain(2)
    rig.host.keepalive_s = 2.0
    deliver(*rig.host.tickets)
    rig.turn()
    assert rig.received().endswith(b"answer [7]")
    rig.wait(1)
    assert not rig.closed
    rig.wait(1.5)
    assert rig.closed


def test_a_client_that_has_said_all_is_answered_and_left(rig: Rig) -> None:
    rig.client.sendall(request("/quick"))
    rig.client.shutdown(socket.SHUT_WR)
    rig.turn()
    assert rig.received().endswith(b"/quick ")
    assert rig.closed
    assert len(rig.host.loop._handlers) == 1  # the loop's own


def test_behind_a_body_that_nobody_could_read_there_is_no_request(rig: Rig) -> None:
    head = b"POST /quick/swallow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    rig.send(head + b"3\r\nabcXX" + request("/quick", b"smuggled"))
    said = rig.received()
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"smuggled" not in said
    assert rig.connection.state is State.LINGERING


def test_a_client_that_leaves_its_body_is_no_request(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rig.send(request("/quick", b"12345")[:-1])
    rig.client.close()
    rig.turn()
    assert rig.closed
    assert rig.host.hooked == []
    assert "Error" not in caplog.text
    assert rig.connection._inbox.held == 0


def test_a_request_that_cannot_begin_is_told_to_both_hooks(rig: Rig) -> None:
    rig.send(request("/quick", b"", "Script_Name: /elsewhere\r\n"))
    assert rig.received().startswith(b"HTTP/1.1 500 ")
    assert rig.host.hooked == ["/quick", None]


def test_a_middleware_that_copies_the_environ_makes_nobody_wait(rig: Rig) -> None:
    rig.send(request("/quick/copied"))
    assert rig.connection.state is State.PARKED
    deliver(*rig.host.tickets)
    rig.turn()
    assert rig.received().endswith(b"answer [7]")


def test_an_answer_that_a_middleware_forgets_is_given_up(rig: Rig) -> None:
    rig.send(request("/quick/forgotten"))
    deliver(*rig.host.tickets)
    rig.turn()
    rig.run_pool()
    assert rig.received().endswith(b"mine")
    assert rig.host.left == [1]


@pytest.mark.parametrize("path", ["/quick/short", "/quick/none"])
def test_an_answer_shorter_than_it_says_is_the_last_of_its_connection(rig: Rig, path: str) -> None:
    rig.send(request(path))
    rig.received()
    assert (rig.connection.state is State.LINGERING) is (path == "/quick/short")


def test_a_failure_before_the_answer_is_one_line_in_the_access_log(rig: Rig) -> None:
    rig.send(request("/quick/fails"))
    assert rig.received().startswith(b"HTTP/1.1 500 ")
    assert [line.partition(" ")[2] for line in rig.host.log.accesses] == [
        "500 Internal Server Error"
    ]


def test_an_answer_that_is_read_as_fast_as_it_is_made_lets_others_in_between(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outbox, "full", property(lambda _outbox: True))
    rig.client.sendall(request("/quick/parts"))
    rig.host.loop.run_once(0)
    assert 1 <= rig.received().count(b"x" * 40_000) <= 2


def test_what_is_left_of_a_body_is_skipped_where_the_request_ran(rig: Rig) -> None:
    head = b"POST /unread HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    rig.send(head + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n")
    exchange = rig.connection._exchange
    assert exchange is not None
    rig.host.pool.calls.pop(0)()
    rig.turn()
    rig.host.pool.calls.pop(0)()
    assert exchange.request.body.reader.parser is None
    rig.turn()
    rig.send(request("/quick", b"next"))
    assert rig.received().endswith(b"/quick next")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"Content-Length: 2000\r\n\r\nabc", id="its length says so"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n7d0\r\nabc", id="a chunk says so"),
    ],
)
def test_a_body_beyond_the_limit_cannot_be_mistaken_for_what_has_come_of_it(
    rig: Rig, body: bytes
) -> None:
    @Request.application
    def app(request: Request) -> Response:
        return Response(request.get_data())

    rig.host.wsgi = app
    rig.send(b"POST /quick HTTP/1.1\r\n" + body)
    assert rig.received().startswith(b"HTTP/1.1 413 ")


def test_what_an_answer_closes_is_closed_in_the_pool_when_its_client_leaves(rig: Rig) -> None:
    rig.send(request("/parts"))
    rig.run_pool()
    assert rig.connection.state is State.WRITING
    rig.client.close()
    rig.turn()
    assert rig.closed
    assert rig.host.log.accesses == []
    rig.run_pool()
    assert rig.host.log.accesses == ["/parts 200 OK"]
