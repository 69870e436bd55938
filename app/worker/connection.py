"""What one client does, from its first byte to its last.

May touch: its socket, the loop.

Its socket is watched edge-triggered and once: an idle connection costs a socket and this object, a
busy one no system call but reading and writing. While a request runs nothing is read, so that a
client who sends faster than it is answered waits in its own kernel.
"""

from __future__ import annotations

import enum
import math
import select
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request

from app.worker.exchange import Exchange
from app.worker.exchange import Host as ExchangeHost
from app.worker.heads import Head, Heads
from app.worker.inbox import ChunkedBody, Inbox, Incomplete, SizedBody, TooLong
from app.worker.loop import Loop
from app.worker.outbox import NOT_NOW, Outbox
from app.worker.pool import Pool
from engine.errors import BrimError
from engine.ticket import Ticket

HEAD_S: Final = 10.0
"""Seconds for a request's line and headers, from their first byte, and for a TLS handshake."""
BODY_S: Final = 30.0
"""Seconds without one byte of a body that has begun."""
WRITE_S: Final = 30.0
"""Seconds in which a client takes nothing of its answer."""
LINGER_S: Final = 2.0
"""Seconds for which a client may go on sending what nobody reads, so that it sees its answer
instead of a reset."""

READ_AT_ONCE: Final = 64 * 1024
READS_IN_A_ROW: Final = 16
"""Then others get their turn."""

EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_GONE: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class State(enum.Enum):
    """Who has the next word."""

    HANDSHAKE = "TLS is being set up"
    HEAD = "idle, or a head is coming"
    BODY = "a body is coming"
    RUNNING = "the application has it, here or in the pool"
    PARKED = "the engine has it"
    WRITING = "the client is to read"
    LINGERING = "all is said; what still comes is thrown away"
    CLOSED = "the socket is closed"


class Host(ExchangeHost, Protocol):
    """What the worker offers to its connections."""

    loop: Loop
    pool: Pool
    heads: Heads
    longest_body: int
    keepalive_s: float
    quick: Callable[[Mapping[str, Any]], bool]
    parked: dict[Ticket, Callable[[], object]]

    def count_request(self) -> bool:
        """One more request; is its connection to be closed after it?"""

    def tickets_done(self, tickets: list[Ticket]) -> None:
        """A ticket's listener; see `parked`."""

    def closed(self, connection: Connection) -> None:
        """One connection less."""


