"""The proof: every bucket runs, agrees with the smallest one, and is timed.

May touch: numpy, a clock. Any failure is fatal for the model.

For each bucket a few executions on golden rows: one row alone and the rest padding; then the bucket
full, with the kinds of rows in turn, once with each kind first, so that every kind of row has stood
in every place. Every row of each is compared with the same row alone in the smallest bucket of its
own length, and a row of the shortest length with the shortest bucket, which proves that padding
along the length does nothing. Then the full bucket is timed; the median is its cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.buckets import Bucket, BucketGrid
from engine.costs import CostTable
from engine.errors import WarmupError
from engine.model import Model
from engine.padding import gather, scatter
from engine.runnable import Runnable
from engine.spec import Array, Arrays, Extent, TensorSpec
from engine.waiting import DEFAULT_PRIORITY, Piece

MIN_RUNS, MAX_RUNS, TIMING_BUDGET_S = 3, 50, 0.25
"""How often a bucket is timed: until the budget is spent, within these bounds."""


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """One golden row, and what the smallest bucket answered it."""

    inputs: Arrays
    extent: Extent
    answer: Arrays
    lane: int | None = None
    rows: int = 1
    enqueued_at: float = 0.0
    deadline: float = 0.0
    priority: int = DEFAULT_PRIORITY


class Proof:
    """Proves the buckets of one model, smallest first."""

    def __init__(
        self,
        model: Model,
        grid: BucketGrid,
        runnables: Mapping[Bucket, Runnable],
        tolerance: float,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._grid = grid
        self._runnables = runnables
        self._tolerance = tolerance
        self._clock = clock
        self._rng = np.random.default_rng(20)
        self._golden: dict[int | None, tuple[Golden, ...]] = {}

    def run(self, proved: Callable[[Bucket, float], None]) -> CostTable:
        """Prove and time them all. `proved(bucket, seconds)` hears of each one.

        Raises `WarmupError` at the first bucket that fails.
        """
        seconds: dict[Bucket, float] = {}
        for bucket in self._grid.buckets:
            try:
                seconds[bucket] = self._prove(bucket)
            except WarmupError:
                raise
            except Exception as error:
                raise WarmupError(f"bucket {bucket} does not run: {error}") from error
            proved(bucket, seconds[bucket])
        return CostTable(seconds)

    def _prove(self, bucket: Bucket) -> float:
        golden = self._golden_rows(bucket.length)
        self._compare(bucket, golden[:1])
        for first in range(len(golden)):
            in_turn = [golden[(first + place) % len(golden)] for place in range(bucket.rows)]
            self._compare(bucket, in_turn)
        return self._time(bucket, in_turn)

    def _golden_rows(self, length: int | None) -> tuple[Golden, ...]:
        """Two rows that fill `length`, and one of the shortest length; made once per length."""
        if length not in self._golden:
            lane = [self._make_golden(length) for _ in range(2)]
            shortest = self._grid.lanes[0]
            if length != shortest:
                lane.append(self._golden_rows(shortest)[0])
            self._golden[length] = tuple(lane)
        return self._golden[length]

    def _make_golden(self, length: int | None) -> Golden:
        inputs = self._model.golden_row(self._rng, length)
        alone = Golden(inputs, Extent(1, length), answer={})
        smallest = Bucket(self._grid.rows[0], length)
        (answer,) = self._execute(smallest, [alone])
        return Golden(inputs, Extent(1, length), answer)

    def _execute(self, bucket: Bucket, rows: Sequence[Golden]) -> list[dict[str, Array]]:
        pieces = [Piece(row, 0, 1) for row in rows]
        staged = gather(bucket, self._model.device_inputs, pieces)
        outputs = self._runnables[bucket].launch(staged).result()
        return list(scatter(bucket, self._model.device_outputs, outputs, pieces))

    def _compare(self, bucket: Bucket, rows: Sequence[Golden]) -> None:
        answers = self._execute(bucket, rows)
        for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            for spec in self._model.device_outputs:
                problem = _disagreement(
                    spec, answer[spec.name], row.answer[spec.name], self._tolerance
                )
                if problem:
                    raise WarmupError(
                        f"bucket {bucket}, row {place}: output {spec.name!r} {problem}"
                    )

    def _time(self, bucket: Bucket, rows: Sequence[Golden]) -> float:
        staged = gather(bucket, self._model.device_inputs, [Piece(row, 0, 1) for row in rows])
        samples: list[float] = []
        while len(samples) < MIN_RUNS or (
            len(samples) < MAX_RUNS and sum(samples) < TIMING_BUDGET_S
        ):
            started = self._clock()
            self._runnables[bucket].launch(staged).result()
            # a clock that does not move (a test's) still gives a positive cost
            samples.append(max(self._clock() - started, 1e-9))
        return statistics.median(samples)


def _disagreement(spec: TensorSpec, got: Array, alone: Array, tolerance: float) -> str | None:
    """What is wrong with `got`, compared with the same row alone, or None."""
    if spec.dtype.kind in "biu":
        if np.array_equal(got, alone):
            return None
        return "is not what the row gives alone, expected exactly equal integers"
    wide_got, wide_alone = got.astype(np.float64), alone.astype(np.float64)
    if not spec.nonfinite and not np.isfinite(wide_got).all():
        return "is not finite for a golden row"
    # a NaN that both have is agreement, and so is the same infinity; nothing else is near them
    same = (wide_got == wide_alone) | (np.isnan(wide_got) & np.isnan(wide_alone))
    finite = np.isfinite(wide_got) & np.isfinite(wide_alone)
    with np.errstate(invalid="ignore"):
        error = np.where(finite, np.abs(wide_got - wide_alone), np.inf)
        close = finite & (error <= tolerance * np.maximum(1.0, np.abs(wide_alone)))
    if (same | close).all():
        return None
    return (
        f"is {float(error[~same].max()):.3g} away from what the row gives alone, "
        f"expected at most {tolerance:g} x max(1, |value|): "
        "a row must not depend on its neighbours or on padding"
    )
