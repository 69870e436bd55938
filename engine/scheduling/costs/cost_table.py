"""The cost table: seconds per bucket, measured at warm-up and corrected while serving.

A fixed-shape executable costs the same every time, so one table answers what any choice would cost.
The seconds are those of a whole batch on the device, including host copies and excluding queueing.

While serving, every batch adds one sample: its seconds relative to those at warm-up. A bucket's
correction is the *median* of its own samples among the last `WINDOW` batches; of all of them where
it has fewer than `MIN_SAMPLES`; 1 where those are too few. So a paused process or a page fault
changes nothing, and a slower machine is followed within some dozen batches, for all buckets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Final

from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.bucket_policy import BucketPolicy

WINDOW: Final = 64  # batches whose samples are kept
MIN_SAMPLES: Final = 5  # of one bucket: from so many on, its own median counts, not that of all
STALE: Final = 1.2  # policies are solved again when a relative cost has changed by this factor
CORRECT_EVERY_S: Final = 0.25  # seconds between two corrections
SOLVE_EVERY: Final = 40  # least corrections between two solutions: one may take 100 ms of a core
Sample = tuple[Bucket, float]
"""A batch's bucket, and its seconds relative to those at warm-up."""

ROUNDING: Final = 1e-9  # sums of costs that differ by less than this part are equal


