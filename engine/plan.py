"""Which bucket for how many waiting rows: the best rule there is, solved once per cost table.

May touch: numpy.

With rows that arrive independently, a device that executes fixed buckets is a semi-Markov decision
process: the state is the number of rows that wait when the device is free, an action is a bucket,
and the cost is the waiting of everybody. The rule with the least mean waiting is found by relative
value iteration (Puterman, Markov Decision Processes, 1994, sections 8.5 and 11.4; with Schweitzer's
transformation to discrete time). What it weighs, a rule of thumb cannot: padding up answers
everybody now, a smaller bucket that is full costs less, and who is left behind has company next
time.

The rule depends on the cost of the buckets relative to each other, and little on how busy the
device is: between 0.3 and 0.9 of its capacity the thresholds move by a row or two, and a device
that is hardly ever asked should not leave anybody behind for company. So it is solved for three
`LOADS`, and again only when the relative costs have changed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LOADS: Final = (0.1, 0.4, 0.8)
"""The parts of the capacity for which it is solved."""

SETTLED: Final = 100
"""Sweeps without a change in the rule after which it is taken as found."""

SWEEPS: Final = 2000
"""At most; some 200 are usual."""

STATES: Final = 3
"""States, in multiples of the largest bucket. Twice that is asked for; the edge is further off."""


def nearest(load: float) -> int:
    """The place of the one of `LOADS` that is nearest to a load."""
    return min(range(len(LOADS)), key=lambda place: abs(LOADS[place] - load))


@lru_cache(maxsize=256)
def solve(rows: tuple[int, ...], seconds: tuple[float, ...], load: float) -> tuple[int, ...]:
    """The place of the best bucket for 0, 1, 2, ... waiting rows, up to twice the largest bucket.

    `rows` and `seconds` of the buckets, by rows, increasing; `load` is the part of the capacity,
    the best bucket's rows per second, at which rows arrive. What arrives while a bucket runs is
    Poisson; it is represented by two points with its mean and its variance, which gives the same
    rule as the whole distribution within a row. Whoever simulates asks for one table many times.
    """
    largest, last = rows[-1], len(rows) - 1
    top = STATES * largest
    rate = load * max(n / s for n, s in zip(rows, seconds, strict=True))
    waiting = np.arange(top + 1)
    step = 0.9 * min(*seconds, 1 / rate)
    value = np.zeros(top + 1)
    actions = [_Action(n, s, rate, step, waiting) for n, s in zip(rows, seconds, strict=True)]
    rule: NDArray[np.intp] = np.zeros(0, np.intp)
    since = 0
    for _ in range(SWEEPS):
        candidates = np.stack([action.improve(value) for action in actions])
        # of equals the larger: it answers more rows now
        found = last - candidates[::-1].argmin(axis=0)[: 2 * largest + 1]
        best = candidates.min(axis=0)
        best[0] = value[0] + step * rate * (value[1] - value[0])  # nobody waits: the next arrival
        value = best - best[0]
        since = since + 1 if np.array_equal(found, rule) else 0
        rule = found
        if since == SETTLED:
            break
    return tuple(int(place) for place in rule)


class _Action:
    """One bucket, in all states at once."""

    def __init__(
        self, rows: int, seconds: float, rate: float, step: float, waiting: NDArray[Any]
    ) -> None:
        # those who wait now wait for all of it, those who arrive meanwhile for half of it
        self._cost = waiting + rate * seconds / 2
        self._pace = step / seconds
        left = np.maximum(waiting - rows, 0)
        mean = rate * seconds
        self._next = []
        for arrivals, chance in _two_points(mean):
            at = np.minimum(left + arrivals, waiting[-1])
            low = at.astype(np.intp)
            self._next.append((chance, low, np.minimum(low + 1, waiting[-1]), at - low))

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
