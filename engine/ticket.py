"""One request, from submit to its single outcome.

May touch: threading, numpy.

Whoever submits gets a `Ticket` and waits on it; the engine settles it exactly once, with outputs
or with an error. Later attempts to settle change nothing and say so by returning False. Who settles
a ticket announces it, a batch at a time: only then is it `done`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from engine.errors import BrimError, Cancelled, DeadlineExceeded
from engine.model import Prepared
from engine.spec import Array, Arrays, Extent
from engine.waiting import DEFAULT_PRIORITY


class Ticket:
    """The promise given to one request.

    `_lock` guards `_outcome`, `_told`, `_listener` and `_done`, an Event that is made when the
    first thread waits: under Brim's own worker none does.

    Moments are on the engine's monotonic clock and in this order, None before they come:
    `enqueued_at`, `gathering_at` (its first rows are copied), `launched_at` (they went to the
    device), `computed_at` (its last rows came back), `finished_at`.
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
        "_told",
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
        "rows",
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
        settled: Settled,
        priority: int = DEFAULT_PRIORITY,
    ) -> None:
        """`lane` is the bucket length that the rows wait for; `settled` hears once that there is an
        outcome, before whoever waits. `priority` 1 is the highest.
        """
        self.prepared = prepared
        self.inputs = prepared.inputs
        self.priority = priority
        self.extent = extent
        self.rows = extent.rows
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
        self._done: threading.Event | None = None
        self._told = False
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
    def done(self) -> bool:
        """Has it been settled, and everybody been told?"""
        return self._told

    @property
    def error(self) -> BrimError | None:
        """The error that it was settled with, if it was one."""
        outcome = self._outcome
        return outcome if isinstance(outcome, BrimError) else None

    # --- the engine's side ---------------------------------------------------------------------

    def on_withdraw(self, withdraw: Callable[[Ticket], None]) -> None:
        """Who takes the rows out of the queue when the client gives up. Set before queueing."""
        self._withdraw = withdraw

    def deliver(self, start: int, outputs: Arrays) -> bool:
        """Hand in the outputs of the rows from `start`. Did this settle the ticket? Then nobody has
        been told: the caller has to `announce` it, with the others of its batch.

        Only one thread at a time calls this, so the parts need no lock.
        """
        count = len(next(iter(outputs.values())))
        self._rows_missing -= count
        if self._rows_missing < 0:
            raise AssertionError(f"{self!r} was given rows twice; this is a bug")
        if count == self.rows:
            return self._settle(outputs)
        self._parts[start] = outputs
        return self._rows_missing == 0 and self._settle(_in_order(self._parts))

    def fail(self, error: BrimError) -> bool:
        """Settle with an error. Each ticket gets an error object of its own: several waiters that
        raise one shared object would write into each other's tracebacks.
        """
        settled = self._settle(error)
        if settled:
            announce((self,))
        return settled

    def _settle(self, outcome: Arrays | BrimError) -> bool:
        """Whoever settles it announces it."""
        with self._lock:
            if self._outcome is not None:
                return False
            self._outcome = outcome
        self.finished_at = self._clock()
        return True

    def _tell(self) -> Listener | None:
        """Wake who waits. Returns who listens."""
        with self._lock:
            self._told = True
            listener, self._listener = self._listener, None
            done = self._done
        if done is not None:
            done.set()
        return listener

    # --- the client's side ---------------------------------------------------------------------

    def result(self) -> Arrays:
        """Wait until the outcome or the deadline: the device outputs, or the error, raised.

        At the deadline the ticket settles itself with `DeadlineExceeded` and its waiting rows
        leave the queue, so nothing hangs even if nobody is left to settle it.
        """
        if not self._told and not self.wait(max(0.0, self.deadline - self._clock())):
            waited = self.deadline - self.enqueued_at
            self._give_up(DeadlineExceeded(f"no answer within {waited:.3g} s"))
            self._event().wait()  # whoever settled it first is about to say so
        outcome = self._outcome
        if isinstance(outcome, BrimError):
            raise outcome
        if outcome is None:
            raise AssertionError("done without an outcome; this is a bug")
        return outcome

    def wait(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` seconds for the outcome; is it there?"""
        return self._told or self._event().wait(timeout_s)

    def _event(self) -> threading.Event:
        """Set when everybody is told."""
        with self._lock:
            if self._done is None:
                self._done = threading.Event()
                if self._told:
                    self._done.set()
            return self._done

    def on_done(self, listener: Listener) -> None:
        """Call `listener` once when there is an outcome, on the thread of whoever settles, or here
        and now if it is there. It gets all tickets of a batch that listen to it in one call.
        """
        with self._lock:
            if not self._told:
                self._listener = listener
                return
        listener([self])

    def cancel(self) -> bool:
        """The client has gone. Rows that still wait never reach the device."""
        return self._give_up(Cancelled("the client closed the connection"))

    def _give_up(self, error: BrimError) -> bool:
        settled = self.fail(error)
        if settled and self._withdraw is not None:
            self._withdraw(self)
        return settled


Listener: TypeAlias = Callable[[list[Ticket]], None]
"""Hears of tickets that are done, on an engine's thread: it returns soon and does not raise."""

Settled: TypeAlias = Callable[[list[Ticket]], None]
"""Hears of tickets that have an outcome, before anybody else does."""


def announce(tickets: Sequence[Ticket]) -> None:
    """Tell of tickets that the caller has settled: who counts them, who waits, and who listens;
    each of them once, of all of its tickets.
    """
    settled: dict[Settled, list[Ticket]] = {}
    for ticket in tickets:
        settled.setdefault(ticket._settled, []).append(ticket)
    try:
        for count, counted in settled.items():
            count(counted)
    finally:
        told: dict[Listener, list[Ticket]] = {}
        for ticket in tickets:
            listener = ticket._tell()
            if listener is not None:
                told.setdefault(listener, []).append(ticket)
        for listener, done in told.items():
            listener(done)


def _in_order(parts: Mapping[int, Arrays]) -> dict[str, Array]:
    """Put the parts of a split request together again."""
    ordered = [parts[start] for start in sorted(parts)]
    return {name: np.concatenate([part[name] for part in ordered]) for name in ordered[0]}
