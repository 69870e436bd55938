"""The cost table: seconds per bucket, measured at warm-up and corrected while serving.

May touch: nothing.

A fixed-shape executable costs the same every time, so one table answers what any choice would cost.
Seconds are those of the whole batch on the device, host copies included, queueing never.

While serving, every batch adds one sample: how much slower it was than at warm-up. A bucket's
correction is the *median* of its own samples among the last `MEMORY` batches, or that of all of
them where it has fewer than `ENOUGH`, or none. So half of what is remembered must be wrong before
the table is: a process that was paused, or one page fault, moves nothing; a machine that has become
slower is followed within some dozen batches, for the buckets that do not run as well; and what a
bucket was like long ago is forgotten.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Final

from engine.buckets import Bucket
from engine.plan import LOADS, nearest, solve

MEMORY: Final = 64
"""Batches that are remembered."""

ENOUGH: Final = 5
"""Samples that a median needs to be worth more than the others' median."""

ROUNDING: Final = 1e-9
"""Sums of costs that differ by less than this part are equal."""

STALE: Final = 1.2
"""By so much one bucket's cost may change against another's before the plan is made anew."""

CORRECT_EVERY_S: Final = 0.25
"""How often what was observed is put into force: seconds."""

PLAN_EVERY: Final = 40
"""Corrections between two plans, at least: one may take some 100 ms of a core."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the table. `measured_s` is the median of the warm-up, `seconds` the one in force.

    `dominated`: no number of waiting rows makes this bucket worth running, so the policy skips it.
    """

    rows: int
    length: int | None
    seconds: float
    measured_s: float
    dominated: bool


class CostTable:
    """Seconds per bucket, the least seconds for any number of rows, and the plan.

    Any thread adds samples (`observe`), and one thread makes of them what is in force (`correct`).
    It is replaced as whole values, so anybody may read at any time.
    """

    def __init__(self, seconds: Mapping[Bucket, float]) -> None:
        if not seconds or any(not value > 0 for value in seconds.values()):
            raise AssertionError(f"costs must be positive: {seconds}; this is a bug")
        self._measured = MappingProxyType(dict(seconds))
        self._samples: deque[tuple[Bucket, float]] = deque(maxlen=MEMORY)
        lengths = dict.fromkeys(bucket.length for bucket in seconds)
        self._lanes = {
            length: tuple(
                sorted((b for b in seconds if b.length == length), key=lambda bucket: bucket.rows)
            )
            for length in lengths
        }
        self._set(self._measured)
        self._plan()

    # --- what is measured ------------------------------------------------------------------------

    def observe(self, bucket: Bucket, seconds: float) -> None:
        """One batch has had the device for so many seconds."""
        self._samples.append((bucket, seconds / self._measured[bucket]))

    def correct(self) -> None:
        """Put into force what was observed. It takes milliseconds, and some 100 where the plan is
        made anew, so hold no lock.
        """
        samples = tuple(self._samples)
        if samples:
            self._set({b: s * _slowness(b, samples) for b, s in self._measured.items()})
        self._corrections += 1
        if self._corrections >= PLAN_EVERY and self._stale():
            self._plan()

    def _set(self, seconds: Mapping[Bucket, float]) -> None:
        self._splits = {
            length: Split([(b, seconds[b]) for b in buckets])
            for length, buckets in self._lanes.items()
        }
        self._hopes = {
            length: Split([(b, min(seconds[b], self._measured[b])) for b in buckets])
            for length, buckets in self._lanes.items()
        }
        self._seconds = MappingProxyType(dict(seconds))

    def _stale(self) -> bool:
        """Have the costs changed, relative to each other, since the plan was made?"""
        ratios = [self._seconds[bucket] / seconds for bucket, seconds in self._planned_for.items()]
        return max(ratios) > STALE * min(ratios)

    def _plan(self) -> None:
        plans: dict[int | None, tuple[tuple[Bucket, ...], ...]] = {}
        for length in self._lanes:
            buckets = self.useful(length)
            rows = tuple(bucket.rows for bucket in buckets)
            seconds = tuple(self._seconds[bucket] for bucket in buckets)
            plans[length] = tuple(
                tuple(buckets[place] for place in solve(rows, seconds, load)) for load in LOADS
            )
        self._plans = plans
        self._planned_for = self._seconds
        self._corrections = 0

    # --- what may be asked -----------------------------------------------------------------------

    def seconds(self, bucket: Bucket) -> float:
        """What one execution of `bucket` costs."""
        return self._seconds[bucket]

    def planned(self, length: int | None, rows: int, load: float) -> Bucket:
        """The bucket to run when `rows` rows of one length wait, and others come at such a load:
        device-seconds per second.
        """
        plan = self._plans[length][nearest(load)]
        return plan[rows] if rows < len(plan) else self._splits[length].best

    def split(self, length: int | None, rows: int) -> Bucket:
        """The bucket to run first when `rows` rows of one length wait, and nobody else comes."""
        return self._splits[length].first(rows)

    def best(self, length: int | None) -> Bucket:
        """The bucket with the least seconds per row when every row is real."""
        return self._splits[length].best

    def useful(self, length: int | None) -> tuple[Bucket, ...]:
        """The buckets of a length that are ever worth running, by rows."""
        return self._splits[length].useful

    def hope(self, length: int | None, rows: int) -> float:
        """As `work`, if the device is as quick as it ever was: what takes longer is hopeless.

        Who is never let in because the device was slow never finds that it is quick again.
        """
        return self._hopes[length].work(rows)

    def work(self, length: int | None, rows: int) -> float:
        """The least device-seconds that `rows` rows of one length take, in the best buckets."""
        return self._splits[length].work(rows)

    def work_in_company(self, length: int | None, rows: int) -> float:
        """As `work`, where what does not fill the best bucket waits until others fill it."""
        best = self._splits[length].best
        if rows < best.rows:
            return self.work(length, rows)
        return self._seconds[best] * rows / best.rows

    @property
    def dearest(self) -> float:
        """The most that one execution costs."""
        return max(self._seconds.values())

    def lines(self) -> tuple[Cost, ...]:
        """The table as plain values, by length and then rows."""
        return tuple(
            Cost(b.rows, length, self._seconds[b], self._measured[b], b not in self.useful(length))
            for length, buckets in self._lanes.items()
            for b in buckets
        )


