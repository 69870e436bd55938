"""What the recorder counts into, in constant memory: histograms, and a window of the last minute.

The window is for numbers on a page or a terminal: a p99, a rate. Prometheus computes better ones
from the histograms, which add up over replicas; the window's do not.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from engine.telemetry.snapshots import HistogramSnapshot, Recent

SECONDS: Final = tuple(digit * 10.0**power for power in range(-4, 2) for digit in (1, 2.5, 5))
"""Edges for durations, 100 us to 50 s: the range of what one batch takes on a CPU or a GPU."""

ROWS: Final = tuple(float(2**n) for n in range(11))
"""Edges for rows per batch."""

WINDOW_S: Final = 60.0
SLOTS: Final = 12
_SLOT_S: Final = WINDOW_S / SLOTS

# Latencies from 10 us to 1,000 s in steps of 2 %: a percentile is wrong by at most that.
_LOWEST_S: Final = 1e-5
_STEP: Final = math.log(1.02)
_HIGHEST_S: Final = 1e3
_LAST_BIN: Final = math.ceil(math.log(_HIGHEST_S / _LOWEST_S) / _STEP)


class Histogram:
    """Counts values between fixed edges, those of a whole batch at once.

    prometheus_client's own takes one value at a time, with two locks and a walk along the edges for
    each: counting two durations a request cost as much as all other metrics of that request. Not
    thread-safe: the recorder's lock guards it.
    """

    __slots__ = ("_counts", "_edges", "_sum")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0

    def observe(self, values: Iterable[float]) -> None:
        """Count `values`. A value that equals an edge counts below it."""
        edges, counts = self._edges, self._counts
        for value in values:
            counts[bisect_left(edges, value)] += 1
            self._sum += value

    def snapshot(self) -> HistogramSnapshot:
        """Return the counts so far."""
        return HistogramSnapshot(self._edges, tuple(self._counts), self._sum)


@dataclass(slots=True)
class _Slot:
    """Five seconds. `latencies` counts requests that succeeded, by bin of latency."""

    number: int
    latencies: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    rows: int = 0
    bucket_rows: int = 0

    def add(self, other: _Slot) -> None:
        self.latencies.update(other.latencies)
        self.failed += other.failed
        self.rows += other.rows
        self.bucket_rows += other.bucket_rows


class SlidingWindow:
    """Counts into slots of five seconds each, and drops those that are older than a minute.

    Not thread-safe: the recorder's lock guards it.
    """

    def __init__(self, started: float) -> None:
        """`started`, and every `at` and `now` of its methods, is monotonic seconds; they never
        decrease.
        """
        self._started = started
        self._slots = deque([_Slot(slot_of(started))])
        self._older = _Slot(self._slots[0].number)

    def _newest(self, now: float) -> _Slot:
        number = slot_of(now)
        if number != self._slots[-1].number:
            while self._slots and self._slots[0].number <= number - SLOTS:
                self._slots.popleft()
            # the sum of the slots that do not change any more: a snapshot adds only the newest
            self._older = _Slot(number)
            for slot in self._slots:
                self._older.add(slot)
            self._slots.append(_Slot(number))
        return self._slots[-1]

    def succeeded(self, latencies_s: Iterable[float], at: float) -> None:
        """Count requests that succeeded, each with its latency."""
        self._newest(at).latencies.update(map(_bin, latencies_s))

    def failed(self, at: float) -> None:
        """Count a request that the server failed."""
        self._newest(at).failed += 1

    def batch(self, rows: int, bucket_rows: int, at: float) -> None:
        """Count a completed batch of `rows` real rows in a bucket of `bucket_rows`."""
        slot = self._newest(at)
        slot.rows += rows
        slot.bucket_rows += bucket_rows

    def recent(self, now: float) -> Recent:
        """The last minute."""
        newest = self._newest(now)
        minute = replace(self._older, latencies=self._older.latencies.copy())
        minute.add(newest)
        succeeded = minute.latencies.total()
        outcomes = succeeded + minute.failed
        # the newest slot has only begun, so the slots cover less than the whole window
        covered = min(WINDOW_S - _SLOT_S + now - newest.number * _SLOT_S, now - self._started)
        return Recent(
            p99_s=_percentile(minute.latencies, succeeded, 0.99),
            requests_per_second=outcomes / max(covered, 1.0),
            fill=minute.rows / minute.bucket_rows if minute.bucket_rows else math.nan,
            error_rate=minute.failed / outcomes if outcomes else 0.0,
        )


def slot_of(now: float) -> int:
    """The number of the slot that a moment is in."""
    return int(now / _SLOT_S)


def _bin(latency_s: float) -> int:
    if not _LOWEST_S < latency_s < _HIGHEST_S:
        return 0 if latency_s <= _LOWEST_S else _LAST_BIN
    return int(math.log(latency_s / _LOWEST_S) / _STEP)


def _percentile(bins: Counter[int], count: int, share: float) -> float:
    """The upper edge of the bin that holds the rank `share * count`; NaN without any value."""
    rank = math.ceil(count * share)
    seen = 0
    for place in sorted(bins):
        seen += bins[place]
        if seen >= rank:
            return _LOWEST_S * math.exp((place + 1) * _STEP)
    return math.nan
