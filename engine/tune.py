"""Which bucket sizes are worth compiling, for this trace and these costs?

May touch: nothing.

Every bucket costs compile time and memory, so there is a limit on their number, rows times lengths.
For each number of lengths that the limit allows:

1. *Lengths*, exactly: of all sets of so many lengths, the one with the least device-seconds for the
   lengths of the trace, each row at the rate of its bucket length's best full bucket. A dynamic
   program over the candidates, since a row goes to the shortest bucket that holds it. The longest
   candidate always stays: what was accepted before is accepted afterwards.
2. *Rows*, by search: all that are ever the cheapest for any number of waiting rows; one at a time,
   the one is dropped that is missed least, until the limit is kept; then single exchanges, as long
   as one helps; then drops again, as long as nothing is lost. What a set is worth is simulated,
   with the policy that serves, on some thousands of the trace's requests.

The best of these sets is the answer. Its limits: it is the best for this trace, so quiet hours give
up the large buckets that a busy hour needs; lengths are chosen for full buckets, which is true
under load and nearly so below; a row count that is never the cheapest beside all others is not
tried, though beside few it might be; the rows are a local optimum, no single drop or exchange from
a better one. What was simulated is remembered, so no set is run twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from engine.buckets import Bucket, BucketGrid
from engine.costs import CostTable
from engine.errors import ConfigError
from engine.scenario import Scenario, row_seconds
from engine.simulate import Result
from engine.traces import Arrival

Goal = Literal["work", "p99"]
"""The least device-seconds for each request answered in time, or the least 99th percentile."""

SAMPLE: Final = 8_000
"""Requests of the trace on which a set is judged."""

BLOCKS: Final = 4
"""They are taken in so many runs, evenly over the trace: bursts stay whole, and a day is seen."""

FREE: Final = 0.005
"""A bucket is not worth compiling if it improves the goal by less than this part."""


class Score(NamedTuple):
    """Smaller is better; the second decides where the first is infinite or equal."""

    goal: float
    work: float

    @classmethod
    def of(cls, result: Result, goal: Goal) -> Score:
        """Whoever got no answer waited forever."""
        work = result.busy_s / result.good if result.good else math.inf
        if goal == "work":
            return cls(work, 0.0)
        return cls(p99(result), work)

    def as_good_as(self, best: Score) -> bool:
        """Is nothing lost that is worth a bucket?"""
        if self.goal == best.goal:
            return self.work <= best.work * (1 + FREE)
        return self.goal <= best.goal * (1 + FREE)


def p99(result: Result) -> float:
    """The 99th percentile in seconds of all, where those without an answer waited forever."""
    total = result.answered + result.refused + result.expired
    place = int(0.99 * total)
    return sorted(result.latencies)[place] if place < result.answered else math.inf


@dataclass(frozen=True, slots=True)
class Choice:
    """A set of bucket sizes, and what it is worth on the sample."""

    grid: BucketGrid
    score: Score


class Tuner:
    """The search, over one table and one trace."""

    def __init__(
        self,
        scenario: Scenario,
        trace: Sequence[Arrival],
        goal: Goal,
        tried: Callable[[BucketGrid], None] = lambda _grid: None,
    ) -> None:
        """`scenario.seconds` has the candidates. `tried(grid)` hears of each set simulated.

        Raises `ConfigError` for an empty trace, or a table in which a length lacks a row count.
        """
        if not trace:
            raise ConfigError("trace", [], "at least one request")
        self.candidates = grid_of(scenario.seconds)
        self._scenario = scenario
        self._sample = sample(trace)
        self._lengths = Counter(arrival.length for arrival in trace for _ in range(arrival.rows))
        self._goal = goal
        self._tried = tried
        self._scores: dict[BucketGrid, Score] = {}

    def best(self, most: int) -> Choice:
        """The best set of at most `most` buckets. Raises `ConfigError` for less than 1."""
        if most < 1:
            raise ConfigError("most", most, "a whole number from 1 up")
        choices = [
            self._best_rows(self._best_lengths(count), most // count)
            for count in range(1, min(most, len(self.candidates.lanes)) + 1)
        ]
        return min(choices, key=lambda choice: (choice.score, len(choice.grid.buckets)))

    def _best_lengths(self, count: int) -> tuple[int, ...]:
        candidates = self.candidates.lengths
        if not candidates:
            return ()
        rates = [row_seconds(self._scenario.seconds, length) for length in candidates]
        rows = [0] * len(candidates)
        for length, number in self._lengths.items():
            fitted = self.candidates.fit_length(length)
            rows[candidates.index(fitted or 0)] += number
        return tuple(candidates[place] for place in cover(rows, rates, count))

    def _best_rows(self, lengths: tuple[int, ...], most: int) -> Choice:
        useful = rows = self._useful(lengths)
        while len(rows) > most:
            rows = self._one_less(rows, lengths)
        rows = self._exchanged(rows, useful, lengths)
        best = score = self._score(rows, lengths)
        while len(rows) > 1:
            fewer = self._one_less(rows, lengths)
            if not self._score(fewer, lengths).as_good_as(best):
                break
            rows, score = fewer, self._score(fewer, lengths)
            best = min(best, score)
        return Choice(BucketGrid(rows, lengths), score)

    def _one_less(self, rows: tuple[int, ...], lengths: tuple[int, ...]) -> tuple[int, ...]:
        return min(
            (without(rows, each) for each in rows),
            key=lambda fewer: (self._score(fewer, lengths), fewer),
        )

    def _exchanged(
        self, rows: tuple[int, ...], useful: tuple[int, ...], lengths: tuple[int, ...]
    ) -> tuple[int, ...]:
        while True:
            spare = [each for each in useful if each not in rows]
            swaps = [tuple(sorted({*without(rows, out), into})) for out in rows for into in spare]
            best = min((rows, *swaps), key=lambda swap: self._score(swap, lengths))
            if best == rows:
                return rows
            rows = best

    def _useful(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        seconds = restricted(self._scenario.seconds, BucketGrid(self.candidates.rows, lengths))
        costs = CostTable(seconds)
        return tuple(sorted({b.rows for lane in lengths or (None,) for b in costs.useful(lane)}))

    def _score(self, rows: tuple[int, ...], lengths: tuple[int, ...]) -> Score:
        grid = BucketGrid(rows, lengths)
        if grid not in self._scores:
            self._tried(grid)
            seconds = restricted(self._scenario.seconds, grid)
            result = replace(self._scenario, seconds=seconds).run(self._sample)
            self._scores[grid] = Score.of(result, self._goal)
        return self._scores[grid]


def without(rows: tuple[int, ...], gone: int) -> tuple[int, ...]:
    """All but one."""
    return tuple(each for each in rows if each != gone)


def grid_of(seconds: Mapping[Bucket, float]) -> BucketGrid:
    """The bucket sizes of a table. Raises `ConfigError` where it is not rows times lengths."""
    rows = tuple(sorted({bucket.rows for bucket in seconds}))
    lengths = tuple(sorted({b.length for b in seconds if b.length is not None}))
    grid = BucketGrid(rows, lengths)
    missing = [str(bucket) for bucket in grid.buckets if bucket not in seconds]
    if missing:
        raise ConfigError("costs", missing, "a cost for every number of rows at every length")
    return grid


def restricted(seconds: Mapping[Bucket, float], grid: BucketGrid) -> dict[Bucket, float]:
    """The costs of these buckets only. Raises `ConfigError` for one without a cost."""
    missing = [str(bucket) for bucket in grid.buckets if bucket not in seconds]
    if missing:
        raise ConfigError("costs", missing, "a cost for each of these buckets; measure them")
    return {bucket: seconds[bucket] for bucket in grid.buckets}


def cover(rows: Sequence[int], rates: Sequence[float], count: int) -> tuple[int, ...]:
    """The places of `count` bucket lengths with the least cost, the last one among them.

    `rows[i]` rows fit the candidate `i` and none before it; each costs the rate of the first chosen
    candidate that is not shorter. Exact, in count * candidates^2.
    """
    number = len(rows)
    before = [0]
    for each in rows:
        before.append(before[-1] + each)
    # best[i]: the least cost of what fits candidate i, with so many chosen and i the last of them
    best: list[tuple[float, tuple[int, ...]]]
    best = [(before[i + 1] * rates[i], (i,)) for i in range(number)]
    for taken in range(1, count):
        best = [
            min(
                (cost + (before[i + 1] - before[chosen[-1] + 1]) * rates[i], (*chosen, i))
                for cost, chosen in best[:i]
                if len(chosen) == taken
            )
            if i >= taken
            else (math.inf, ())
            for i in range(number)
        ]
    return best[-1][1]


def sample(trace: Sequence[Arrival], most: int = SAMPLE) -> list[Arrival]:
    """At most `most` requests in `BLOCKS` runs, evenly over the trace, one run after the other at
    the trace's mean pace.
    """
    if len(trace) <= most:
        return list(trace)
    size = most // BLOCKS
    gap = (trace[-1].at - trace[0].at) / (len(trace) - 1)
    firsts = [block * (len(trace) - size) // (BLOCKS - 1) for block in range(BLOCKS)]
    taken: list[Arrival] = []
    for first in firsts:
        run = trace[first : first + size]
        shift = (taken[-1].at + gap if taken else 0.0) - run[0].at
        taken += [arrival._replace(at=arrival.at + shift) for arrival in run]
    return taken
