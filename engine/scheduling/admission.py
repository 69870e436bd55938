"""Admission: predicts whether a request that arrives now would be answered in time.

The prediction is what is on the device, plus the cheapest partition of all rows that are taken
first, plus a margin: the largest recent error of such predictions. A request that is predicted to
miss its deadline is refused, and a queued one that cannot meet it any more expires.

Under overload every admitted request ends close to its deadline, so the margin decides how reliable
a prediction is. A generous margin costs little: it shortens the queue without leaving the device
idle. It is at most half of the time that the request has. On a free device costs are optimistic and
there is no margin: what was learned in a slow phase is revised only by running batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple

from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.costs.estimators import WindowedMax
from engine.scheduling.fair_share import FairShareTimeline
from engine.scheduling.request_queue import Queued, R, RequestQueue, RowsByLength, RowSlice

NEVER = float("inf")


class Quote(NamedTuple):
    """What admitting a request now would mean. Times are seconds on the scheduler's clock.

    finish_at   when its answer is predicted, without the margin
    lateness_s  by how much its deadline would be missed, or that of a request of its priority that
                it delays; above 0 it should be refused
    waits       whether it would wait for the device or other requests; its error then counts
    """

    finish_at: float
    lateness_s: float
    waits: bool


@dataclass(slots=True, eq=False)
class AdmissionProbe:
    """A request that may come: what is known before its rows are decoded."""

    rows: int
    bucket_length: int | None
    enqueued_at: float
    deadline: float
    priority: int


class AdmissionController(Generic[R]):
    """Predicts when requests finish, measures how wrong that was, and expires late requests.

    Invariant: `next_expiry` is at most the moment at which the first queued request expires.
    """

    def __init__(
        self, name: str, costs: CostTable, queue: RequestQueue[R], timeline: FairShareTimeline
    ) -> None:
        self._name = name
        self._costs = costs
        self._queue = queue
        self._timeline = timeline
        self._predicted: dict[R, float] = {}
        self._errors = WindowedMax()
        self.next_expiry = NEVER

    def quote(self, request: Queued, now: float) -> Quote:
        """The quote for a request not queued yet. It is valid until the queue or device changes."""
        ahead, free_at = self._queue.rows_ahead(request), self._timeline.free_at(now)
        finish_at = self._finish_at(ahead, request, request.rows, free_at, free_at > now)
        waits = free_at > now or any(ahead.values())
        if waits:
            lateness = finish_at + self._margin(request, now) - request.deadline
        else:
            optimistic = self._costs.optimistic_seconds(request.bucket_length, request.rows)
            lateness = now + optimistic - request.deadline
        if ahead is not self._queue.rows:
            lateness = max(lateness, self._lateness_caused(ahead, request, free_at, now))
        return Quote(finish_at, lateness, waits)

    def _finish_at(
        self, ahead: RowsByLength, request: Queued, left: int, free_at: float, waits: bool
    ) -> float:
        """When the `left` rows of a request are answered behind those `ahead`. `waits`: whether the
        device is busy now.
        """
        length, costs = request.bucket_length, self._costs
        rows = ahead[length] + left
        # requests that arrive while it waits will fill its batch, which takes as long as a full
        # one; the batch assembler ensures that it does not take longer
        shared = waits or rows > left
        seconds = costs.min_device_seconds(length, self._full(length, rows) if shared else rows)
        if len(ahead) > 1:
            for other, queued in ahead.items():
                if queued and other != length:
                    seconds += costs.min_device_seconds(other, queued)
        return free_at + seconds / self._timeline.share(self._name)

    def _full(self, length: int | None, rows: int) -> int:
        full = self._costs.best(length).rows
        return -(-rows // full) * full

    def _margin(self, request: Queued, now: float) -> float:
        return max(0.0, min(self._errors.value, (request.deadline - now) / 2))

    def _lateness_caused(
        self, ahead: RowsByLength, request: Queued, free_at: float, now: float
    ) -> float:
        """The largest lateness of the requests behind it that are in time without it: with the
        margin, or at least without.
        """

        def lateness(rows: RowsByLength, other: R) -> float:
            left = self._queue.rows_left(other)
            return self._finish_at(rows, other, left, free_at, free_at > now) - other.deadline

        largest = -NEVER
        before, after = dict(ahead), dict(ahead)
        after[request.bucket_length] += request.rows
        for other in self._queue.requests_behind(request):
            delayed = lateness(after, other)
            margin = self._margin(other, now)
            if delayed + margin > 0:
                without = lateness(before, other)
                for allowed in (margin, 0.0):
                    if delayed + allowed > 0 >= without + allowed:
                        largest = max(largest, delayed + allowed)
            for rows in (before, after):
                rows[other.bucket_length] += self._queue.rows_left(other)
        return largest

    def large_can_wait(self, start_at: float, now: float) -> bool:
        """Whether every large request is in time if all small ones that wait are taken before it.

        The device is free from `start_at` on. The margin is kept, as in a quote.
        """
        queue, costs = self._queue, self._costs
        seconds = sum(costs.min_device_seconds(n, self._full(n, r)) for n, r in queue.rows.items())
        all_done_at = start_at + seconds / self._timeline.share(self._name)
        if all_done_at + max(0.0, self._errors.value) <= queue.first_large_deadline():
            return True
        large = list(queue.large_in_order())
        ahead = dict(queue.rows)
        for request in large:
            ahead[request.bucket_length] -= queue.rows_left(request)
        for request in large:
            left = queue.rows_left(request)
            finish_at = self._finish_at(ahead, request, left, start_at, waits=True)
            if finish_at + self._margin(request, now) > request.deadline:
                return False
            ahead[request.bucket_length] += left
        return True

    def overtaken(self, slices: Sequence[RowSlice[R]]) -> None:
        """These were taken by `SMALL_FIRST`. Of a request that was taken before a large one due
        earlier, and of that one, the prediction was for another order: its error means nothing.
        """
        queue, predicted = self._queue, self._predicted
        done = [request for request, _, _ in slices if request not in queue]
        latest = max((request.deadline for request in done), default=-NEVER)
        first = queue.first_large_deadline()
        if latest < first:
            return
        for request in done:
            if request.deadline >= first:
                predicted.pop(request, None)
        for request in queue.large_in_order():
            if request.deadline <= latest:
                predicted.pop(request, None)

    def record(self, request: R, quote: Quote) -> None:
        """Remember the prediction for a request that is queued now."""
        if quote.waits:
            self._predicted[request] = quote.finish_at
        self.next_expiry = min(self.next_expiry, self._expires_at(request))

    def quote_last(self, requests: Sequence[R], room: int, now: float) -> list[float]:
        """The predicted finish of the first of these requests, each as `quote` would give it with
        those before it queued. The list ends before the first request that is not to be queued
        without a `quote` of its own: it may be late, `room` rows do not suffice, it is large or
        divided, not taken after all others, or of another length or priority.
        """
        first, queue = requests[0], self._queue
        if not queue.is_last(first):
            return []
        length, priority, due = first.bucket_length, first.priority, first.deadline
        seconds, full = self._costs.min_device_seconds, self._costs.best(first.bucket_length).rows
        free_at, share = self._timeline.free_at(now), self._timeline.share(self._name)
        rows, others = queue.rows[length], queue.total_rows - queue.rows[length]
        others_s = sum(seconds(n, r) for n, r in queue.rows.items() if r and n != length)
        waits, finishes = free_at > now or queue.total_rows > 0, []
        most = min(queue.places.part, queue.batch_rows[length])
        for request in requests:
            rows += request.rows
            if (
                request.deadline < due
                or request.priority != priority
                or request.bucket_length != length
                or request.rows > most
                or rows + others - queue.total_rows > room
            ):
                break
            due = request.deadline
            shared = free_at > now or rows > request.rows  # its batch will be full, see _finish_at
            needed = -(-rows // full) * full if shared else rows
            finish_at = free_at + (seconds(length, needed) + others_s) / share
            if waits:
                late = finish_at + self._margin(request, now) > due
            else:
                late = now + self._costs.optimistic_seconds(length, request.rows) > due
            if late:
                break
            finishes.append(finish_at)
            waits = True
        return finishes

    def record_last(self, requests: Sequence[R], finishes: Sequence[float], now: float) -> None:
        """Remember these predictions of `quote_last`. The requests are not queued yet."""
        first = 0 if self._timeline.free_at(now) > now or self._queue.total_rows else 1
        self._predicted.update(zip(requests[first:], finishes[first:], strict=True))
        self.next_expiry = min(self.next_expiry, self._expires_at(requests[0]))

    def completed(self, request: R, at: float) -> None:
        """Learn when a request was answered, or would have been: without those that expired the
        error would be understated.
        """
        predicted = self._predicted.pop(request, None)
        if predicted is not None:
            self._errors.add(at - predicted)

    def discard(self, request: R) -> None:
        """Forget a request that left the queue without an answer."""
        self._predicted.pop(request, None)

    def expire(self, now: float) -> tuple[R, ...]:
        """Remove and return the queued requests that cannot be answered in time any more.

        `next_expiry` is a lower bound (requests leave without raising it), so the scan is rare.
        """
        if now < self.next_expiry:
            return ()
        at = {request: self._expires_at(request) for request in self._queue}
        expired = tuple(request for request, expires_at in at.items() if expires_at <= now)
        for request in expired:
            self.completed(request, now + self._least_seconds(request))
            self._queue.discard(request)
        later = (expires_at for expires_at in at.values() if expires_at > now)
        self.next_expiry = min(later, default=NEVER)
        return expired

    def _expires_at(self, request: R) -> float:
        """From then on not even one row could be answered in time."""
        return request.deadline - self._least_seconds(request)

    def _least_seconds(self, request: R) -> float:
        return self._costs.optimistic_seconds(request.bucket_length, 1)
