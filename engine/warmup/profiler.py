"""Times one bucket: the median over a bounded number of runs and seconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Final

MIN_RUNS: Final = 3
MAX_RUNS: Final = 50
TIMING_BUDGET_S: Final = 0.25
"""A bucket is timed until the budget is spent, within these numbers of runs."""


def median_seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """The median of what `run` takes, in seconds, more than 0."""
    samples: list[float] = []
    while len(samples) < MIN_RUNS or (len(samples) < MAX_RUNS and sum(samples) < TIMING_BUDGET_S):
        started = clock()
        run()
        # a clock that does not move (a test's) still gives a positive cost
        samples.append(max(clock() - started, 1e-9))
    return statistics.median(samples)