def _slowness(bucket: Bucket, samples: Sequence[tuple[Bucket, float]]) -> float:
    own = [ratio for sampled, ratio in samples if sampled == bucket]
    if len(own) < ENOUGH:
        own = [ratio for _, ratio in samples]
    return median(own) if len(own) >= ENOUGH else 1.0


class Split:
    """The cheapest way to cut any number of rows into the buckets of one length.

    A dynamic program: the cheapest cut of `n` rows begins with the bucket that minimises its own
    cost and that of the cheapest cut of what it leaves. Up to twice the largest bucket it is
    tabulated; beyond that the bucket that is best per row is taken off first, as often as need be.
    """

    def __init__(self, costs: Sequence[tuple[Bucket, float]]) -> None:
        """`costs` by rows, increasing."""
        self.best, self._best_seconds = min(costs, key=lambda c: (c[1] / c[0].rows, -c[0].rows))
        self._limit = 2 * costs[-1][0].rows
        self._table = [0.0]
        self._first: list[int] = [0]
        for rows in range(1, self._limit + 1):
            least, first = math.inf, 0
            for place, (bucket, seconds) in enumerate(costs):
                cut = seconds + self._table[max(0, rows - bucket.rows)]
                if cut <= least * (1 + ROUNDING):  # of equals the larger
                    least, first = min(least, cut), place
            self._table.append(least)
            self._first.append(first)
        self._buckets = [bucket for bucket, _ in costs]
        used = set(self._first[1:])
        self.useful = tuple(bucket for place, bucket in enumerate(self._buckets) if place in used)

    def work(self, rows: int) -> float:
        """Seconds for `rows` rows."""
        if rows <= self._limit:
            return self._table[rows]
        times = -(-(rows - self._limit) // self.best.rows)
        return times * self._best_seconds + self._table[rows - times * self.best.rows]

    def first(self, rows: int) -> Bucket:
        """The largest bucket of the cheapest cut: so most rows are answered first."""
        return self.best if rows > self._limit else self._buckets[self._first[rows]]
