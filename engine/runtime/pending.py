"""The result of one request: one outcome, set once, and the times of what led to it.

The engine sets the outcome of all requests of a batch (`deliver`, `fail`) and then notifies them
together (`notify`), so that a listener is called once for a batch and not once for a request.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar, cast

import numpy as np
from typing_extensions import override

from engine.errors import BrimError, Cancelled, DeadlineExceeded
from engine.models.tensors import Array, Arrays, TensorSpec
from engine.runtime.request import QueuedRequest, Request
from engine.runtime.staging import copy_outputs
from engine.scheduling.request_queue import RowSlice


class Queue(Protocol):
    """What a result needs of the queue that its request waits in."""

    def withdraw(self, request: QueuedRequest) -> None:
        """Remove its rows: the request was cancelled or has expired."""

    def stop_coalescing(self) -> None:
        """The calling thread is about to wait."""


class Part(NamedTuple):
    """Rows of one request in a batch: the outputs of its slice begin at the row `at`."""

    result: Pending
    row_slice: RowSlice[QueuedRequest]
    at: int


class Origin(Protocol):
    """Where requests come from, and their outputs go: this process, or another one."""

    def deliver(
        self,
        specs: Sequence[TensorSpec],
        outputs: Arrays,
        parts: Sequence[Part],
        ready: list[Pending],
    ) -> None:
        """Take over the outputs of these rows. Results that have their outcome by that are appended
        to `ready`; the caller has to `notify`, also after an exception. One thread at a time calls
        this.
        """


class Home(NamedTuple):
    """What all results of one endpoint share. `finished` is called with results whose outcome is
    set, before the waiters are notified.
    """

    clock: Callable[[], float]
    finished: Finished
    queue: Queue


class Pending(ABC):
    """A request with its outcome, which is set exactly once, and the times of what led to it.

    origin        where its outputs go
    gathering_at  its first rows are copied into a staging buffer; None before that
    launched_at   these rows went to the device
    computed_at   its last rows came back from the device
    finished_at   its outcome was set

    `_lock` guards the outcome. Times are on the engine's monotonic clock.
    """

    __slots__ = (
        "_lock",
        "_outcome",
        "computed_at",
        "finished_at",
        "gathering_at",
        "home",
        "launched_at",
        "origin",
    )

    def __init__(self, home: Home, lock: threading.Lock, origin: Origin) -> None:
        self.home = home
        self.origin = origin
        self._lock = lock
        self._outcome: Arrays | BrimError | None = None
        self.gathering_at: float | None = None
        self.launched_at: float | None = None
        self.computed_at: float | None = None
        self.finished_at: float | None = None

    def __repr__(self) -> str:
        state = "open" if self._outcome is None else "done"
        if self.error is not None:
            state = type(self.error).__name__
        return f"<{type(self).__name__} {self.request.rows} rows, {state}>"

    @property
    @abstractmethod
    def request(self) -> QueuedRequest:
        """What is queued."""

    @property
    def finished(self) -> Finished:
        """What is called with the outcome set, before the waiters are notified."""
        return self.home.finished

    @property
    def error(self) -> BrimError | None:
        """The outcome, if it is an error."""
        outcome = self._outcome
        return outcome if isinstance(outcome, BrimError) else None

    def fail(self, error: BrimError) -> bool:
        """Set an error as the outcome and notify. Returns False if there was an outcome.

        Each result gets an error object of its own: waiters that raise one shared object would
        write into each other's tracebacks.
        """
        was_set = self.set_outcome(error)
        if was_set:
            notify((self,))
        return was_set

    def set_outcome(self, outcome: Arrays | BrimError) -> bool:
        """Returns False if there was one. Otherwise the caller has to `notify`."""
        with self._lock:
            if self._outcome is not None:
                return False
            self._outcome = outcome
        self.finished_at = self.home.clock()
        return True

    @abstractmethod
    def set_ready(self) -> Listener | None:
        """Wake the waiting threads. Returns the listener, for the caller to call."""

    def cancel(self) -> bool:
        """The client has disconnected. Rows that still wait never reach the device."""
        return self._give_up(Cancelled("the client closed the connection"))

    def expire(self) -> None:
        """The deadline has passed."""
        self._give_up(self._late())

    def _late(self) -> DeadlineExceeded:
        allowed = self.request.deadline - self.request.enqueued_at
        return DeadlineExceeded(f"no answer within {allowed:.3g} s")

    def _give_up(self, error: BrimError) -> bool:
        was_set = self.fail(error)
        if was_set:
            self.home.queue.withdraw(self.request)
        return was_set


class PendingResult(Pending):
    """The outcome of a request of this process: its outputs or an error.

    `_lock` guards `_outcome`, `_ready`, `_listener` and `_event`, which is made when the first
    thread waits: under Brim's own worker no thread does.
    """

    __slots__ = ("_event", "_listener", "_parts", "_ready", "_request", "_rows_missing")

    def __init__(
        self,
        request: Request,
        clock: Callable[[], float],
        finished: Finished,
        queue: Queue,
    ) -> None:
        """`finished` is called with the outcome set, before the waiters are notified."""
        super().__init__(Home(clock, finished, queue), threading.Lock(), HERE)
        self._request = request
        self._ready = False
        self._listener: Listener | None = None
        self._event: threading.Event | None = None
        self._parts: dict[int, Arrays] = {}
        self._rows_missing = request.rows

    @property
    @override
    def request(self) -> Request:
        return self._request

    @property
    def ready(self) -> bool:
        """Whether the outcome is set and the listeners were notified."""
        return self._ready

    @property
    def deadline(self) -> float:
        """When the answer stops being useful, on the engine's monotonic clock."""
        return self.request.deadline

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
            return self.set_outcome(outputs)
        self._parts[start] = outputs
        return self._rows_missing == 0 and self.set_outcome(_in_order(self._parts))

    @override
    def set_ready(self) -> Listener | None:
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
        if not self._ready and not self.wait(max(0.0, self.request.deadline - self.home.clock())):
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
        self.home.queue.stop_coalescing()
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

    @override
    def expire(self) -> None:
        """The deadline has passed. When this returns, the result is ready."""
        if not self._give_up(self._late()):
            self._made_event().wait()  # the thread that set the outcome is about to notify


