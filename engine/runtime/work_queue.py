"""The requests of one endpoint that wait or are in flight, behind the lock of their device group.

Every decision is taken here under the lock and returned as a value; the caller carries it out with
the lock released. The scheduler decides, and knows neither lock nor thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.errors import BrimError, ModelFailed, ShuttingDown
from engine.runtime.device_group import DeviceGroup
from engine.runtime.pending import Pending, fail_all
from engine.runtime.request import QueuedRequest, late, queue_full
from engine.scheduling.admission import AdmissionProbe, Quote
from engine.scheduling.scheduler import Expire, Launch, Scheduler, Stop, Wait
from engine.telemetry.snapshots import LoadSnapshot


@dataclass(slots=True, eq=False)  # not frozen: that would double the cost of making one
class Dispatch:
    """Launch these rows. `results` are those of the slices, in their order."""

    launch: Launch[QueuedRequest]
    results: tuple[Pending, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Expiry:
    """Results of requests that left the queue: they cannot be answered in time any more."""

    results: tuple[Pending, ...]


class WorkQueue:
    """Every accepted request is in exactly one place until its outcome is set: in `_waiting` while
    rows of it wait, in a dispatch of `_in_flight`, or in `_completing`.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler[QueuedRequest],
        group: DeviceGroup,
        clock: Callable[[], float],
    ) -> None:
        """`scheduler` was made for the timeline of `group`."""
        self._name = name
        self._scheduler = scheduler
        self._group = group
        self._clock = clock
        self._wake = threading.Condition(group.lock)
        self._waiting: dict[QueuedRequest, Pending] = {}
        self._in_flight: list[Dispatch] = []
        self._completing: tuple[Pending, ...] = ()
        self._failure: str | None = None
        self._busy = self._borrowed = False
        self.flush: Callable[[], object] = self.wake

    def wake(self) -> None:
        """Let the dispatcher's thread look at the queue."""
        with self._group.lock:
            self._wake.notify()

    def stop_coalescing(self) -> None:
        """Dispatch what the calling thread has submitted: it is about to wait for a result."""
        self._group.stop_coalescing()

    def submit(self, results: Sequence[Pending]) -> list[tuple[Pending, BrimError]]:
        """Queue requests that came together.

        Returns those that are refused, with `QueueFull`, `Shed`, `DeadlineTooShort`, `ShuttingDown`
        or `ModelFailed`.
        """
        with self._group.lock:
            refused = self._admit(results, self._clock())
            # while the scheduler waits for the device, more rows change nothing
            wakes = self._scheduler.wakes_on_arrival and len(refused) < len(results)
            if wakes and not self._group.defer(self.flush):
                self._wake.notify()
        return refused

    def _admit(self, results: Sequence[Pending], now: float) -> list[tuple[Pending, BrimError]]:
        scheduler, waiting = self._scheduler, self._waiting
        refused: list[tuple[Pending, BrimError]] = []
        # of one request, the general way is the shorter one
        together = 0 if len(results) == 1 else self._admit_together(results, now)
        for result in results[together:]:
            request = result.request
            quote = self._quote(request, now)
            if isinstance(quote, BrimError):
                refused.append((result, quote))
            else:
                waiting[request] = result
                scheduler.enqueue(request, quote, now)
        return refused

    def _admit_together(self, results: Sequence[Pending], now: float) -> int:
        requests = [result.request for result in results]
        admitted = self._scheduler.admit(requests, now)
        self._waiting.update(zip(requests[:admitted], results, strict=False))
        return admitted

    def probe(self, probe: AdmissionProbe) -> BrimError | None:
        """The refusal that such a request would get now, or None."""
        with self._group.lock:
            quote = self._quote(probe, self._clock())
        return quote if isinstance(quote, BrimError) else None

    def _quote(self, request: QueuedRequest | AdmissionProbe, now: float) -> Quote | BrimError:
        """The prediction for a request that may be queued, or its refusal."""
        scheduler, waiting = self._scheduler, self._scheduler.queue.total_rows
        if self._failure is not None:
            return self._model_failed()
        if scheduler.queue.closed:
            return ShuttingDown("the server is shutting down", 1.0)
        if not scheduler.has_room(request.rows):
            return queue_full(request.rows, waiting, scheduler.drain_seconds(now))
        quote = scheduler.quote(request, now)
        if quote.lateness_s <= 0:
            return quote
        return late(request, quote.lateness_s, waiting, scheduler.least_seconds(request))

    def _model_failed(self) -> ModelFailed:
        return ModelFailed(f"model {self._name!r} has failed: {self._failure}")

    def withdraw(self, request: QueuedRequest) -> None:
        """Forget the rows of a request that still wait."""
        with self._group.lock:
            self._scheduler.discard(request)
            self._waiting.pop(request, None)
            self._wake.notify()

    def next(self) -> Dispatch | Expiry | Stop:
        """Wait, without polling, for the next action. For the dispatcher's thread."""
        with self._group.lock:
            self._busy = False
            while isinstance(action := self._decide(), Wait):
                until = action.until
                seconds = None if until is None else max(0.0, until - self._clock())
                self._group.wait(self._wake, seconds)
            self._busy = True
            return action

    def _decide(self) -> Dispatch | Expiry | Wait | Stop:
        if self._borrowed or self._group.defer(self.flush):
            return Wait(None)
        return self._poll()

    def borrow(self) -> bool:
        """Let the calling thread dispatch, if the dispatcher's is idle. Returns whether it may; it
        then calls `next_now` until that returns None.
        """
        with self._group.lock:
            if self._busy or self._borrowed:
                return False  # the thread that dispatches polls again
            self._borrowed = True
            return True

    def next_now(self) -> Dispatch | Expiry | None:
        """The action for this moment. None ends the borrowing."""
        with self._group.lock:
            action = self._poll()
            if isinstance(action, Dispatch | Expiry):
                return action
            self._borrowed = False
            if isinstance(action, Stop) or action.until is not None:
                self._wake.notify()
            return None

    def _poll(self) -> Dispatch | Expiry | Wait | Stop:
        version = self._scheduler.timeline.version
        decision = self._scheduler.poll(self._clock())
        if self._scheduler.timeline.version != version:
            self._group.wake_others(self._wake)
        if isinstance(decision, Launch):
            dispatch = Dispatch(decision, self._results_of(decision))
            self._in_flight.append(dispatch)
            return dispatch
        if isinstance(decision, Expire):
            return Expiry(tuple(self._waiting.pop(request) for request in decision.requests))
        return decision

    def _results_of(self, launch: Launch[QueuedRequest]) -> tuple[Pending, ...]:
        """The results of its slices. A request without queued rows leaves `_waiting`."""
        waiting = self._waiting
        return tuple(
            [
                waiting.pop(request) if start + count == request.rows else waiting[request]
                for request, start, count in launch.slices
            ]
        )

    def complete(self, dispatch: Dispatch, started_at: float, now: float, *, failed: bool) -> float:
        """A batch has completed or failed. Returns its device-seconds."""
        launch, scheduler = dispatch.launch, self._scheduler
        with self._group.lock:
            if dispatch not in self._in_flight:
                return 0.0  # `abandon` has taken it
            self._in_flight.remove(dispatch)
            self._completing = dispatch.results
            scheduler.started(launch, started_at)
            spent = scheduler.complete(launch, now, failed=failed)
            if failed:
                for row_slice in launch.slices:  # the other rows of a request that was split
                    scheduler.discard(row_slice.request)
                    self._waiting.pop(row_slice.request, None)
            if len(scheduler.queue):
                self._wake.notify()
            self._group.wake_others(self._wake)
            return spent

    def completed(self) -> None:
        """The outcomes of the batch of the last `complete` are set."""
        self._completing = ()

    def correct(self) -> None:
        """Correct the cost table. It may take 100 ms, without the lock."""
        costs = self._scheduler.costs
        with self._group.lock:
            samples = costs.samples()
        costs.correct(samples)

    def drain(self) -> None:
        """Refuse new requests, and launch queued rows without delay. Returns at once."""
        with self._group.lock:
            self._scheduler.close()
            self._wake.notify()

    def fail(self, reason: str) -> None:
        """Refuse new requests with `ModelFailed`, and set it for all that have no outcome."""
        with self._group.lock:
            self._failure = reason
            self._borrowed = False
            self._scheduler.close()
        self.abandon(self._model_failed)

    def abandon(self, error: Callable[[], BrimError]) -> None:
        """Set an error for every request without an outcome: a new object for each."""
        with self._group.lock:
            left = [*self._waiting.values(), *self._completing]
            self._waiting.clear()
            self._scheduler.clear()
            for dispatch in self._in_flight:
                left += dispatch.results
                self._scheduler.abort(dispatch.launch, self._clock())
            self._in_flight.clear()
            self._wake.notify()
            self._group.wake_others(self._wake)
        fail_all((result, error()) for result in left)

    def leave(self) -> None:
        """The model does not use the device any more."""
        with self._group.lock:
            self._scheduler.leave()
            self._group.wake_others(self._wake)

    @property
    def max_cost_s(self) -> float:
        """Seconds that the most expensive bucket takes."""
        return self._scheduler.costs.max_cost

    def load(self) -> LoadSnapshot:
        """What waits and what is in flight now."""
        with self._group.lock:
            now = self._clock()
            launched = [d.launch.in_flight_batch.launched_at for d in self._in_flight]
            scheduler, rows = self._scheduler, self._scheduler.queue.total_rows
            busy_s = scheduler.timeline.free_at(now) - now
            return LoadSnapshot(
                rows,
                len(scheduler.queue),
                len(launched),
                now - min(launched, default=now),
                0.0,
                scheduler.drain_seconds(now) if rows else busy_s,
                *scheduler.queue.last,
                scheduler.queue.places_taken,
                scheduler.queue.places.divided,
            )
