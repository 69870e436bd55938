"""One request, from submit to its single outcome.

May touch: threading, numpy.

Whoever submits gets a `Ticket` and waits on it; the engine settles it exactly once, with outputs
or with an error. Later attempts to settle change nothing and say so by returning False.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np

from engine.errors import BrimError, Cancelled, DeadlineExceeded
from engine.model import Prepared
from engine.spec import Array, Arrays, Extent
from engine.waiting import DEFAULT_PRIORITY


class Ticket:
    """The promise given to one request.

    `_lock` guards `_outcome` and `_listener`. Moments are on the engine's monotonic clock and in
    this order, None before they come: `enqueued_at`, `gathering_at` (its first rows are copied),
    `launched_at` (they went to the device), `computed_at` (its last rows came back), `finished_at`.
    """

    __slots__ = (
        "_clock",
        "_done",
        "_listener",
        "_lock",
        "_outcome",
        "_parts",
        "_rows_missing",
        "_settled",
        "_withdraw",
        "computed_at",
        "deadline",
        "enqueued_at",
        "extent",
        "finished_at",
        "gathering_at",
        "inputs",
        "lane",
        "launched_at",
        "prepared",
        "priority",
    )

    def __init__(
        self,
        prepared: Prepared,
        extent: Extent,
        *,
        lane: int | None,
        enqueued_at: float,
        deadline: float,
        clock: Callable[[], float],
        settled: Callable[[Ticket, BrimError | None], None],
        priority: int = DEFAULT_PRIORITY,
    ) -> None:
        """`lane` is the bucket length that the rows wait for; `settled` hears the outcome once.

        `priority` 1 is the highest.
        """
        self.prepared = prepared
        self.inputs = prepared.inputs
        self.priority = priority
        self.extent = extent
        self.lane = lane
        self.enqueued_at = enqueued_at
        self.deadline = deadline
        self.gathering_at: float | None = None
        self.launched_at: float | None = None
        self.computed_at: float | None = None
        self.finished_at: float | None = None
        self._clock = clock
        self._settled = settled
        self._withdraw: Callable[[Ticket], None] | None = None
        self._listener: Listener | None = None
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._outcome: Arrays | BrimError | None = None
        self._parts: dict[int, Arrays] = {}
        self._rows_missing = extent.rows

    def __repr__(self) -> str:
        outcome = self._outcome
        state = "open" if outcome is None else "done"
        if isinstance(outcome, BrimError):
            state = type(outcome).__name__
        return f"<Ticket {self.extent.rows} rows, {state}>"

    @property
    def rows(self) -> int:
        """How many rows it asks for."""
        return self.extent.rows

    @property
    def done(self) -> bool:
        """Has it been settled?"""
        return self._outcome is not None

    # --- the engine's side ---------------------------------------------------------------------

    def on_withdraw(self, withdraw: Callable[[Ticket], None]) -> None:
        """Who takes the rows out of the queue when the client gives up. Set before queueing."""
        self._withdraw = withdraw

    def deliver(self, start: int, outputs: Arrays) -> bool:
        """Hand in the outputs of the rows from `start`; the last part settles the ticket.

        Whoever listens is not told: `announce` tells of a whole batch at once. Only the completer
        thread calls this, so the parts need no lock.
        """
        self._parts[start] = outputs
        self._rows_missing -= len(next(iter(outputs.values())))
        if self._rows_missing < 0:
            raise AssertionError(f"{self!r} was given rows twice; this is a bug")
        return self._rows_missing == 0 and self._settle(_in_order(self._parts))

    def fail(self, error: BrimError) -> bool:
        """Settle with an error. Each ticket gets an error object of its own: several waiters that
        raise one shared object would write into each other's tracebacks.
        """
        settled = self._settle(error)
        announce((self,))
        return settled

    def _settle(self, outcome: Arrays | BrimError) -> bool:
        with self._lock:
            if self._outcome is not None:
                return False
            self._outcome = outcome
        try:
            self.finished_at = self._clock()
            self._settled(self, outcome if isinstance(outcome, BrimError) else None)
        finally:
            self._done.set()
        return True

    # --- the client's side ---------------------------------------------------------------------

    def result(self) -> Arrays:
        """Wait until the outcome or the deadline: the device outputs, or the error, raised.

        At the deadline the ticket settles itself with `DeadlineExceeded` and its waiting rows
        leave the queue, so nothing hangs even if nobody is left to settle it.
        """
        if not self._done.wait(max(0.0, self.deadline - self._clock())):
            waited = self.deadline - self.enqueued_at
            self._give_up(DeadlineExceeded(f"no answer within {waited:.3g} s"))
            self._done.wait()  # whoever settled it first is about to say so
        outcome = self._outcome
        if isinstance(outcome, BrimError):
            raise outcome
        if outcome is None:
            raise AssertionError("done without an outcome; this is a bug")
        return outcome

    def wait(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` seconds for the outcome; is it there?"""
        return self._done.wait(timeout_s)

    def on_done(self, listener: Listener) -> None:
        """Call `listener` once when there is an outcome, on the thread of whoever settles, or here
        and now if it is there. It gets all tickets of a batch that listen to it in one call.
        """
        with self._lock:
            self._listener = listener
        announce((self,))

    def _take_listener(self) -> Listener | None:
        """The listener, to whoever is the first to tell it that the ticket is done."""
        with self._lock:
            if self._outcome is None:
                return None
            listener, self._listener = self._listener, None
            return listener

    def cancel(self) -> bool:
        """The client has gone. Rows that still wait never reach the device."""
        return self._give_up(Cancelled("the client closed the connection"))

    def _give_up(self, error: BrimError) -> bool:
        settled = self._settle(error)
        if settled and self._withdraw is not None:
            self._withdraw(self)
        announce((self,))
        return settled


Listener: TypeAlias = Callable[[list[Ticket]], None]
"""Hears of tickets that are done, on an engine's thread: it returns soon and does not raise."""


def announce(tickets: Iterable[Ticket]) -> None:
    """Tell those who listen to these tickets; each of them once, of all of its tickets."""
    told: dict[Listener, list[Ticket]] = {}
    for ticket in tickets:
        listener = ticket._take_listener()
        if listener is not None:
            told.setdefault(listener, []).append(ticket)
    for listener, done in told.items():
        listener(done)


def _in_order(parts: Mapping[int, Arrays]) -> dict[str, Array]:
    """Put the parts of a split request together again."""
    ordered = [parts[start] for start in sorted(parts)]
    if len(ordered) == 1:
        return dict(ordered[0])
    return {name: np.concatenate([part[name] for part in ordered]) for name in ordered[0]}
