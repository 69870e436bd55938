"""The scheduler of one model: decides by the cost table what the device does next.

`poll(now)` returns one of four decisions, which the dispatcher carries out. The rules, in order:

1. Requests whose deadlines cannot be met any more leave the queue (`Expire`).
2. A batch is assembled as late as possible: when the device is free or about to be, so that it is
   gathered while the last one ends (`LeadTime`). `depth` bounds the batches in flight.
3. In a closed loop the launch is delayed for returning clients where that takes less device time
   (`LaunchDelay`). There is no other delay.
4. Of models that share the device, the one furthest behind its share is next
   (`FairShareTimeline`).
5. Small requests are taken before large ones, as long as these are in time all the same
   (`AdmissionController.large_can_wait`).
6. The bucket follows the policy for the queued rows (`BatchAssembler`, `BucketPolicy`).

Admission comes before: `quote` predicts whether a request would be answered in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, get_args

from engine.scheduling.admission import AdmissionController, Quote
from engine.scheduling.assembly import BatchAssembler
from engine.scheduling.buckets import Bucket
from engine.scheduling.closed_loop import LaunchDelay
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.costs.estimators import DecayingRate, LeadTime
from engine.scheduling.fair_share import FairShareTimeline, InFlightBatch
from engine.scheduling.request_queue import Order, Queued, R, R_co, RequestQueue, RowSlice

STARVATION_INTERVAL: Final = 8
"""One of so many batches ignores priorities and sizes and takes the earliest deadlines. Every
deadline is the earliest at some time, so none starves another."""

LOAD_MEMORY: Final = 50  # time constant of the load, in full batches of the most expensive length

Reason = Literal["full", "idle", "next", "held", "drain"]
"""Why a batch was launched: it fills its length's best bucket; the device was free, or about to be;
the launch was delayed for returning clients; the queue is closed."""

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)


@dataclass(slots=True, eq=False)  # not frozen: that would double the cost of making one
class Launch(Generic[R_co]):
    """Run these slices, `rows` real rows together, in this order in this bucket."""

    bucket: Bucket
    slices: tuple[RowSlice[R_co], ...]
    reason: Reason
    in_flight_batch: InFlightBatch
    rows: int


@dataclass(frozen=True, slots=True)
class Expire(Generic[R_co]):
    """These requests left the queue because their deadlines cannot be met any more."""

    requests: tuple[R_co, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`; with None, nothing before the next event."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Stop:
    """The queue is closed and empty."""


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What the operator configures.

    max_wait_s  longest delay, in seconds, of a launch for returning clients
    max_rows    places of the queue, see `Places`
    depth       most batches in flight
    lead_s      seconds that a thread needs to wake up; batches are assembled that much earlier
    """

    max_wait_s: float
    max_rows: int
    depth: int
    lead_s: float = 0.0


def _rows_in(seconds: float, costs: CostTable, length: int | None) -> int:
    """How many rows of a length take so many device-seconds, in full buckets of the best size."""
    best = costs.best(length)
    return round(best.rows * seconds / costs.seconds(best))


