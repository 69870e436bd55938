"""The interface between the worker and an application whose answers need pending results.

The worker puts an empty list at `SUSPENDED` into the WSGI environ. An application that returns
before its result is ready appends a `SuspendedAnswer` to that list. The worker then suspends the
connection, without a thread, until `pending` is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

SUSPENDED: Final = "brim.deferred"
"""Key in the WSGI environ of the list of this request's suspended answers; the last one counts.
A list, because it is shared with copies of the environ that a middleware makes."""


class Pending(Protocol):
    """A result that another thread sets once."""

    @property
    def ready(self) -> bool:
        """Whether there is an outcome."""

    @property
    def deadline(self) -> float:
        """Monotonic seconds at which the worker calls `expire`."""

    def on_ready(self, callback: Callable[[Sequence[Any]], object], /) -> None:
        """Call `callback` once, on any thread, with all results that became ready together."""

    def cancel(self) -> object:
        """The client has closed the connection. The result becomes ready."""

    def expire(self) -> object:
        """The deadline has passed. The result becomes ready."""


class PreparedAnswer(Protocol):
    """A whole answer: WSGI's status and headers, without Content-Length, and the content."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes


class SuspendedAnswer(Protocol):
    """A WSGI iterable whose first part needs `pending`.

    If the application returned this object itself and `inline` is set, the answer is made on the
    loop's thread, otherwise in the pool. If it returned this object itself and `start_response` is
    the worker's own, the worker writes what `prepare` returns, otherwise it iterates.
    """

    pending: Pending
    inline: bool
    start_response: Any
    """The WSGI callable that the application was called with."""

    def prepare(self) -> PreparedAnswer:
        """Build the answer. Called once, when `pending` is ready."""

    def __iter__(self) -> Iterator[bytes]:
        """As WSGI: wait for the result and yield the body."""

    def close(self) -> None:
        """As WSGI: release what it holds, whether the answer was made or not."""
