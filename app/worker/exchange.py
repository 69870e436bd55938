"""One request and its answer, between gunicorn and the application.

May touch: gunicorn's response and hooks, the application. It may run on any thread, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from io import BytesIO
from typing import Any, Protocol

from gunicorn.http.message import Request

from app.deferred import DEFERRED, Deferred, Waiting
from app.worker.heads import Head
from app.worker.outbox import Outbox


class Host(Protocol):
    """What a gunicorn worker offers to an exchange."""

    cfg: Any
    log: Any
    wsgi: Callable[..., Iterable[bytes]]

    def handle_error(self, request: Any, client: Any, address: Any, error: BaseException) -> None:
        """Log an error and write gunicorn's answer to it."""


class Exchange:
    """`prepare`, `call`, and `produce` until it is `done`; or `abandon`.

    `keep`: may the connection serve another request? `lost`: is the client gone?
    """

    __slots__ = (
        "_address",
        "_head",
        "_host",
        "_iterator",
        "_outbox",
        "_parts",
        "_response",
        "_started",
        "_waiting",
        "done",
        "environ",
        "keep",
        "lost",
        "request",
    )

    def __init__(
        self, host: Host, head: Head, request: Request, outbox: Outbox, address: Any
    ) -> None:
        self._host = host
        self._head = head
        self._outbox = outbox
        self._address = address
        self._parts: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] | None = None
        self._response: Any = None
        self._waiting: list[Deferred] = []
        self.request = request
        self.environ: dict[str, Any] = {}
        self.done = False
        self.keep = False
        self.lost = False

    def prepare(self, server: Any, *, close: bool) -> None:
        """Make the environ; `close`: the connection ends with this answer. May raise."""
        host = self._host
        try:
            host.cfg.pre_request(host, self.request)
            self._started = datetime.now()
            self._response, self.environ = self._head.open(
                self.request, self._outbox, self._address, server, host.cfg
            )
        except Exception:
            self._tell_hook()
            raise
        self.environ[DEFERRED] = self._waiting
        if close:
            self._response.force_close()

    def call(self) -> None:
        """Call the application."""
        try:
            self._parts = self._host.wsgi(self.environ, self._response.start_response)
        except BaseException as error:
            self._fail(error)

    @property
    def deferred(self) -> Deferred | None:
        """What the application waits for, if it has not started to answer."""
        return None if self.done or not self._waiting else self._waiting[-1]

    @property
    def quick(self) -> bool:
        """Is the answer that was waited for soon made? Not if there is something around it."""
        deferred = self.deferred
        return deferred is not None and deferred.quick and isinstance(self._parts, Waiting)

    def produce(self) -> None:
        """Make the answer, and send it, until there is no more of it or the client reads slowly."""
        if not self.done:
            self._make()
        self._sent_some()

    def _make(self) -> None:
        try:
            if self._iterator is None:
                self._iterator = iter(self._parts)
            for part in self._iterator:
                self._response.write(part)
                if self._sent_some() or self._outbox.full:
                    break
            else:
                self._response.close()
                self.keep = not self._response.should_close() and self._is_whole()
                self._end()
        except BaseException as error:
            self._fail(error)

    def _sent_some(self) -> bool:
        """Send what can be sent; is the client lost?"""
        try:
            self._outbox.flush()
        except OSError:
            self.lost = True
            self._outbox.drop()
            self.abandon()
        return self.lost

    def abandon(self) -> None:
        """Nobody is there to read the rest."""
        self.keep = False
        if not self.done:
            self._end()

    def _fail(self, error: BaseException) -> None:
        """As gunicorn's workers: a 500, or a cut where the answer has begun. What was to end the
        thread is raised again.
        """
        self.keep = False
        begun = self._response.headers_sent
        if begun:
            self._host.log.exception("Error handling request")
        else:
            self._host.handle_error(self.request, self._outbox, self._address, error)
        if not self.done:
            self._end(told=not begun)
        if not isinstance(error, Exception):
            raise error

    def _end(self, *, told: bool = False) -> None:
        """Log it, if the log was not `told`, and let everybody free what they hold. Once."""
        self.done = True
        host, response = self._host, self._response
        try:
            if response.status is not None and not told:
                spent = datetime.now() - self._started
                host.log.access(response, self.request, self.environ, spent)
            # a middleware may have forgotten a `Deferred`, or have failed around it
            for held in (self._parts, *self._waiting):
                close = getattr(held, "close", None)
                if close is not None:
                    close()
        except Exception:
            self.keep = False
            host.log.exception("Error handling request")
        self._tell_hook()

    def _tell_hook(self) -> None:
        try:
            self._host.cfg.post_request(self._host, self.request, self.environ, self._response)
        except Exception:
            self._host.log.exception("Exception in post_request hook")

    def _is_whole(self) -> bool:
        """Does the next answer begin behind this one, and the next request behind this one's body?
        An answer shorter than it says would take its client the beginning of the next for its rest.
        """
        response = self._response
        length = response.response_length
        return (length in (None, response.sent) or response._omits_body) and self._is_read()

    def _is_read(self) -> bool:
        """Read what the application has left of the body; is the next request behind it?

        As gunicorn does, and for the same reason: where a body failed, nobody knows where it ends.
        """
        body = self.request.body
        if isinstance(body, BytesIO):
            return True
        try:
            while body.read(64 * 1024):
                pass
        except Exception:
            return False
        return not body.failed
