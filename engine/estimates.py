"""What the policy learns from what it sees: delays, and whether clients come back.

May touch: nothing. Time is an argument.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

DEVIATIONS: Final = 2.0
"""Mean deviations above the mean that are still to be expected."""


class Expectation:
    """A mean and its mean deviation, as TCP estimates round trips (RFC 6298, section 2).

    Old samples fade: each new one counts an eighth in the mean, a fourth in the deviation.
    """

    __slots__ = ("deviation", "mean")

    def __init__(self) -> None:
        self.mean = math.nan
        self.deviation = 0.0

    def add(self, sample: float) -> None:
        """One more sample."""
        if math.isnan(self.mean):
            self.mean, self.deviation = sample, abs(sample) / 2
            return
        error = sample - self.mean
        self.deviation += (abs(error) - self.deviation) / 4
        self.mean += error / 8

    def upper(self, otherwise: float) -> float:
        """What a sample seldom exceeds; `otherwise` while nothing is known."""
        if math.isnan(self.mean):
            return otherwise
        return self.mean + DEVIATIONS * self.deviation


class Worst:
    """The largest of the last samples: between `BLOCKS - 1` and `BLOCKS` times `BLOCK` of them.

    For errors that come in runs, as those of promises do: whoever is promised something at the same
    time shares the same surprises. A mean and a deviation that fade would call every run normal,
    and a percentile of the last few hundred sees one run only.
    """

    BLOCK: Final = 64
    BLOCKS: Final = 64

    __slots__ = ("_blocks", "_count", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._blocks: deque[float] = deque(maxlen=self.BLOCKS)
        self._count = 0

    def add(self, sample: float) -> None:
        """One more sample."""
        if self._count % self.BLOCK == 0:
            self._blocks.append(sample)
            self.value = max(self._blocks)
        elif sample > self._blocks[-1]:
            self._blocks[-1] = sample
            self.value = max(self.value, sample)
        self._count += 1


class Rate:
    """So much per second, of late: what was added fades with a time constant.

    In the beginning less has been seen than will be remembered; that is made up for.
    """

    SEEN: Final = 0.1
    """The least part of what will be remembered that is taken to have been seen."""

    __slots__ = ("_at", "_began_at", "_memory_s", "_rate")

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._rate = 0.0
        self._began_at = self._at = math.nan

    def add(self, amount: float, now: float) -> None:
        """So much more."""
        if math.isnan(self._at):
            self._began_at = self._at = now
        self._rate = self._rate * self._left(now - self._at) + amount / self._memory_s
        self._at = now

    def now(self, now: float) -> float:
        """Per second, at this moment."""
        if math.isnan(self._at):
            return 0.0
        seen = max(self.SEEN, 1 - self._left(now - self._began_at))
        return self._rate * self._left(now - self._at) / seen

    def _left(self, seconds: float) -> float:
        return math.exp(-seconds / self._memory_s)


class Returns:
    """Do the clients that were just answered come back, and when?

    In a *closed loop*, where every client sends its next request when it has its answer, every
    arrival is somebody coming back: after `n` rows were answered `n` rows arrive, and then none.
    Independent arrivals do not stop there: they find nobody missing as often as nobody is missing
    (Poisson arrivals see time averages: Wolff, 1982). So two shares are compared: that of the
    arrivals that are *new*, which is when nobody is missing, and that of the time in which nobody
    is. In a closed loop nobody is missing while a batch runs, and nobody new comes then. What is
    timed is how long it takes until all who were answered are back.
    """

    NEW: Final = 0.02
    """In a closed loop fewer arrivals than this share are new."""

    QUIET: Final = 0.1
    """In a closed loop nobody is missing for more than this share of the time. Where it is less,
    the clients take so much longer than the device that nobody should wait for them."""

    FADE: Final = 1 / 256
    """What one arrival counts in both shares."""

    PATIENCE: Final = 4
    """When so many more batches have been answered, nobody is waited for any longer."""

    __slots__ = (
        "_answers",
        "_arrived",
        "_delay",
        "_limit_s",
        "_new",
        "_quiet_s",
        "_seen",
        "_seen_s",
    )

    def __init__(self, limit_s: float) -> None:
        """Who has not come back after `limit_s` seconds is not waited for, and counts as that."""
        self._limit_s = limit_s
        self._delay = Expectation()
        self._new = 1.0
        self._seen = math.nan  # when something last happened
        self._seen_s = self._quiet_s = 0.0  # seconds, and those of them in which nobody was missing
        self._arrived = 0
        # when rows were answered, and how many will have arrived when as many are back
        self._answers: deque[tuple[float, int]] = deque()

    def answered(self, rows: int, now: float) -> None:
        """So many rows have their answer."""
        self._pass(now)
        owed = max(self._arrived, self._answers[-1][1] if self._answers else 0)
        self._answers.append((now, owed + rows))

    def arrived(self, rows: int, now: float) -> None:
        """So many rows have come."""
        self._pass(now)
        self._seen_s *= 1 - self.FADE
        self._quiet_s *= 1 - self.FADE
        self._new += self.FADE * ((not self._answers) - self._new)
        self._arrived += rows
        answers = self._answers
        while answers and answers[0][1] <= self._arrived:
            self._delay.add(now - answers.popleft()[0])

    def _pass(self, now: float) -> None:
        """Time has passed since something happened."""
        passed = 0.0 if math.isnan(self._seen) else now - self._seen
        self._seen = now
        self._seen_s += passed
        if self._answers:
            self._forget(now)
        else:
            self._quiet_s += passed

    def _forget(self, now: float) -> None:
        answers = self._answers
        while answers and (now - answers[0][0] > self._limit_s or len(answers) > self.PATIENCE):
            _, target = answers.popleft()
            self._delay.add(self._limit_s)
            self._arrived = max(self._arrived, target)  # nobody waits for them any longer

    @property
    def closed(self) -> bool:
        """Is everybody who arrives somebody who has come back?"""
        return self._new < self.NEW and self._quiet_s > self.QUIET * self._seen_s

    @property
    def delay_s(self) -> float:
        """Within so many seconds those who were answered are usually back; infinite if unknown."""
        # a little later than the very last is usually seen: a hold that ends a moment too early
        # has waited for nothing
        return 1.1 * self._delay.upper(math.inf)

    def missing(self, now: float) -> tuple[int, float]:
        """How many rows may be on their way back, and by when they should be here."""
        self._forget(now)
        if not self._answers:
            return 0, now
        answered_at, target = self._answers[-1]
        return target - self._arrived, answered_at + self.delay_s
