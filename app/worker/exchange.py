"""One request and its answer, between gunicorn and the application.

May touch: gunicorn's response and hooks, the application. It may run on any thread, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from io import BytesIO
from typing import Any, Protocol

from gunicorn.http.message import Request

from app.deferred import DEFERRED, Deferred
from app.worker.heads import Head
from app.worker.outbox import Outbox


class Host(Protocol):
    """What a gunicorn worker offers to an exchange."""

    cfg: Any
    log: Any
    wsgi: Callable[..., Iterable[bytes]]

    def handle_error(self, request: Any, client: Any, address: Any, error: Exception) -> None:
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
        self.request = request
        self.environ: dict[str, Any] = {}
        self.done = False
        self.keep = False
        self.lost = False

    def prepare(self, server: Any, *, close: bool) -> None:
        """Make the environ; `close`: the connection ends with this answer. May raise."""
        host = self._host
        host.cfg.pre_request(host, self.request)
        self._started = datetime.now()
        self._response, self.environ = self._head.open(
            self.request, self._outbox, self._address, server, host.cfg
        )
        if close:
            self._response.force_close()

    def call(self) -> None:
        """Call the application."""
        try:
            self._parts = self._host.wsgi(self.environ, self._response.start_response)
        except Exception as error:
            deferred = self.deferred
            if deferred is not None:
                # whatever failed around it, nobody will ask for its answer
                deferred.close()
            self._fail(error)

    @property
    def deferred(self) -> Deferred | None:
        """What the application waits for, if it has not started to answer."""
        return None if self.done else self.environ.get(DEFERRED)

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
                self.keep = not self._response.should_close()
                self._end()
        except Exception as error:
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

    def _fail(self, error: Exception) -> None:
        """As gunicorn's workers: a 500, or a cut where the answer has begun."""
        self.keep = False
        if self._response.headers_sent:
            self._host.log.exception("Error handling request")
        else:
            self._host.handle_error(self.request, self._outbox, self._address, error)
        if not self.done:
            self._end()

    def _end(self) -> None:
        """Log it, and let everybody free what they hold. Once."""
        self.done = True
        host, response = self._host, self._response
        try:
            if response.status is not None:
                spent = datetime.now() - self._started
                host.log.access(response, self.request, self.environ, spent)
            close = getattr(self._parts, "close", None)
            if close is not None:
                close()
        except Exception:
            self.keep = False
            host.log.exception("Error handling request")
        try:
            host.cfg.post_request(host, self.request, self.environ, response)
        except Exception:
            host.log.exception("Exception in post_request hook")

    def is_read(self) -> bool:
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
