"""An answer that is built when its pending result is ready, as a WSGI iterable.

A view submits a request to the engine and returns at once. Other servers, such as gthread, iterate
over the answer at once, so their thread waits. Brim's own worker finds the answer in the environ
and suspends the connection until the result is ready: no thread waits.

Under Flask the answer is inside a `Deferred` response. Flask's hooks run before there is an answer:
headers that they set are added to it, and code that needs the answer itself registers with `then`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flask import Response
from typing_extensions import override
from werkzeug.datastructures import Headers

from app.http.responses.operation import BINARY
from app.http.responses.prepared import Environ, PreparedResponse, StartResponse
from app.worker.suspension import EXCHANGE, Exchange
from engine.api import PendingResult


class PendingAnswer:
    """`inline`: the answer may be built on the thread that serves all connections. `headers` are
    added to it.
    """

    __slots__ = (
        "_closed",
        "_finish",
        "_on_close",
        "_release",
        "_then",
        "headers",
        "inline",
        "pending",
        "start_response",
    )

    def __init__(
        self,
        pending: PendingResult,
        finish: Callable[[], PreparedResponse],
        release: Callable[[], object],
        *,
        inline: bool,
    ) -> None:
        """`finish` waits for the result, builds the answer and never raises. `release` is
        idempotent; it is called when the answer is built and when this is closed.
        """
        self.pending = pending
        self.inline = inline
        self.headers: dict[str, str] | Headers = {}
        self.start_response: StartResponse | None = None
        self._finish = finish
        self._release = release
        self._then: list[Callable[[PreparedResponse], object]] = []
        self._on_close: Callable[[], object] | None = None
        self._closed = False

    def then(self, callback: Callable[[PreparedResponse], object]) -> None:
        """Call `callback(answer)` when the answer is built, before it is sent."""
        self._then.append(callback)

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call `callback()` when this is closed."""
        self._on_close = callback

    def prepare(self) -> PreparedResponse:
        """Build the answer; waits until the result is ready."""
        try:
            answer = self._finish()
        finally:
            self._release()
        answer.add(self.headers.items())
        for callback in self._then:
            callback(answer)
        return answer

    def __call__(self, environ: Environ, start_response: StartResponse) -> PendingAnswer:
        """WSGI: `start_response` is called by the iteration."""
        exchange: Exchange | None = environ.get(EXCHANGE)
        if exchange is not None:
            exchange.answers.append(self)
        self.start_response = start_response
        return self

    def __iter__(self) -> Iterator[bytes]:
        """WSGI: wait for the result, then start the response and yield its body."""
        if self.start_response is None:
            raise AssertionError("iterated before it was called; this is a bug")
        yield from self.prepare()({}, self.start_response)

    def close(self) -> None:
        """Cancel a result that is not ready, and release what the request holds. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._on_close is not None:
            self._on_close()
        if not self.pending.ready:
            self.pending.cancel()
        self._release()
        # these may lead back here, and would leave a cycle for the garbage collector
        self.start_response = self._on_close = None
        self._finish = _closed
        self._then.clear()


def _closed() -> PreparedResponse:
    raise AssertionError("an answer was built after it was closed; this is a bug")


class Deferred(Response):
    """The response that Flask's hooks see while the answer is pending."""

    def __init__(self, answer: PendingAnswer) -> None:
        super().__init__(content_type=BINARY)  # so that no hook takes it for JSON
        self.answer = answer
        answer.on_close(super().close)

    def then(self, callback: Callable[[PreparedResponse], object]) -> None:
        """Call `callback(answer)` when the answer is built, before it is sent."""
        self.answer.then(callback)

    @override
    def __call__(self, environ: Environ, start_response: StartResponse) -> PendingAnswer:
        """WSGI: the answer, with the headers of this response."""
        self.answer.headers = self.headers
        return self.answer(environ, start_response)

    @override
    def close(self) -> None:
        """Close the answer, which closes this response."""
        self.answer.close()
