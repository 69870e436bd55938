"""A response that is written when its ticket is done.

May touch: flask.

WSGI lets an application return an iterable that calls `start_response` only when its first part is
asked for. So a view submits and returns a response that holds its ticket. A server that asks for
its body waits on the ticket's Event, in whatever thread asks: gthread, or any other. Brim's own
worker finds the response in the environ, and asks when the ticket is done, so that no thread waits.

What Flask runs after the view has run before there is an answer: headers that such hooks set are
put on the answer, and what must see the answer itself is told of it with `then`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from flask import Response

from app.operation import BINARY
from engine.ticket import Ticket

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
"""WSGI's, as PEP 3333 has them."""

DEFERRED: Final = "brim.deferred"
"""Where a request's environ has a list of the `Deferred`s that were made to answer it, the last of
which does. A server that put the list there finds them, whatever a middleware has wrapped around
what the app returned, and also if it has called the app with a copy of the environ."""


class Deferred(Response):
    """What a view returns when the engine has its request, and the answer is still to come."""

    def __init__(
        self,
        ticket: Ticket,
        finish: Callable[[], Response],
        leave: Callable[[], object],
        *,
        quick: bool,
    ) -> None:
        """`finish` waits for the ticket, builds the answer and never raises; `leave` is called when
        it is built, or given up. `quick`: is it built so fast that others may wait for it?
        """
        super().__init__(content_type=BINARY)  # of bytes that are not there yet
        self.ticket = ticket
        self.quick = quick
        self._finish = finish
        self._leave = leave
        self._then: list[Callable[[Response], object]] = []
        self._closed = False

    def then(self, hear: Callable[[Response], object]) -> None:
        """Call `hear(answer)` when there is one, before it is sent."""
        self._then.append(hear)

    def answer(self) -> Response:
        """The answer itself; waits until it is there."""
        try:
            answer = self._finish()
        finally:
            self._leave()
        self._add_headers(answer)
        for hear in self._then:
            hear(answer)
        return answer

    def _add_headers(self, answer: Response) -> None:
        """Those that hooks have put on this response, where the answer has not said it itself."""
        said = {name.lower() for name, _ in answer.headers}
        for name, value in self.headers:
            if name.lower() not in said:
                answer.headers.add(name, value)
            elif name.lower() == "vary":
                answer.vary.update(self.vary)

    def close(self) -> None:
        """All is over, whether somebody asked for the answer or not. Idempotent."""
        if self._closed:
            return
        self._closed = True
        super().close()
        if not self.ticket.done:
            self.ticket.cancel()
        self._leave()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Waiting:
        """WSGI: nothing has been said yet when this returns."""
        environ.setdefault(DEFERRED, []).append(self)
        return Waiting(self, environ, start_response)


class Waiting:
    """A `Deferred` as WSGI has it: the server asks for its parts."""

    __slots__ = ("_deferred", "_environ", "_start_response")

    def __init__(self, deferred: Deferred, environ: Environ, start_response: StartResponse) -> None:
        self._deferred = deferred
        self._environ = environ
        self._start_response = start_response

    def __iter__(self) -> Iterator[bytes]:
        answer = self._deferred.answer()
        try:
            yield from answer(self._environ, self._start_response)
        finally:
            answer.close()

    def close(self) -> None:
        """WSGI servers call this when they have the whole answer, or have given up."""
        self._deferred.close()
