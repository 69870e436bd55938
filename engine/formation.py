"""Which bucket, and whose rows go into it.

May touch: nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic

from engine.buckets import Bucket
from engine.costs import CostTable
from engine.waiting import R, WaitingRoom

Lanes = tuple[int | None, ...]

ROUNDING_S: Final = 1e-6
"""By so much a batch may end after a deadline: sums of times are not exact."""


@dataclass(frozen=True, slots=True)
class Formation(Generic[R]):
    """How the next batch is formed of those who wait.

    start_at     when the device is free
    load         device-seconds per second that are asked for
    complete     nobody else is going to come: a closed loop whose clients all wait, or the end
    by_deadline  whoever has the earliest deadline is first, whatever the priorities
    """

    costs: CostTable
    waiting: WaitingRoom[R]
    start_at: float
    load: float
    complete: bool
    by_deadline: bool

    def choose(self) -> tuple[Bucket, Lanes]:
        """The bucket, and the lanes whose next rows fill it. Somebody must wait.

        A batch always carries who is first. Rows of neighbouring lanes may share the bucket of the
        longest, where that and the rest take less of the device than any other choice.
        """
        lane = self.waiting.first(by_deadline=self.by_deadline).lane
        left = {lane: rows for lane, rows in self.waiting.rows.items() if rows}
        if len(left) == 1:
            lanes: Lanes = (lane,)
            bucket = self._planned(lane, left[lane])
        else:
            choices = self._choices(lane, left)
            bucket, lanes = min(choices, key=lambda choice: self._seconds(left, *choice))
        return self._in_time(bucket, lanes), lanes

    def _planned(self, lane: int | None, rows: int) -> Bucket:
        if self.complete:
            return self.costs.split(lane, rows)
        return self.costs.planned(lane, rows, self.load)

    def _choices(
        self, lane: int | None, left: Mapping[int | None, int]
    ) -> Iterator[tuple[Bucket, Lanes]]:
        """Every run of lanes with rows around `lane`: a bucket for all of them, or one for those of
        the longest, in which the others ride where there is room.
        """
        order = tuple(left)
        at = order.index(lane)
        for low in range(at, -1, -1):
            for high in range(at, len(order)):
                lanes = order[low : high + 1]
                for rows in {left[lanes[-1]], sum(left[lane] for lane in lanes)}:
                    yield self._planned(lanes[-1], rows), lanes

    def _seconds(self, left: Mapping[int | None, int], bucket: Bucket, lanes: Lanes) -> float:
        """Device-seconds of this batch and of what is then left, every lane by itself."""
        taken = Counter(self.waiting.mix(lanes, bucket.rows, by_deadline=self.by_deadline))
        rest = sum(self.costs.work(lane, rows - taken[lane]) for lane, rows in left.items())
        return self.costs.seconds(bucket) + rest

    def _in_time(self, planned: Bucket, lanes: Lanes) -> Bucket:
        """Of the other buckets the one that takes least of the device, if the plan would make
        somebody late and that one nobody. If there is none, hurrying for one would make others
        late, and under load everybody: then the plan stands.
        """
        if self._nobody_late(planned, lanes):
            return planned
        length, left = planned.length, sum(self.waiting.rows[lane] for lane in lanes)
        others = sorted(
            self.costs.useful(length),
            key=lambda b: (
                self.costs.seconds(b) + self.costs.work(length, max(0, left - b.rows)),
                -b.rows,
            ),
        )
        in_time = (bucket for bucket in others if self._nobody_late(bucket, lanes))
        return next(in_time, planned)

    def _nobody_late(self, bucket: Bucket, lanes: Lanes) -> bool:
        return self.waiting.in_time(lanes, self._batches(bucket), by_deadline=self.by_deadline)

    def _batches(self, bucket: Bucket) -> Iterator[tuple[int, float]]:
        """`bucket`, and then the best one again and again: so it was promised."""
        best = self.costs.best(bucket.length)
        ends_at = self.start_at + self.costs.seconds(bucket) - ROUNDING_S
        yield bucket.rows, ends_at
        while True:
            ends_at += self.costs.seconds(best)
            yield best.rows, ends_at
