"""Detects closed loops, and delays a launch for clients that are about to send again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, Generic

from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.costs.estimators import EwmaEstimator
from engine.scheduling.request_queue import R, RequestQueue


class ClosedLoopDetector:
    """Detects whether clients send again after their answers, and how soon.

    In a *closed loop* every client sends its next request when it has its last answer: after `n`
    rows were answered `n` rows arrive, and then none. Rows that were answered are *outstanding*
    until as many have arrived. The share of independent arrivals that find no rows outstanding is
    the share of time in which none are (Poisson arrivals see time averages: Wolff, 1982). In a
    closed loop none are outstanding while a batch runs, and none arrive then: the first share is
    far below the second. The delay is measured until all rows of a batch have returned.
    """

    NEW: Final = 0.02  # in a closed loop a smaller share of arrivals finds no rows outstanding
    QUIET: Final = 0.1
    """In a closed loop no rows are outstanding for a larger share of the time. Where it is smaller,
    the clients take so much longer than the device that no launch should be delayed for them."""

    FADE: Final = 1 / 256  # the weight of one arrival in both shares
    MAX_BATCHES: Final = 4  # rows are not outstanding any more after so many more answered batches

    def __init__(self, limit_s: float) -> None:
        """Rows are outstanding for `limit_s` seconds at most, and count as that delay."""
        self._limit_s = limit_s
        self._delay = EwmaEstimator()
        self._new = 1.0
        self._last_event = math.nan
        self._total_s = self._quiet_s = 0.0
        self._arrived = 0
        # when rows were answered, and the number of arrived rows at which as many have returned
        self._answers: deque[tuple[float, int]] = deque()

    def completed(self, rows: int, now: float) -> None:
        """So many rows were answered."""
        self._advance(now)
        target = max(self._arrived, self._answers[-1][1] if self._answers else 0)
        self._answers.append((now, target + rows))

    def arrived(self, requests: Sequence[int], now: float) -> None:
        """Requests arrived together: the rows of each."""
        self._advance(now)
        answers, kept = self._answers, (1 - self.FADE) ** len(requests)
        self._total_s *= kept
        self._quiet_s *= kept
        for rows in requests:
            self._new += self.FADE * ((not answers) - self._new)
            self._arrived += rows
            while answers and answers[0][1] <= self._arrived:
                self._delay.add(now - answers.popleft()[0])

    def _advance(self, now: float) -> None:
        """Add the time since the last event."""
        passed = 0.0 if math.isnan(self._last_event) else now - self._last_event
        self._last_event = now
        self._total_s += passed
        self._quiet_s += 0.0 if self._answers else passed
        self._drop_overdue(now)

    def _drop_overdue(self, now: float) -> None:
        answers = self._answers
        while answers and (now - answers[0][0] > self._limit_s or len(answers) > self.MAX_BATCHES):
            _, target = answers.popleft()
            self._delay.add(self._limit_s)
            self._arrived = max(self._arrived, target)  # they are not outstanding any longer

    @property
    def detected(self) -> bool:
        """Whether all arrivals are of clients that were answered before."""
        return self._new < self.NEW and self._quiet_s > self.QUIET * self._total_s

    @property
    def delay_s(self) -> float:
        """Seconds within which answered clients usually send again; infinite while unknown."""
        # 10 % above the upper bound: a delay that ends just before the last rows arrive is wasted
        return 1.1 * self._delay.upper(math.inf)

    def outstanding(self, now: float) -> tuple[int, float]:
        """The outstanding rows, and by when they should have arrived; `now` if there are none."""
        self._drop_overdue(now)
        if not self._answers:
            return 0, now
        answered_at, target = self._answers[-1]
        return target - self._arrived, answered_at + self.delay_s


class LaunchDelay(Generic[R]):
    """Delays the launch on a free device for returning clients, where that takes less device time.

    `in_flight_rows` are the rows whose clients are about to be answered; `active` is true from the
    first delay until the next launch, or until the queue is empty.
    """

    FORGET_AFTER: Final = 4.0  # times `max_wait_s`; clients that take longer are not expected back

    def __init__(self, max_wait_s: float, costs: CostTable, queue: RequestQueue[R]) -> None:
        self._max_wait_s = max_wait_s
        self._costs = costs
        self._queue = queue
        self.detector = ClosedLoopDetector(self.FORGET_AFTER * max_wait_s)
        self.in_flight_rows = 0
        self.active = False

    def until(self, now: float, start_at: float) -> float:
        """Until when to delay the launch; `now` if it should not be. The queue must not be empty.

        In a closed loop the device is never out of work, so device time counts. Launched
        separately, the queued rows run at once, and the outstanding rows after them or when they
        have arrived; launched together, all rows run when all have arrived.
        """
        outstanding, by = self._outstanding(now, start_at)
        if self._queue.closed or not outstanding or not self.detector.detected:
            return now
        first, costs, wait = self._queue.first(), self._costs, by - start_at
        length, rows = first.bucket_length, self._queue.rows[first.bucket_length]
        full = rows >= costs.best(length).rows
        if full or wait <= 0 or self.detector.delay_s > self._max_wait_s:
            return now
        separate = max(costs.min_device_seconds(length, rows), wait)
        separate += costs.min_device_seconds(length, outstanding)
        together = wait + costs.amortised_seconds(length, rows + outstanding)
        return by if together < separate and start_at + together <= first.deadline else now

    def no_more_arrivals(self, now: float, start_at: float) -> bool:
        """Whether the rows of all clients are queued."""
        return self.detector.detected and not self._outstanding(now, start_at)[0]

    def _outstanding(self, now: float, start_at: float) -> tuple[int, float]:
        """The rows that may return, and by when: of answered batches and of those in flight."""
        outstanding, by = self.detector.outstanding(now)
        if self.in_flight_rows:
            return outstanding + self.in_flight_rows, start_at + self.detector.delay_s
        return outstanding, by