class Scheduler(Generic[R]):
    """The queue of one model and its batches in flight.

    Invariants:
      - `queue.places_taken` never exceeds `options.max_rows`
      - every row that is queued leaves exactly once: in a `Launch`, in an `Expire`, by `discard`,
        or by `clear`
      - once the queue is closed, `enqueue` is a bug and no launch is delayed
      - `wakes_on_arrival` is false while rows wait for the device: one more changes no decision

    Not thread-safe: the caller holds the device group's lock.
    """

    def __init__(
        self,
        options: SchedulerOptions,
        costs: CostTable,
        bucket_lengths: tuple[int | None, ...],
        timeline: FairShareTimeline | None = None,
        name: str = "",
        weight: float = 1.0,
    ) -> None:
        """`timeline` is shared with other models, by `weight`; without one the device is not."""
        self._options = options
        self.costs = costs
        self.timeline = FairShareTimeline() if timeline is None else timeline
        self.timeline.join(name, weight)
        self._name = name
        longest = max(costs.seconds(costs.best(length)) for length in bucket_lengths)
        batch_rows = {length: _rows_in(longest, costs, length) for length in bucket_lengths}
        self.queue: RequestQueue[R] = RequestQueue(bucket_lengths, options.max_rows, batch_rows)
        self._admission = AdmissionController(name, costs, self.queue, self.timeline)
        self._delay = LaunchDelay(options.max_wait_s, costs, self.queue)
        self._lead = LeadTime(options.lead_s)
        self._load = DecayingRate(LOAD_MEMORY * longest)
        self._launches = 0
        self.wakes_on_arrival = True
        self.in_flight = 0

    def __repr__(self) -> str:
        rows = ", ".join(f"{length}: {rows}" for length, rows in self.queue.rows.items())
        closed = ", closed" if self.queue.closed else ""
        return f"<Scheduler rows {{{rows}}}, {self.in_flight} batches in flight{closed}>"

    def has_room(self, rows: int) -> bool:
        """Whether a request of so many rows may be queued."""
        return self.queue.has_room(rows)

    def drain_seconds(self, now: float) -> float:
        """Seconds until the device is done with all batches in flight and queued rows."""
        rows = self.queue.rows.items()
        seconds = sum(self.costs.min_device_seconds(length, queued) for length, queued in rows)
        return self.timeline.free_at(now) - now + seconds / self.timeline.share(self._name)

    def quote(self, request: Queued, now: float) -> Quote:
        """Predict when a request would be answered. Above 0 seconds of lateness, refuse it."""
        return self._admission.quote(request, now)

    def least_seconds(self, request: Queued) -> float:
        """Seconds that an idle device needs for a request."""
        return self.costs.optimistic_seconds(request.bucket_length, request.rows)

    def enqueue(self, request: R, quote: Quote, now: float) -> None:
        """Queue a request. The caller got `has_room` and `quote` under the same lock."""
        if self.queue.closed or not self.has_room(request.rows):
            raise AssertionError(f"{self!r} cannot take {request!r}; this is a bug")
        self._reactivate()
        self._admission.record(request, quote)
        self.queue.add(request)
        self._arrived((request.rows,), request.bucket_length, now)

    def admit(self, requests: Sequence[R], now: float) -> int:
        """Queue the first of these requests, which arrived together, while they are taken after all
        others, have room, and are predicted to be in time: with no more arithmetic than that needs.

        Returns how many were queued. The others are for `quote` and `enqueue`.
        """
        if self.queue.closed:
            return 0
        room = self._options.max_rows - self.queue.places_taken
        finishes = self._admission.quote_last(requests, room, now)
        if finishes:
            admitted = requests[: len(finishes)]
            rows = [request.rows for request in admitted]
            self._reactivate()
            self._admission.record_last(admitted, finishes, now)
            self.queue.append(admitted, sum(rows))
            self._arrived(rows, admitted[0].bucket_length, now)
        return len(finishes)

    def _reactivate(self) -> None:
        if not self.in_flight and not self.queue.total_rows:
            self.timeline.reactivate(self._name)

    def _arrived(self, rows: Sequence[int], length: int | None, now: float) -> None:
        self._delay.detector.arrived(rows, now)
        best = self.costs.best(length)
        self._load.add(sum(rows) / best.rows * self.costs.seconds(best), now)

    def discard(self, request: R) -> None:
        """Remove the queued rows of a request, if there are any."""
        self.queue.discard(request)
        self._admission.discard(request)

    def clear(self) -> tuple[R, ...]:
        """Remove and return all queued requests."""
        requests = tuple(self.queue)
        for request in requests:
            self.discard(request)
        self.timeline.set_runnable(self._name, False)  # `poll` may not be called again
        return requests

    def close(self) -> None:
        """Accept no more requests; launch queued rows without delay."""
        self.queue.closed = True

    def started(self, launch: Launch[R], at: float) -> None:
        """A batch is gathered, and goes to the device at this moment."""
        self._lead.gathering.add(at - launch.in_flight_batch.launched_at)
        launch.in_flight_batch.launched_at = at

    def complete(self, launch: Launch[R], now: float, *, failed: bool = False) -> float:
        """A batch is done. Returns its device-seconds."""
        self._lead.earliness.add(launch.in_flight_batch.ends_at - now)
        spent = self.timeline.complete(launch.in_flight_batch, now)
        self._remove(launch)
        self._delay.detector.completed(launch.rows, now)
        if not failed:
            self.costs.observe(launch.bucket, spent)
        for row_slice in launch.slices:
            if row_slice.start + row_slice.count == row_slice.request.rows:
                self._admission.completed(row_slice.request, now)
        return spent

    def abort(self, launch: Launch[R], now: float) -> None:
        """A batch will not complete, or its result is not needed any more."""
        self.timeline.abort(launch.in_flight_batch, now)
        self._remove(launch)

    def _remove(self, launch: Launch[R]) -> None:
        self.in_flight -= 1
        self._delay.in_flight_rows -= launch.rows

    def leave(self) -> None:
        """The model does not use the device any more."""
        self.timeline.leave(self._name)

    def poll(self, now: float) -> Launch[R] | Expire[R] | Wait | Stop:
        """What to do at `now`. A `Launch` is in flight until `complete` or `abort`."""
        self.wakes_on_arrival = True
        expired = self._admission.expire(now)
        if expired:
            return Expire(expired)
        if not self.queue.total_rows:
            self._delay.active = False
            self.timeline.set_runnable(self._name, False)
            return Stop() if self.queue.closed else Wait(None)
        start_at, expiry = self.timeline.free_at(now), self._admission.next_expiry
        assemble_at = start_at - self._lead.value
        has_depth = self.in_flight < self._options.depth
        if not has_depth or now < assemble_at:
            self.wakes_on_arrival = False
            self.timeline.set_runnable(self._name, True)
            return Wait(min(assemble_at, expiry) if has_depth else expiry)
        return self._poll_free(now, start_at, expiry)

    def _poll_free(self, now: float, start_at: float, expiry: float) -> Launch[R] | Wait:
        """The decision for a device that is free, or about to be, and a queue with rows."""
        until = self._delay.until(now, start_at)
        self._delay.active = self._delay.active or now < until
        self.timeline.set_runnable(self._name, now >= until)
        if now < until:
            return Wait(min(until, expiry))
        if not self.timeline.is_next(self._name):
            return Wait(expiry)
        return self._launch(now, start_at)

    def _launch(self, now: float, start_at: float) -> Launch[R]:
        order = self._order(now, start_at)
        complete = self.queue.closed or self._delay.no_more_arrivals(now, start_at)
        load = self._load.value(now)
        assembler = BatchAssembler(self.costs, self.queue, start_at, load, complete, order)
        bucket, lengths = assembler.choose()
        queued = self.queue.total_rows
        slices = self.queue.take(lengths, bucket.rows, order)
        if self.queue.large and order is Order.SMALL_FIRST:
            self._admission.overtaken(slices)
        rows = queued - self.queue.total_rows
        batch = self.timeline.launch(self._name, self.costs.seconds(bucket), now)
        launch = Launch(bucket, slices, self._reason(bucket, rows, start_at > now), batch, rows)
        self.in_flight += 1
        self._delay.in_flight_rows += rows
        self._delay.active = False
        self.timeline.set_runnable(self._name, self.queue.total_rows > 0)
        return launch

    def _order(self, now: float, start_at: float) -> Order:
        self._launches += 1
        if self._launches % STARVATION_INTERVAL == 0:
            return Order.DEADLINE
        if self.queue.large and not self._admission.large_can_wait(start_at, now):
            return Order.PRIORITY
        return Order.SMALL_FIRST

    def _reason(self, bucket: Bucket, rows: int, busy: bool) -> Reason:
        if rows == bucket.rows and rows >= self.costs.best(bucket.length).rows:
            return "full"
        if self.queue.closed:
            return "drain"
        if self._delay.active:
            return "held"
        return "next" if busy else "idle"
