"""Statistics that are updated one sample at a time. Time is an argument, in seconds."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

DEVIATIONS: Final = 2.0  # mean deviations above the mean that `EwmaEstimator.upper` allows for


class EwmaEstimator:
    """A mean and its mean deviation, as TCP estimates round trips (RFC 6298, section 2): a new
    sample counts an eighth in the mean, a fourth in the deviation.
    """

    def __init__(self) -> None:
        self.mean = math.nan
        self.deviation = 0.0

    def add(self, sample: float) -> None:
        """Add one sample."""
        if math.isnan(self.mean):
            self.mean, self.deviation = sample, abs(sample) / 2
            return
        error = sample - self.mean
        self.deviation += (abs(error) - self.deviation) / 4
        self.mean += error / 8

    def upper(self, default: float) -> float:
        """A bound that few samples exceed; `default` before the first sample."""
        if math.isnan(self.mean):
            return default
        return self.mean + DEVIATIONS * self.deviation


class WindowedMax:
    """The maximum of the last samples: between `BLOCKS - 1` and `BLOCKS` times `BLOCK` of them.

    For correlated errors, as those of predictions: the same events delay all requests queued at a
    time. A fading mean and deviation would call every such run normal, and a percentile of the last
    few hundred samples covers one run only.
    """

    BLOCK: Final = 64
    BLOCKS: Final = 64

    def __init__(self) -> None:
        self.value = 0.0
        self._blocks: deque[float] = deque(maxlen=self.BLOCKS)
        self._count = 0

    def add(self, sample: float) -> None:
        """Add one sample."""
        if self._count % self.BLOCK == 0:
            self._blocks.append(sample)
            self.value = max(self._blocks)
        elif sample > self._blocks[-1]:
            self._blocks[-1] = sample
            self.value = max(self.value, sample)
        self._count += 1


class DecayingRate:
    """An amount per second, in which old amounts fade with a time constant of `memory_s` seconds,
    corrected at first for the time that has not been observed yet.
    """

    MIN_OBSERVED: Final = 0.1  # the least part of the time constant that counts as observed

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._rate = 0.0
        self._began_at = self._at = math.nan

    def add(self, amount: float, now: float) -> None:
        """Add an amount."""
        if math.isnan(self._at):
            self._began_at = self._at = now
        self._rate = self._rate * self._decay(now - self._at) + amount / self._memory_s
        self._at = now

    def value(self, now: float) -> float:
        """The rate at this moment, per second."""
        if math.isnan(self._at):
            return 0.0
        observed = max(self.MIN_OBSERVED, 1 - self._decay(now - self._began_at))
        return self._rate * self._decay(now - self._at) / observed

    def _decay(self, seconds: float) -> float:
        return math.exp(-seconds / self._memory_s)


class LeadTime:
    """How long before the device should be free the next batch is assembled.

    As long as waking a thread and gathering rows take, and as batches complete earlier than
    expected. With less the device would be idle; with more, rows that arrive meanwhile would miss
    the batch. Samples of `gathering` and `earliness` are seconds.
    """

    def __init__(self, wake_s: float) -> None:
        self._wake_s = wake_s
        self.gathering = EwmaEstimator()
        self.earliness = EwmaEstimator()

    @property
    def value(self) -> float:
        """Seconds."""
        mean = self.earliness.mean  # NaN before the first sample
        return self._wake_s + self.gathering.upper(0.0) + (mean if mean > 0 else 0.0)