class _Here:
    """The threads of this process: they get arrays of their own."""

    def deliver(
        self,
        specs: Sequence[TensorSpec],
        outputs: Arrays,
        parts: Sequence[Part],
        ready: list[Pending],
    ) -> None:
        """See `Origin`."""
        for result, row_slice, at in parts:
            own, rows = cast("PendingResult", result), cast("RowSlice[Request]", row_slice)
            if own.deliver(rows.start, copy_outputs(specs, outputs, at, rows)):
                ready.append(own)


HERE: Final = _Here()


Listener: TypeAlias = Callable[[Sequence[Any]], object]
"""Called with ready results, on an engine thread. It returns soon and does not raise."""

Finished: TypeAlias = Callable[[Sequence[Any]], object]
"""Called with results whose outcome is set, before their waiters are notified."""


def notify(results: Sequence[Pending]) -> None:
    """Notify the recorder, the waiters and the listeners of results whose outcome is set.

    Each recorder and each listener is called once, with all of its results.
    """
    by_recorder: dict[Finished, list[Pending]] = {}
    for result in results:
        by_recorder.setdefault(result.finished, []).append(result)
    try:
        for finished, group in by_recorder.items():
            finished(group)
    finally:
        call_listeners((result.set_ready(), result) for result in results)


T = TypeVar("T")


def call_listeners(listened: Iterable[tuple[Callable[[Sequence[T]], object] | None, T]]) -> None:
    """Call each listener once, with all of its results, when all pairs are known."""
    by_listener: dict[Callable[[Sequence[T]], object], list[T]] = {}
    for listener, result in listened:
        if listener is not None:
            by_listener.setdefault(listener, []).append(result)
    call_each([partial(listener, group) for listener, group in by_listener.items()])


def call_each(calls: Sequence[Callable[[], object]]) -> None:
    """Call each, also where another raises."""
    if len(calls) == 1:  # an ExitStack takes 3 us
        calls[0]()
        return
    with ExitStack() as each:
        for call in calls:
            each.callback(call)


def fail_all(outcomes: Iterable[tuple[Pending, BrimError]]) -> None:
    """Set the errors of results without an outcome, and notify these results together."""
    notify([result for result, error in outcomes if result.set_outcome(error)])


def _in_order(parts: Mapping[int, Arrays]) -> dict[str, Array]:
    """Join the parts of a request that was split over several batches."""
    ordered = [parts[start] for start in sorted(parts)]
    return {name: np.concatenate([part[name] for part in ordered]) for name in ordered[0]}
