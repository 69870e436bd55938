"""A Flask response that is built when its pending result is ready.

A view submits a request to the engine and returns a `Deferred`: a WSGI iterable that waits for the
result and calls `start_response` when it is iterated. Other servers, such as gthread, iterate at
once, so their thread waits. Brim's own worker finds the `Deferred` in the environ and suspends the
connection until the result is ready: no thread waits.

Flask's hooks run before there is an answer. Headers that they set on the `Deferred` are added to
the answer; code that needs the answer itself registers with `then`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from flask import Response

from app.http.responses.operation import BINARY
from app.http.responses.prepared import Environ, PreparedResponse, StartResponse
from engine.api import PendingResult

SUSPENDED: Final = "brim.deferred"
"""Key in the WSGI environ of the list where Brim's worker looks for the `Deferred` of a request."""


class Deferred(Response):
    """The response of a view whose request is in the engine, and the WSGI iterable of its answer.

    `inline`: the answer may be built on the thread that serves all connections.
    """

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
        super().__init__(content_type=BINARY)  # so that no hook takes it for JSON
        self.pending = pending
        self.inline = inline
        self._finish = finish
        self._release = release
        self._then: list[Callable[[PreparedResponse], object]] = []
        self.start_response: StartResponse | None = None
        self._closed = False

    def then(self, callback: Callable[[PreparedResponse], object]) -> None:
        """Call `callback(answer)` when the answer is built, before it is sent."""
        self._then.append(callback)

    def prepare(self) -> PreparedResponse:
        """Build the answer; waits until the result is ready."""
        try:
            answer = self._finish()
        finally:
            self._release()
        answer.add(self.headers)
        for callback in self._then:
            callback(answer)
        return answer

    def __call__(self, environ: Environ, start_response: StartResponse) -> Deferred:
        """WSGI: `start_response` is called by the iteration."""
        environ.setdefault(SUSPENDED, []).append(self)
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
        super().close()
        if not self.pending.ready:
            self.pending.cancel()
        self._release()
        # both may lead back here, and would leave a cycle for the garbage collector
        self.start_response = None
        self._finish = _closed


def _closed() -> PreparedResponse:
    raise AssertionError("an answer was built after it was closed; this is a bug")
