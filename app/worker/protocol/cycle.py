"""One request and its answer, between gunicorn and the application."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from io import BytesIO
from typing import Any, Protocol, TypeAlias

from gunicorn.http.message import Request

from app.worker.protocol.head_cache import Head
from app.worker.protocol.response import WorkerResponse
from app.worker.protocol.write_buffer import WriteBuffer
from app.worker.suspension import EXCHANGE, Exchange, SuspendedAnswer

App: TypeAlias = Callable[..., Iterable[bytes]]
"""A WSGI application."""

_DRAIN: int = 64 * 1024
"""Bytes of an unread body per read."""


class Host(Protocol):
    """What a gunicorn worker offers to a cycle."""

    cfg: Any
    log: Any
    wsgi: App
    quitting: bool
    """A signal has ended this process: its SystemExit may come out of any code."""

    def handle_error(
        self, req: Any, client: Any, addr: Any, exc: BaseException, head: bytes = b""
    ) -> None:
        """Log an error and write the answer to it; `head` has the bytes that are no request."""


class RequestResponseCycle:
    """`prepare`, `call`, and `produce` until it is `done`; or `abandon`. On one thread at a time.

    `keep`: the connection may serve another request. `lost`: the client is gone. When a call in a
    lane is given up, its thread has this object, and `successor` answers.
    """

    __slots__ = (
        "_host",
        "_iterator",
        "_parts",
        "_response",
        "_started",
        "_write_buffer",
        "done",
        "environ",
        "exchange",
        "keep",
        "lost",
        "request",
    )

    def __init__(self, host: Host, request: Request, write_buffer: WriteBuffer) -> None:
        self._host = host
        self._write_buffer = write_buffer
        self._parts: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] | None = None
        self._response: Any = None
        self.exchange = Exchange(math.inf)
        self.request = request
        self.environ: dict[str, Any] = {}
        self.done = False
        self.keep = False
        self.lost = False

    def prepare(self, head: Head, server: Any, read_at: float, *, close: bool) -> None:
        """Make the environ. The request was read at `read_at`; `close`: the connection ends with
        this answer. May raise.
        """
        host = self._host
        try:
            host.cfg.pre_request(host, self.request)
            self._started = datetime.now()
            self._response, self.environ = head.open(
                self.request, self._write_buffer, server, host.cfg
            )
        except BaseException:
            self._call_hook()
            raise
        self.exchange.read_at = read_at
        self.environ[EXCHANGE] = self.exchange
        if close:
            self._response.force_close()

    def successor(self) -> RequestResponseCycle:
        """For another answer to this request, of which nothing was sent and nothing will be."""
        other = RequestResponseCycle(self._host, self.request, self._write_buffer)
        other._started = self._started
        other._response = WorkerResponse(self.request, self._write_buffer, self._host.cfg)
        other._response.must_close = self._response.must_close
        if not isinstance(self.request.body, BytesIO):
            other._response.force_close()  # the call may go on reading what the client sends
        other.exchange.read_at = self.exchange.read_at
        other.exchange.deadline = self.exchange.deadline
        other.environ = {**self.environ, EXCHANGE: other.exchange}
        return other

    def call(self, app: App | None = None) -> None:
        """Call the application, or another one."""
        try:
            self._parts = (app or self._host.wsgi)(self.environ, self._response.start_response)
        except BaseException as error:
            self._fail(error)

    @property
    def begun(self) -> bool:
        """Whether some of the answer was sent."""
        return bool(self._response.headers_sent)

    @property
    def suspended(self) -> SuspendedAnswer | None:
        """The answer that needs a pending result, if the application has returned one."""
        answers = self.exchange.answers
        return None if self.done or not answers else answers[-1]

    @property
    def inline(self) -> bool:
        """Whether the suspended answer can be built on the loop's thread. Something wrapped around
        it may take any time.
        """
        suspended = self.suspended
        return suspended is not None and suspended.inline and self._parts is suspended

    def produce(self) -> None:
        """Make and send the answer, until it is complete or the client reads slowly."""
        if not self.done:
            self._make()
        if self.exchange.may_answer():
            self._flush()

    def _make(self) -> None:
        try:
            answer = self.suspended
            # a middleware may have wrapped the answer, or `start_response` to add headers
            if (
                answer is not None
                and self._parts is answer
                and answer.start_response == self._response.start_response
            ):
                prepared = answer.prepare()
                if not self.exchange.may_answer():
                    return
                self._response.write_prepared(prepared)
            elif not self._write_parts():
                return
            self._response.close()
            self.keep = not self._response.should_close() and self._is_whole()
            self._end()
        except BaseException as error:
            self._fail(error)

    def _write_parts(self) -> bool:
        """Write what the application yields. Returns whether that was all."""
        if self._iterator is None:
            self._iterator = iter(self._parts)
        for part in self._iterator:
            if not self.exchange.may_answer():
                return False
            self._response.write(part)
            self._flush()
            if self.lost or self._write_buffer.full:
                return False
        return True

    def _flush(self) -> None:
        if self._write_buffer.flush() is None:
            self.lost = True
            self.abandon()

    def abandon(self) -> None:
        """End without the rest of the answer."""
        self.keep = False
        if not self.done:
            self._end()

    def _fail(self, error: BaseException) -> None:
        """As gunicorn's workers: send a 500, or cut off an answer that has begun. SystemExit of an
        application ends its request, and not the process.
        """
        self.keep = False
        begun = self.begun
        if begun or not self.exchange.may_answer():
            self._host.log.exception("Error handling request")
        else:
            address = self.request.peer_addr
            self._host.handle_error(self.request, self._write_buffer, address, error)
        if not self.done:
            self._end(logged=not begun)
        if self._host.quitting and not isinstance(error, Exception):
            raise error

    def _end(self, *, logged: bool = False) -> None:
        """Write the access log, unless it was `logged` already, and close the answer."""
        self.done = True
        host, response = self._host, self._response
        ours = not self.exchange.given_up  # otherwise the successor tells of this request
        try:
            if response.status is not None and not logged and ours:
                spent = datetime.now() - self._started
                host.log.access(response, self.request, self.environ, spent)
            # a middleware may have dropped a suspended answer, or have failed around it
            for part in (self._parts, *self.exchange.answers):
                close = getattr(part, "close", None)
                if close is not None:
                    close()
        except BaseException:
            self.keep = False
            host.log.exception("Error handling request")
        if ours:
            self._call_hook()

    def _call_hook(self) -> None:
        try:
            self._host.cfg.post_request(self._host, self.request, self.environ, self._response)
        except BaseException:
            self._host.log.exception("Exception in post_request hook")

    def _is_whole(self) -> bool:
        """Whether the answer and the request's body are complete, so that others can follow.

        After an answer shorter than its Content-Length, a client would read the beginning of the
        next answer as the rest of this one.
        """
        response = self._response
        length = response.response_length
        return (length in (None, response.sent) or response._omits_body) and self._drain_body()

    def _drain_body(self) -> bool:
        """Read what the application has left of the body. Returns False where its end is unknown,
        because reading it has failed.
        """
        body = self.request.body
        if isinstance(body, BytesIO):
            return True
        try:
            while body.read(_DRAIN):
                pass
        except Exception:
            return False
        return not body.failed
