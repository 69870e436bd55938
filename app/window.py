"""What happened in the last minute, in constant memory.

May touch: a clock, threading.

For the numbers that people read off a page: a p99, a rate. Prometheus computes better ones from the
histograms in `metrics.py`, which add up over replicas; these do not.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

WINDOW_S: Final = 60.0
SLOTS: Final = 12

# Latencies from 10 us to 1,000 s in steps of 2 %: a percentile is wrong by at most that.
_LOWEST_S: Final = 1e-5
_STEP: Final = math.log(1.02)
_BINS: Final = math.ceil(math.log(1e3 / _LOWEST_S) / _STEP) + 1


@dataclass(slots=True)
class _Slot:
    number: int = -1
    latencies: list[int] = field(default_factory=lambda: [0] * _BINS)
    answered: int = 0
    failed: int = 0
    rows: int = 0
    bucket_rows: int = 0


@dataclass(frozen=True, slots=True)
class Recent:
    """The last minute, or less since the start. `p99_s` and `fill` are NaN where nothing happened.

    `p99_s` of the requests that were answered, `requests_per_second` with an outcome, `fill` real
    rows per bucket row, `error_rate` the share of outcomes that were the server's failure.
    """

    p99_s: float
    requests_per_second: float
    fill: float
    error_rate: float


class Window:
    """Counts into a ring of slots of five seconds each. Any thread may call anything."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._slots = [_Slot() for _ in range(SLOTS)]

    def _now_slot(self) -> _Slot:
        number = int(self._clock() / (WINDOW_S / SLOTS))
        slot = self._slots[number % SLOTS]
        if slot.number != number:
            slot = self._slots[number % SLOTS] = _Slot(number)
        return slot

    def answered(self, latencies_s: Sequence[float]) -> None:
        """Requests were answered well, at the same moment."""
        with self._lock:
            slot = self._now_slot()
            slot.answered += len(latencies_s)
            for latency_s in latencies_s:
                place = int(math.log(max(latency_s, _LOWEST_S) / _LOWEST_S) / _STEP)
                slot.latencies[min(place, _BINS - 1)] += 1

    def failed(self) -> None:
        """A request failed, and it was the server's failure."""
        with self._lock:
            self._now_slot().failed += 1

    def batch(self, rows: int, bucket_rows: int) -> None:
        """A batch came back."""
        with self._lock:
            slot = self._now_slot()
            slot.rows += rows
            slot.bucket_rows += bucket_rows

    def recent(self) -> Recent:
        """Sum up the slots that are young enough."""
        with self._lock:
            newest = self._now_slot().number
            slots = [slot for slot in self._slots if slot.number > newest - SLOTS]
            answered = sum(slot.answered for slot in slots)
            failed = sum(slot.failed for slot in slots)
            rows = sum(slot.rows for slot in slots)
            bucket_rows = sum(slot.bucket_rows for slot in slots)
            bins = [sum(column) for column in zip(*(s.latencies for s in slots), strict=True)]
        # the newest slot has only begun, so the ring covers less than the whole window
        into_slot = self._clock() - newest * (WINDOW_S / SLOTS)
        covered = min(WINDOW_S - WINDOW_S / SLOTS + into_slot, self._clock() - self._started)
        outcomes = answered + failed
        return Recent(
            p99_s=_percentile(bins, answered, 0.99),
            requests_per_second=outcomes / max(covered, 1.0),
            fill=rows / bucket_rows if bucket_rows else math.nan,
            error_rate=failed / outcomes if outcomes else 0.0,
        )


def _percentile(bins: list[int], count: int, share: float) -> float:
    """The upper edge of the bin that holds the wanted rank."""
    rank = math.ceil(count * share)
    seen = 0
    for place, number in enumerate(bins):
        seen += number
        if number and seen >= rank:
            return _LOWEST_S * math.exp((place + 1) * _STEP)
    return math.nan
