"""Latencies as an HDR histogram: 1 us to an hour, to three digits.

May touch: hdrh, numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from hdrh.histogram import HdrHistogram

_LOWEST_US: Final = 1
_HIGHEST_US: Final = 3_600_000_000
_DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """How long `count` answers took. All 0 without one.

    `histogram` is in microseconds, encoded as every HdrHistogram library reads it (V2, base64).
    """

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    histogram: str

    @classmethod
    def of(cls, seconds: np.ndarray[Any, np.dtype[np.float64]]) -> Self:
        """Of every single latency."""
        made = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        microseconds = np.clip(np.rint(seconds * 1e6), _LOWEST_US, _HIGHEST_US).astype(np.int64)
        values, counts = np.unique(microseconds, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            made.record_value(value, count)
        found = made.get_percentile_to_value_dict([50, 90, 99, 99.9])
        p50, p90, p99, p999 = (found.get(p, 0) / 1e3 for p in (50, 90, 99, 99.9))
        mean, slowest = (seconds.mean(), seconds.max()) if len(seconds) else (0.0, 0.0)
        return cls(
            count=len(seconds),
            mean_ms=float(mean) * 1e3,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            p999_ms=p999,
            max_ms=float(slowest) * 1e3,
            histogram=made.encode().decode(),
        )

    def curve(self) -> Iterator[tuple[float, float]]:
        """Every recorded value: the share of answers up to it, and it, in milliseconds."""
        if not self.count:
            return
        for item in HdrHistogram.decode(self.histogram).get_recorded_iterator():
            share = item.total_count_to_this_value / self.count
            yield share, item.value_iterated_to / 1e3


def percentile_ms(seconds: Sequence[float] | np.ndarray[Any, Any], percent: float) -> float:
    """Of a few, exactly; 0 of none."""
    return float(np.percentile(seconds, percent)) * 1e3 if len(seconds) else 0.0
