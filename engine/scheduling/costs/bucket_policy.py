"""Which bucket to run for a number of queued rows: the optimal policy, solved per cost table.

With rows that arrive independently, a device that executes fixed buckets is a semi-Markov decision
process: the state is the number of queued rows when the device is free, an action is a bucket, and
the cost is the total waiting time of all rows. The policy with the least mean waiting is found by
relative value iteration (Puterman, Markov Decision Processes, 1994, sections 8.5 and 11.4; with
Schweitzer's transformation to discrete time). It weighs padding up, which answers all rows now,
against a smaller full bucket, which costs less and leaves rows over for the next batch.

The policy depends on relative costs, and little on the load: between 0.3 and 0.9 of the capacity
the thresholds move by a row or two; at a very low load no rows should be left over to wait for
later arrivals. So it is solved for several `LOADS`, and again when the relative costs have changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.scheduling.buckets import Bucket

LOADS: Final = (0.1, 0.35, 0.6, 0.85)  # the parts of the capacity that the policy is solved for
STABLE_SWEEPS: Final = 100  # sweeps without a change in the policy after which it has converged
MAX_SWEEPS: Final = 2000  # sweeps at most; some 200 are usual
STATES: Final = 3  # in largest buckets; the policy covers 2 of them, far from the edge


class BucketPolicy:
    """The bucket to run for any number of queued rows of one length, at any load."""

    def __init__(self, costs: Sequence[tuple[Bucket, float]]) -> None:
        """`costs` are the useful buckets and their seconds, by increasing rows."""
        rows = tuple(bucket.rows for bucket, _ in costs)
        seconds = tuple(cost for _, cost in costs)
        self._tables = tuple(
            tuple(costs[place][0] for place in solve(rows, seconds, load)) for load in LOADS
        )

    def bucket(self, rows: int, load: float) -> Bucket | None:
        """The bucket to run, at a load in device-seconds per second; None above all states."""
        table = self._tables[nearest_load(load)]
        return table[rows] if rows < len(table) else None


def nearest_load(load: float) -> int:
    """The index of the one of `LOADS` that is nearest to a load."""
    return min(range(len(LOADS)), key=lambda place: abs(LOADS[place] - load))


@lru_cache(maxsize=256)  # simulations solve the same table many times
def solve(rows: tuple[int, ...], seconds: tuple[float, ...], load: float) -> tuple[int, ...]:
    """The index of the best bucket for 0, 1, 2, ... queued rows, up to twice the largest bucket.

    `rows` and `seconds` are those of the buckets, by increasing rows; `load` is the arrival rate by
    the capacity, the best bucket's rows per second. Arrivals during an execution are Poisson; two
    points with the same mean and variance give the same policy as the distribution, within a row.
    """
    rate = load * max(n / s for n, s in zip(rows, seconds, strict=True))
    covered = 2 * rows[-1] + 1
    queued = np.arange(STATES * rows[-1] + 1)
    step = 0.9 * min(*seconds, 1 / rate)
    actions = [_Action(n, s, rate, step, queued) for n, s in zip(rows, seconds, strict=True)]
    value = np.zeros(len(queued))
    policy: NDArray[np.intp] = np.zeros(0, np.intp)
    stable = 0
    for _ in range(MAX_SWEEPS):
        value, found = _sweep(actions, value, step * rate)
        stable = stable + 1 if np.array_equal(found[:covered], policy) else 0
        policy = found[:covered]
        if stable == STABLE_SWEEPS:
            break
    return tuple(int(place) for place in policy)


def _sweep(
    actions: Sequence[_Action], value: NDArray[Any], arrival: float
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """One step of value iteration: the values and the best actions of all states. `arrival` is the
    chance of an arrival in one step while the queue is empty.
    """
    candidates = np.stack([action.improve(value) for action in actions])
    best = candidates.min(axis=0)
    best[0] = value[0] + arrival * (value[1] - value[0])  # empty: wait for the next arrival
    # of equals the larger bucket: it answers more rows now
    found = len(actions) - 1 - candidates[::-1].argmin(axis=0)
    return best - best[0], found


class _Action:
    """Running one bucket, in all states at once."""

    def __init__(
        self, rows: int, seconds: float, rate: float, step: float, queued: NDArray[Any]
    ) -> None:
        mean = rate * seconds
        # rows queued now wait for the whole execution, those that arrive during it for half of it
        self._cost = queued + mean / 2
        self._pace = step / seconds
        left = np.maximum(queued - rows, 0)
        self._next = []
        for arrivals, chance in _two_points(mean):
            at = np.minimum(left + arrivals, queued[-1])
            low = at.astype(np.intp)
            self._next.append((chance, low, np.minimum(low + 1, queued[-1]), at - low))

    def improve(self, value: NDArray[Any]) -> NDArray[Any]:
        """The value of this action, given the values of the states."""
        after = sum(
            chance * (value[low] * (1 - part) + value[high] * part)
            for chance, low, high, part in self._next
        )
        return self._cost + self._pace * (after - value) + value  # type: ignore[no-any-return]


def _two_points(mean: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Numbers of arrivals and their chances, none negative, with a Poisson's mean and variance."""
    if mean < 1:
        return (0.0, 1 / (1 + mean)), (1 + mean, mean / (1 + mean))
    return (mean - math.sqrt(mean), 0.5), (mean + math.sqrt(mean), 0.5)
