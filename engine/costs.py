"""The measured cost table: seconds per bucket.

May touch: nothing.

A fixed-shape executable costs the same every time, so one table, measured while the model warms
up, answers what any choice would cost. Seconds are those of the whole batch on the device, host
copies included, queueing never.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from engine.buckets import Bucket


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of the table."""

    rows: int
    length: int | None
    seconds: float


class CostTable:
    """Median seconds per bucket. Written once, while the model warms up; read by everybody."""

    def __init__(self, seconds: Mapping[Bucket, float]) -> None:
        if not seconds or any(not value > 0 for value in seconds.values()):
            raise AssertionError(f"costs must be positive: {seconds}; this is a bug")
        self._seconds = MappingProxyType(dict(seconds))
        self._lanes: dict[int | None, tuple[Bucket, ...]] = {}
        for bucket in sorted(seconds, key=lambda bucket: bucket.rows):
            self._lanes[bucket.length] = (*self._lanes.get(bucket.length, ()), bucket)

    def seconds(self, bucket: Bucket) -> float:
        """What one execution of `bucket` costs."""
        return self._seconds[bucket]

    def cheapest(self, length: int | None, queued_rows: int) -> Bucket:
        """The bucket that serves a queue of `queued_rows` at the least seconds per real row.

        Of equals the larger wins: it answers more rows now. A queue of 9 with buckets 8 and 16 may
        thus take 8 and leave one behind, when 16 costs more than 9/8 of 8.
        """
        return min(
            self._lanes[length],
            key=lambda b: (self._seconds[b] / min(b.rows, queued_rows), -b.rows),
        )

    def best(self, length: int | None) -> Bucket:
        """The bucket with the least seconds per row when every row is real."""
        return self.cheapest(length, self._lanes[length][-1].rows)

    def drain_seconds(self, queued_rows: Mapping[int | None, int]) -> float:
        """How long the device needs for a queue, taking the best bucket of every length."""
        total = 0.0
        for length, rows in queued_rows.items():
            best = self.best(length)
            total += -(-rows // best.rows) * self._seconds[best]
        return total

    def lines(self) -> tuple[Cost, ...]:
        """The table as plain values, by length and then rows."""
        return tuple(
            Cost(bucket.rows, bucket.length, self._seconds[bucket])
            for lane in self._lanes.values()
            for bucket in lane
        )
