"""The interface between the worker and an application that knows more of its requests than WSGI.

The worker puts an `Exchange` at `EXCHANGE` into the WSGI environ. An application that returns
before its result is ready appends a `SuspendedAnswer` to its `answers`. The worker then suspends
the connection, without a thread, until `pending` is ready.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

EXCHANGE: Final = "brim.exchange"
"""Key in the WSGI environ. Copies of the environ that a middleware makes share the object."""


class Place(NamedTuple):
    """Where a request runs. `inline`: on the thread that serves all connections; otherwise, and
    where its answer may block, in `lane`. It is worth nothing `timeout_s` after it was read.
    """

    lane: str
    inline: bool = False
    timeout_s: float = math.inf


class Call(Protocol):
    """A call of the application on a thread, which may be given up."""

    @property
    def given_up(self) -> bool:
        """Whether its outcome is not wanted any more."""

    def keep(self) -> bool:
        """Begin the answer. Returns False if the call was given up."""


class Exchange:
    """One request, as far as worker and application both take part in it.

    `read_at`: when the last byte of it was read, on the monotonic clock. `answers`: those that need
    a pending result; the last one counts. `job`: the call in a lane that makes the answer now.
    """

    __slots__ = ("answers", "deadline", "job", "on_limit", "on_overdue", "read_at")

    def __init__(self, read_at: float) -> None:
        self.read_at = read_at
        self.answers: list[SuspendedAnswer] = []
        self.deadline = math.inf
        self.job: Call | None = None
        self.on_limit: Callable[[], object] | None = None
        self.on_overdue: Callable[[], object] | None = None

    def limit(self, deadline: float) -> None:
        """The request is worth nothing after this moment. The application calls it when it knows;
        at the deadline the worker answers, whatever the application does.
        """
        if deadline < self.deadline:
            self.deadline = deadline
            if self.on_limit is not None:
                self.on_limit()

    def overdue(self) -> None:
        """The application refuses it because it has waited too long: the worker lets others wait
        less.
        """
        if self.on_overdue is not None:
            self.on_overdue()

    @property
    def given_up(self) -> bool:
        """Whether the worker has answered instead of the application."""
        return self.job is not None and self.job.given_up

    def may_answer(self) -> bool:
        """Whether the application's answer may be sent. If so, the worker sends none."""
        return self.job is None or self.job.keep()


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

    inline: bool
    start_response: Any
    """The WSGI callable that the application was called with."""

    @property
    def pending(self) -> Pending:
        """What it waits for."""

    def prepare(self) -> PreparedAnswer:
        """Build the answer. Called once, when `pending` is ready."""

    def __iter__(self) -> Iterator[bytes]:
        """As WSGI: wait for the result and yield the body."""

    def close(self) -> None:
        """As WSGI: release what it holds, whether the answer was made or not."""