class Connection:
    """One client. Everything here runs on the loop's thread."""

    __slots__ = (
        "_address",
        "_body",
        "_exchange",
        "_host",
        "_hung_up",
        "_inbox",
        "_number",
        "_outbox",
        "_quick",
        "_readable",
        "_reading",
        "_server",
        "_sock",
        "_tls",
        "_whole",
        "scheduled_at",
        "state",
        "wakes_at",
    )

    def __init__(self, host: Host, sock: socket.socket, address: Any, server: Any) -> None:
        """`sock` does not block; `server` is the address that it came to."""
        self._host = host
        self._sock = sock
        self._address = address
        self._server = server
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._inbox = Inbox()
        self._outbox = Outbox(sock)
        self._body: SizedBody | ChunkedBody | None = None
        self._exchange: Exchange | None = None
        self._number = 0
        self._quick = False
        self._whole = False
        self._readable = True
        self._reading = False
        self._hung_up = False
        self.scheduled_at = self.wakes_at = math.inf
        self.state = State.HANDSHAKE if self._tls else State.HEAD
        self._alarm_in(HEAD_S)
        host.loop.watch(sock.fileno(), EVENTS, self.on_event)

    # --- what happens ----------------------------------------------------------------------------

    def on_event(self, events: int) -> None:
        """Something has happened at the socket."""
        if events & _GONE:
            self._hung_up = True
        # TLS may have wanted to write before it reads on
        if self._tls or events & (select.EPOLLIN | _GONE):
            self._readable = True
        match self.state:
            case State.HANDSHAKE:
                self._shake_hands()
            case State.HEAD | State.BODY:
                self._read()
            case State.PARKED if self._hung_up:
                self._cancel()
            case State.WRITING:
                self._write()
            case State.LINGERING:
                self._discard()

    def on_alarm(self) -> None:
        """It has taken too long."""
        if self.state is State.PARKED:
            self._expire()
        elif self.state is not State.RUNNING:
            self.close()

    def drain(self, patience_s: float) -> None:
        """The worker stops: an idle client may send one more request, if it does so soon."""
        if self.state is State.HEAD and not self._inbox.held:
            self._host.loop.alarm(self, min(self.wakes_at, self._host.loop.clock() + patience_s))

    def close(self) -> None:
        """The end. Idempotent."""
        if self.state is State.CLOSED:
            return
        has_begun = self.state in (State.PARKED, State.WRITING)
        self.state = State.CLOSED
        self.wakes_at = math.inf
        self._host.loop.forget(self._sock.fileno())
        self._sock.close()
        # the loop may know this object for a while, until the moment of its last alarm
        self._inbox.clear()
        exchange, self._exchange = self._exchange, None
        if exchange is not None and has_begun and not exchange.done:
            self._run(exchange.abandon, lambda: None)
        self._host.closed(self)

    def _alarm_in(self, seconds: float) -> None:
        self._host.loop.alarm(self, self._host.loop.clock() + seconds)

    # --- reading ---------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        try:
            self._sock.do_handshake()  # type: ignore[attr-defined]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._host.log.debug("TLS handshake failed: %s", error)
            self.close()
            return
        self.state = State.HEAD
        self._read()

    def _read(self) -> None:
        self._reading = True
        for _ in range(READS_IN_A_ROW):
            if not self._readable or self.state not in (State.HEAD, State.BODY):
                break
            self._read_once()
        else:
            self._host.loop.call_soon((self._read,))
        self._reading = False

    def _read_once(self) -> None:
        size = READ_AT_ONCE if self._body is None else self._body.wanted
        data = self._receive(size)
        if data is None:
            return
        if len(data) < size and not self._tls and not self._hung_up:
            self._readable = False
        self._inbox.feed(data)
        if self._body is not None:
            self._body.feed(data)
        elif self._inbox.held == len(data):
            self._alarm_in(HEAD_S)
        self._proceed()

    def _receive(self, size: int) -> bytes | None:
        """At most so many bytes of what has come, or None. Behind the last of them it closes: what
        is here is not whole then, or of no use, and nothing will follow.
        """
        try:
            data = self._sock.recv(size)
        except NOT_NOW:
            self._readable = False
            return None
        except OSError:
            data = b""
        if not data:
            self.close()
        return data or None

    def _proceed(self) -> None:
        """Look at what has come."""
        if self.state is State.HEAD:
            self._parse_head()
        if self.state is State.BODY and self._body is not None:
            if self._body.complete or self._body.too_long:
                self._begin(self._body)
            else:
                self._alarm_in(BODY_S)

    def _parse_head(self) -> None:
        host, inbox = self._host, self._inbox
        first = inbox.head()
        known = None
        if first is not None:
            known = host.heads.find(first, self._address, self._server)
            if known is not None:
                inbox.take(len(first))
        elif not inbox.is_refused_already(host.cfg):
            return
        if known is None:
            known = self._read_head(first)
            if known is None:
                return
        self._number += 1
        request = known.request(inbox, self._address, self._number)
        self._exchange = Exchange(host, known, request, self._outbox, self._address)
        self._body = known.body(inbox, host.longest_body)
        self.state = State.BODY
        if request._expected_100_continue:
            # gunicorn would say it when the application is called, which is when the body is here
            request._expected_100_continue = False
            if not self._body.too_long:
                self._outbox.sendall(_CONTINUE)
                self._flush()

    def _read_head(self, first: bytes | None) -> Head | None:
        """Let gunicorn parse; None if that ends here. `first` are the bytes of a whole head."""
        inbox = self._inbox
        try:
            request = Request(self._host.cfg, inbox, self._address, self._number + 1)
        except Incomplete:
            inbox.rewind()
            return None
        except (StopIteration, NoMoreData):
            self.close()
            return None
        except Exception as error:
            self._refuse(None, error)
            return None
        head = Head(request)
        size = inbox.settle()
        if first is not None and size == len(first):
            self._host.heads.learn(first, self._address, self._server, head)
        return head

    def _refuse(self, request: Request | None, error: Exception) -> None:
        """Send what gunicorn answers to what is no request."""
        self._exchange = None
        self._host.handle_error(request, self._outbox, self._address, error)
        self._flush()
        if self.state is not State.CLOSED:
            self._sent()

    # --- running ---------------------------------------------------------------------------------

    def _begin(self, body: SizedBody | ChunkedBody) -> None:
        """The request is here: call the application."""
        exchange = self._exchange
        if exchange is None:
            raise AssertionError("a body without its request; this is a bug")
        self._inbox.ended = True
        self._hand_over()
        self._whole, self._body = body.complete, None
        if not self._whole:
            exchange.request.body = TooLong()
        elif isinstance(body, SizedBody):
            exchange.request.body = body.stream()
        close = self._host.count_request() or not self._whole
        try:
            exchange.prepare(self._server, close=close)
        except Exception as error:
            self._refuse(exchange.request, error)
            return
        self._quick = self._host.quick(exchange.environ)
        self._run(exchange.call, self._called)

    def _hand_over(self) -> None:
        """To the application, which may take what time it likes."""
        self.state = State.RUNNING
        self._host.loop.alarm(self, math.inf)

    def _run(self, step: Callable[[], object], then: Callable[[], object]) -> None:
        """A step of the exchange, here if it is quick, and then go on here."""
        if self._quick:
            step()
            then()
            return

        def run() -> None:
            try:
                step()
            finally:
                self._host.loop.call_soon((then,))

        self._host.pool.submit(run)

    def _called(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        deferred = exchange.deferred
        if deferred is None:
            self._produce()
            return
        self._quick = exchange.quick
        if deferred.ticket.done:
            self._produce()
            return
        self.state = State.PARKED
        self._host.parked[deferred.ticket] = self._wake
        self._host.loop.alarm(self, deferred.ticket.deadline)
        deferred.ticket.on_done(self._host.tickets_done)
        if self._hung_up:
            self._cancel()

    def _wake(self) -> None:
        """The ticket is done."""
        if self.state is State.PARKED:
            self._hand_over()
            self._produce()

    def _cancel(self) -> None:
        """The client has gone: as with any other outcome, an answer will be asked for."""
        ticket = self._ticket
        if ticket is not None:
            ticket.cancel()

    def _expire(self) -> None:
        """Nobody has settled the ticket in time: asked for its result it does so itself."""
        ticket = self._ticket
        if ticket is not None:
            try:
                ticket.result()
            except BrimError as error:
                self._host.log.debug("a ticket expired on the device: %s", error)

    @property
    def _ticket(self) -> Ticket | None:
        deferred = None if self._exchange is None else self._exchange.deferred
        return None if deferred is None else deferred.ticket

    # --- writing ---------------------------------------------------------------------------------

    def _produce(self) -> None:
        if self._exchange is not None:
            self._run(self._exchange.produce, self._produced)

    def _produced(self) -> None:
        if self._exchange is None or self._exchange.lost:
            self.close()
            return
        self._sent()

    def _write(self) -> None:
        if self._flush():
            self._alarm_in(WRITE_S)
        if self.state is not State.CLOSED:
            self._sent()

    def _flush(self) -> bool:
        """Send what goes; was it anything?"""
        try:
            return self._outbox.flush()
        except OSError:
            self._outbox.drop()
            self.close()
            return False

    def _sent(self) -> None:
        """Something was sent: is it all, and of what?"""
        if not self._outbox.empty:
            if self.state is not State.WRITING:
                self.state = State.WRITING
                self._alarm_in(WRITE_S)
            return
        exchange = self._exchange
        if exchange is not None and not exchange.done:
            self._hand_over()
            # not at once: a client who reads fast must not starve the others
            self._host.loop.call_soon((self._produce,))
            return
        self._exchange = None
        if exchange is not None and self._whole and exchange.keep:
            self._next()
        else:
            self._linger()

    def _next(self) -> None:
        """Wait for another request; it may be here already."""
        self._inbox.next_request()
        self.state = State.HEAD
        self._alarm_in(HEAD_S if self._inbox.held else self._host.keepalive_s)
        if self._inbox.held or (self._readable and not self._reading):
            # not at once: a client with a thousand requests in a row must not starve the others
            self._host.loop.call_soon((self._go_on,))

    def _go_on(self) -> None:
        """With what is here, and then with what has come meanwhile, of which nobody tells again."""
        self._proceed()
        self._read()

    # --- the end ---------------------------------------------------------------------------------

    def _linger(self) -> None:
        """Say that this was all, and wait until the client has seen it."""
        self._inbox.clear()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.state = State.LINGERING
        self._alarm_in(LINGER_S)
        self._discard()

    def _discard(self) -> None:
        for _ in range(READS_IN_A_ROW):
            if self._receive(READ_AT_ONCE) is None:
                return
        self._host.loop.call_soon((self._discard_more,))

    def _discard_more(self) -> None:
        if self.state is State.LINGERING:
            self._discard()