class Partition:
    """The cheapest partition of any number of rows into the buckets of one length.

    A dynamic program, tabulated up to twice the largest bucket: the first bucket minimises its own
    cost plus that of the cheapest partition of the rest. Beyond the table, full buckets of the
    least cost per row are taken off first.
    """

    def __init__(self, costs: Sequence[tuple[Bucket, float]]) -> None:
        """`costs` are buckets and their seconds, by increasing rows."""
        self.best, self._best_seconds = min(costs, key=lambda c: (c[1] / c[0].rows, -c[0].rows))
        self._buckets = [bucket for bucket, _ in costs]
        self._limit = 2 * self._buckets[-1].rows
        self._seconds = [0.0]
        self._first: list[int] = [0]
        for rows in range(1, self._limit + 1):
            self._tabulate(rows, costs)
        used = set(self._first[1:])
        self.useful = tuple(bucket for place, bucket in enumerate(self._buckets) if place in used)

    def _tabulate(self, rows: int, costs: Sequence[tuple[Bucket, float]]) -> None:
        least, first = math.inf, 0
        for place, (bucket, seconds) in enumerate(costs):
            total = seconds + self._seconds[max(0, rows - bucket.rows)]
            if total <= least * (1 + ROUNDING):  # of equals the larger
                least, first = min(least, total), place
        self._seconds.append(least)
        self._first.append(first)

    def seconds(self, rows: int) -> float:
        """Device-seconds of the cheapest partition of `rows` rows."""
        if rows <= self._limit:
            return self._seconds[rows]
        times = -(-(rows - self._limit) // self.best.rows)
        return times * self._best_seconds + self._seconds[rows - times * self.best.rows]

    def first(self, rows: int) -> Bucket:
        """The largest bucket of the cheapest partition: it answers the most rows first."""
        return self.best if rows > self._limit else self._buckets[self._first[rows]]


@dataclass(frozen=True, slots=True)
class Cost:
    """One row of the table. `measured_s` is the median at warm-up, `seconds` the corrected value.
    A `dominated` bucket is not worth running for any number of rows; it is never chosen.
    """

    rows: int
    length: int | None
    seconds: float
    measured_s: float
    dominated: bool


class CostTable:
    """Seconds per bucket, the least seconds for any number of rows, and the bucket policies.

    The holder of one lock adds samples (`observe`) and copies them (`samples`): a copy that is made
    while another thread appends fails. One thread applies the copy (`correct`), without the lock.
    The table is replaced as whole values, so any thread may read at any time.
    """

    def __init__(self, seconds: Mapping[Bucket, float]) -> None:
        if not seconds or any(not value > 0 for value in seconds.values()):
            raise AssertionError(f"costs must be positive: {seconds}; this is a bug")
        self._measured = MappingProxyType(dict(seconds))
        self._samples: deque[Sample] = deque(maxlen=WINDOW)
        self._buckets: dict[int | None, list[Bucket]] = {bucket.length: [] for bucket in seconds}
        for bucket in sorted(seconds, key=lambda bucket: bucket.rows):
            self._buckets[bucket.length].append(bucket)
        self._set(self._measured)
        self._solve()

    def observe(self, bucket: Bucket, seconds: float) -> None:
        """Add a sample: one batch had the device for so many seconds. Hold the lock."""
        self._samples.append((bucket, seconds / self._measured[bucket]))

    def samples(self) -> tuple[Sample, ...]:
        """The samples of the last batches. Hold the lock."""
        return tuple(self._samples)

    def correct(self, samples: Sequence[Sample]) -> None:
        """Apply samples. Hold no lock: solving the policies again may take 100 ms."""
        if samples:
            self._set({b: s * _correction(b, samples) for b, s in self._measured.items()})
        self._corrections += 1
        if self._corrections >= SOLVE_EVERY and self._stale():
            self._solve()

    def _set(self, seconds: Mapping[Bucket, float]) -> None:
        self._partitions = self._partitioned(seconds)
        self._optimistic = self._partitioned(
            {bucket: min(value, self._measured[bucket]) for bucket, value in seconds.items()}
        )
        self._seconds = MappingProxyType(dict(seconds))

    def _partitioned(self, seconds: Mapping[Bucket, float]) -> dict[int | None, Partition]:
        return {
            length: Partition([(bucket, seconds[bucket]) for bucket in buckets])
            for length, buckets in self._buckets.items()
        }

    def _stale(self) -> bool:
        ratios = [self._seconds[bucket] / seconds for bucket, seconds in self._solved_for.items()]
        return max(ratios) > STALE * min(ratios)

    def _solve(self) -> None:
        self._policies = {
            length: BucketPolicy([(b, self._seconds[b]) for b in self.useful(length)])
            for length in self._buckets
        }
        self._solved_for = self._seconds
        self._corrections = 0

    def seconds(self, bucket: Bucket) -> float:
        """What one execution of `bucket` costs."""
        return self._seconds[bucket]

    def policy_bucket(self, length: int | None, rows: int, load: float) -> Bucket:
        """The bucket to run when others arrive at a load in device-seconds per second."""
        return self._policies[length].bucket(rows, load) or self._partitions[length].best

    def partition_bucket(self, length: int | None, rows: int) -> Bucket:
        """The bucket to run first when no more rows of the length arrive."""
        return self._partitions[length].first(rows)

    def best(self, length: int | None) -> Bucket:
        """The bucket with the least seconds per row when it is full."""
        return self._partitions[length].best

    def useful(self, length: int | None) -> tuple[Bucket, ...]:
        """The buckets of a length that are not dominated, by rows."""
        return self._partitions[length].useful

    def min_device_seconds(self, length: int | None, rows: int) -> float:
        """The least device-seconds that `rows` rows of one length take."""
        return self._partitions[length].seconds(rows)

    def optimistic_seconds(self, length: int | None, rows: int) -> float:
        """As `min_device_seconds`, with the lower of measured and corrected costs."""
        return self._optimistic[length].seconds(rows)

    def amortised_seconds(self, length: int | None, rows: int) -> float:
        """As `min_device_seconds`, where rows beyond full best buckets wait to fill another."""
        best = self._partitions[length].best
        if rows < best.rows:
            return self.min_device_seconds(length, rows)
        return self._seconds[best] * rows / best.rows

    @property
    def max_cost(self) -> float:
        """Seconds of the most expensive bucket."""
        return max(self._seconds.values())

    def lines(self) -> tuple[Cost, ...]:
        """The table as plain values, by length and then rows."""
        return tuple(
            Cost(b.rows, length, self._seconds[b], self._measured[b], b not in self.useful(length))
            for length, buckets in self._buckets.items()
            for b in buckets
        )


def _correction(bucket: Bucket, samples: Sequence[Sample]) -> float:
    ratios = [ratio for sampled, ratio in samples if sampled == bucket]
    if len(ratios) < MIN_SAMPLES:
        ratios = [ratio for _, ratio in samples]
    return median(ratios) if len(ratios) >= MIN_SAMPLES else 1.0
