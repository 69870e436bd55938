"""Searches for the bucket sizes that are worth compiling, for a trace and its costs.

Every bucket costs compile time and memory, so their number, rows times lengths, has a limit. For
each number of lengths that the limit allows:

1. *Lengths*, exactly, by a dynamic program: of all sets of so many lengths, the one with the least
   device-seconds for the lengths of the trace, with each row at the rate of its length's best full
   bucket. The longest candidate always stays, so that no request becomes too long.
2. *Rows*, by local search, from all row counts that are ever the cheapest for any number of queued
   rows: drop the one that costs least to drop, until the limit is kept; then exchange single ones
   while that helps; then drop again while nothing is lost. The score of a set is simulated, with
   the server's policy, on some thousands of the trace's requests.

The best of these sets is the answer. Its limits: it is the best for this trace, so a quiet trace
gives up the large buckets that busy hours need; lengths are chosen for full buckets, which is right
under load and nearly so below; the rows are a local optimum, of those that are ever the cheapest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final, Literal, NamedTuple

from engine.errors import ConfigError
from engine.scheduling.buckets import Bucket, BucketGrid
from engine.scheduling.costs.cost_table import CostTable
from engine.simulation.scenario import Scenario, row_seconds
from engine.simulation.simulator import Result
from engine.simulation.traces import Arrival

Goal = Literal["work", "p99"]
"""The least device-seconds for each request answered in time, or the least 99th percentile."""

SAMPLE: Final = 8_000  # requests of the trace that the score of a set is simulated on
BLOCKS: Final = 4  # runs in the sample, evenly over the trace: bursts stay whole, a day is covered
FREE: Final = 0.005  # an improvement of the score by less than this part is not worth a bucket


class Score(NamedTuple):
    """Smaller is better; the second decides where the first is infinite or equal."""

    goal: float
    work: float

    @classmethod
    def of(cls, result: Result, goal: Goal) -> Score:
        """Requests without an answer count as an infinite latency."""
        work = result.busy_s / result.good if result.good else math.inf
        return cls(work, 0.0) if goal == "work" else cls(p99(result), work)

    def as_good_as(self, best: Score) -> bool:
        """Whether it is worse by too little to be worth a bucket."""
        if self.goal == best.goal:
            return self.work <= best.work * (1 + FREE)
        return self.goal <= best.goal * (1 + FREE)


def p99(result: Result) -> float:
    """The 99th percentile in seconds; requests without an answer have an infinite latency."""
    place = int(0.99 * (result.answered + result.refused + result.expired))
    return sorted(result.latencies)[place] if place < result.answered else math.inf


class Choice(NamedTuple):
    """A set of bucket sizes, and its score on the sample."""

    grid: BucketGrid
    score: Score


class Tuner:
    """The search, for one cost table and one trace."""

    def __init__(
        self,
        scenario: Scenario,
        trace: Sequence[Arrival],
        goal: Goal,
        tried: Callable[[BucketGrid], None] = lambda _grid: None,
    ) -> None:
        """`scenario.seconds` has the candidates. `tried(grid)` is called for each set simulated.
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
            for count in range(1, min(most, len(self.candidates.bucket_lengths)) + 1)
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
        useful = self._useful(lengths)
        grid = BucketGrid(useful, lengths)
        while len(grid.rows) > most:
            grid = self._one_less(grid)
        grid = self._exchanged(grid, useful)
        best = score = self._score(grid)
        while len(grid.rows) > 1:
            fewer = self._one_less(grid)
            if not self._score(fewer).as_good_as(best):
                break
            grid, score = fewer, self._score(fewer)
            best = min(best, score)
        return Choice(grid, score)

    def _one_less(self, grid: BucketGrid) -> BucketGrid:
        fewer = [replace(grid, rows=without(grid.rows, each)) for each in grid.rows]
        return min(fewer, key=lambda smaller: (self._score(smaller), smaller.rows))

    def _exchanged(self, grid: BucketGrid, useful: tuple[int, ...]) -> BucketGrid:
        while True:
            rows = grid.rows
            spare = [each for each in useful if each not in rows]
            swaps = [tuple(sorted({*without(rows, out), into})) for out in rows for into in spare]
            best = min((grid, *(replace(grid, rows=swap) for swap in swaps)), key=self._score)
            if best == grid:
                return grid
            grid = best

    def _useful(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        candidates = BucketGrid(self.candidates.rows, lengths)
        costs = CostTable(restricted(self._scenario.seconds, candidates))
        useful = {b.rows for length in candidates.bucket_lengths for b in costs.useful(length)}
        return tuple(sorted(useful))

    def _score(self, grid: BucketGrid) -> Score:
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
    number, before = len(rows), list(accumulate(rows, initial=0))
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
    taken: list[Arrival] = []
    for block in range(BLOCKS):
        first = block * (len(trace) - size) // (BLOCKS - 1)
        run = trace[first : first + size]
        shift = (taken[-1].at + gap if taken else 0.0) - run[0].at
        taken += [arrival._replace(at=arrival.at + shift) for arrival in run]
    return taken
