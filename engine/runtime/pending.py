"""The result of one request: one outcome, set once, and the times of what led to it.

The engine sets the outcome of all requests of a batch (`deliver`, `fail`) and then notifies them
together (`notify`), so that a listener is called once for a batch and not once for a request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np

from engine.errors import BrimError, Cancelled, DeadlineExceeded
from engine.models.tensors import Array, Arrays
from engine.runtime.request import Request


class Queue(Protocol):
    """What a result needs of the queue that its request waits in."""

    def withdraw(self, request: Request) -> None:
        """Remove its rows: the request was cancelled or has expired."""

    def stop_coalescing(self) -> None:
        """The calling thread is about to wait."""


@dataclass(slots=True, eq=False)
class RequestTrace:
    """When a request reached each stage, on the engine's monotonic clock; None before it did.

    gathering_at  its first rows are copied into a staging buffer
    launched_at   these rows went to the device
    computed_at   its last rows came back from the device
    finished_at   its outcome was set
    """

    gathering_at: float | None = None
    launched_at: float | None = None
    computed_at: float | None = None
    finished_at: float | None = None


class PendingResult:
    """The outcome of one request: its outputs or an error, set exactly once.

    `_lock` guards `_outcome`, `_ready`, `_listener` and `_event`, which is made when the first
    thread waits: under Brim's own worker no thread does.
    """

    __slots__ = (
        "_clock",
        "_event",
        "_finished",
        "_listener",
        "_lock",
        "_outcome",
        "_parts",
        "_queue",
        "_ready",
        "_rows_missing",
        "request",
        "trace",
    )

    def __init__(
        self,
        request: Request,
        clock: Callable[[], float],
        finished: Finished,
        queue: Queue,
    ) -> None:
        """`finished` is called with the outcome set, before the waiters are notified."""
        self.request = request
        self.trace = RequestTrace()
        self._clock = clock
        self._finished = finished
        self._queue = queue
        self._lock = threading.Lock()
        self._outcome: Arrays | BrimError | None = None
        self._ready = False
        self._listener: Listener | None = None
        self._event: threading.Event | None = None
        self._parts: dict[int, Arrays] = {}
        self._rows_missing = request.rows

    def __repr__(self) -> str:
        state = "open" if self._outcome is None else "done"
        if self.error is not None:
            state = type(self.error).__name__
        return f"<PendingResult {self.request.rows} rows, {state}>"

    @property
    def ready(self) -> bool:
        """Whether the outcome is set and the listeners were notified."""
        return self._ready

    @property
    def deadline(self) -> float:
        """When the answer stops being useful, on the engine's monotonic clock."""
        return self.request.deadline

    @property
    def error(self) -> BrimError | None:
        """The outcome, if it is an error."""
        outcome = self._outcome
        return outcome if isinstance(outcome, BrimError) else None

    def deliver(self, start: int, outputs: Arrays) -> bool:
        """Add the device outputs of the rows from `start`.

        Returns True if that completed the outcome; the caller then has to `notify`. One thread at
        a time calls this, so the parts need no lock.
        """
        count = len(next(iter(outputs.values())))
        self._rows_missing -= count
        if self._rows_missing < 0:
            raise AssertionError(f"{self!r} was given rows twice; this is a bug")
        if count == self.request.rows:
            return self._set_outcome(outputs)
        self._parts[start] = outputs
        return self._rows_missing == 0 and self._set_outcome(_in_order(self._parts))

    def fail(self, error: BrimError) -> bool:
        """Set an error as the outcome and notify. Returns False if there was an outcome.

        Each result gets an error object of its own: waiters that raise one shared object would
        write into each other's tracebacks.
        """
        was_set = self._set_outcome(error)
        if was_set:
            notify((self,))
        return was_set

    def _set_outcome(self, outcome: Arrays | BrimError) -> bool:
        with self._lock:
            if self._outcome is not None:
                return False
            self._outcome = outcome
        self.trace.finished_at = self._clock()
        return True

    def _set_ready(self) -> Listener | None:
        """Wake the waiting threads. Returns the listener, for the caller to call."""
        with self._lock:
            self._ready = True
            listener, self._listener = self._listener, None
            event = self._event
        if event is not None:
            event.set()
        return listener

    def result(self) -> Arrays:
        """Wait until the outcome or the deadline. Returns the client's outputs, or raises.

        The model's `postprocess` runs here, in the calling thread. At the deadline the result
        expires by itself, so the call returns even if every engine thread is dead.
        """
        if not self._ready and not self.wait(max(0.0, self.request.deadline - self._clock())):
            self.expire()
        outcome = self._outcome
        if isinstance(outcome, BrimError):
            raise outcome
        if outcome is None:
            raise AssertionError("ready without an outcome; this is a bug")
        return self.request.processor.finish(outcome)

    def wait(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` seconds until it is ready. Returns whether it is."""
        if self._ready:
            return True
        self._queue.stop_coalescing()
        return self._made_event().wait(timeout_s)

    def _made_event(self) -> threading.Event:
        with self._lock:
            if self._event is None:
                self._event = threading.Event()
                if self._ready:
                    self._event.set()
            return self._event

    def on_ready(self, listener: Listener) -> None:
        """Call `listener` once when it is ready: on an engine thread, or in this call if it is.

        Results of one batch with the same listener are passed to it in one call.
        """
        with self._lock:
            if not self._ready:
                self._listener = listener
                return
        listener([self])

    def release(self) -> None:
        """The outputs are not needed any more. They are arrays of their own here: nothing to do."""

    def cancel(self) -> bool:
        """The client has disconnected. Rows that still wait never reach the device."""
        return self._give_up(Cancelled("the client closed the connection"))

    def expire(self) -> None:
        """The deadline has passed. When this returns, the result is ready."""
        allowed = self.request.deadline - self.request.enqueued_at
        if not self._give_up(DeadlineExceeded(f"no answer within {allowed:.3g} s")):
            self._made_event().wait()  # the thread that set the outcome is about to notify

    def _give_up(self, error: BrimError) -> bool:
        was_set = self.fail(error)
        if was_set:
            self._queue.withdraw(self.request)
        return was_set


Listener: TypeAlias = Callable[[Sequence[PendingResult]], object]
"""Called with ready results, on an engine thread. It returns soon and does not raise."""

Finished: TypeAlias = Callable[[Sequence[PendingResult]], object]
"""Called with results whose outcome is set, before their waiters are notified."""


def notify(results: Sequence[PendingResult]) -> None:
    """Notify the recorder, the waiters and the listeners of results whose outcome is set.

    Each recorder and each listener is called once, with all of its results.
    """
    by_recorder: dict[Finished, list[PendingResult]] = {}
    for result in results:
        by_recorder.setdefault(result._finished, []).append(result)
    try:
        for finished, group in by_recorder.items():
            finished(group)
    finally:
        call_listeners((result._set_ready(), result) for result in results)


T = TypeVar("T")


def call_listeners(listened: Iterable[tuple[Callable[[Sequence[T]], object] | None, T]]) -> None:
    """Call each listener once, with all of its results, when all pairs are known."""
    by_listener: dict[Callable[[Sequence[T]], object], list[T]] = {}
    for listener, result in listened:
        if listener is not None:
            by_listener.setdefault(listener, []).append(result)
    with ExitStack() as listeners:  # each is called, also where another raises
        for listener, group in by_listener.items():
            listeners.callback(listener, group)


def fail_all(outcomes: Iterable[tuple[PendingResult, BrimError]]) -> None:
    """Set the errors of results without an outcome, and notify these results together."""
    notify([result for result, error in outcomes if result._set_outcome(error)])


def _in_order(parts: Mapping[int, Arrays]) -> dict[str, Array]:
    """Join the parts of a request that was split over several batches."""
    ordered = [parts[start] for start in sorted(parts)]
    return {name: np.concatenate([part[name] for part in ordered]) for name in ordered[0]}
