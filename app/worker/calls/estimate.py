"""How long a call will wait for a thread: arithmetic over what the calls before it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SHARE: Final = 0.1
"""The part of the newest call in the mean: some ten calls are remembered."""
OUTLIER: Final = 4.0
"""A call counts as at most so many times the mean: one that hung says nothing of the others."""


class MeanSeconds:
    """The mean duration of the last calls; 0 before the first one."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    def add(self, seconds: float) -> None:
        """A call took so long."""
        if self._count:
            seconds = min(seconds, OUTLIER * self.value)
        self._count += 1
        self.value += (seconds - self.value) * max(SHARE, 1 / self._count)


def expected_s(mean_s: float, ages_s: Sequence[float]) -> float:
    """How long a call takes, by those that have ended and by the ages of those that run.

    While none has ended, or something has changed, the running ones know more.
    """
    return max(mean_s, sum(ages_s) / len(ages_s)) if ages_s else mean_s


def remaining_s(expected: float, age_s: float) -> float:
    """How much longer a call takes that has run for so long. One that has passed its expectation is
    expected to take as long again: what hangs is never about to end.
    """
    return expected - age_s if age_s < expected else age_s


def finish_s(mean_s: float, ages_s: Sequence[float], waiting: int, threads: int) -> float:
    """Seconds until one more call would return, behind `waiting` others on so many busy threads."""
    each = expected_s(mean_s, ages_s)
    ahead = sum(remaining_s(each, age) for age in ages_s) + waiting * each
    return ahead / max(1, threads) + each
