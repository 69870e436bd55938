"""Verifies every bucket against the smallest one, and has it timed. Any failure fails the model.

For each bucket, a few executions on golden rows: one row and padding; then the bucket full, with
the kinds of rows in rotation, once starting with each kind, so that every kind of row has been in
every place. Each row of each execution is compared with the same row alone in the smallest bucket
of its own length. A row of the shortest length is compared with the shortest bucket, which verifies
that padding along the length has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.errors import WarmupError
from engine.models.model import Program
from engine.models.signature import Signature
from engine.models.tensors import Array, Arrays, Extent, TensorSpec
from engine.runtime.staging import gather, scatter
from engine.scheduling.buckets import Bucket, BucketGrid
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.request_queue import DEFAULT_PRIORITY, RowSlice
from engine.warmup.golden import SEED, edge_rows, golden_row
from engine.warmup.profiler import median_seconds


@dataclass(slots=True, eq=False)
class Golden:
    """One golden row, and the outputs of the smallest bucket for it."""

    inputs: Arrays
    extent: Extent
    expected: Arrays
    bucket_length: int | None = None
    rows: int = 1
    deadline: float = 0.0
    priority: int = DEFAULT_PRIORITY
    memory: ClassVar[None] = None


class Verifier:
    """Verifies and times the buckets of one model, smallest first."""

    def __init__(
        self,
        signature: Signature,
        program: Program,
        grid: BucketGrid,
        run: Callable[[Bucket, Arrays], Arrays],
        tolerance: float,
        clock: Callable[[], float],
    ) -> None:
        """`run(bucket, staged)` executes one bucket and waits for its outputs."""
        self._signature = signature
        self._program = program
        self._grid = grid
        self._run = run
        self._tolerance = tolerance
        self._clock = clock
        self._rng = np.random.default_rng(SEED)
        self._golden: dict[int | None, tuple[Golden, ...]] = {}

    def run(self, verified: Callable[[Bucket, float], object]) -> CostTable:
        """Verify and time all buckets; `verified(bucket, seconds)` is called after each.

        Raises `WarmupError` at the first bucket that fails.
        """
        seconds: dict[Bucket, float] = {}
        for bucket in self._grid.buckets:
            try:
                seconds[bucket] = self._verify(bucket)
            except WarmupError:
                raise
            except Exception as error:
                raise WarmupError(f"bucket {bucket} does not run: {error}") from error
            verified(bucket, seconds[bucket])
        return CostTable(seconds)

    def _verify(self, bucket: Bucket) -> float:
        """Returns the cost of the bucket: the seconds of one execution with every row real."""
        golden = self._golden_rows(bucket.length)
        self._compare(bucket, golden[:1])
        for first in range(len(golden)):
            rotated = [golden[(first + place) % len(golden)] for place in range(bucket.rows)]
            self._compare(bucket, rotated)
        staged = self._staged(bucket, rotated)
        return median_seconds(lambda: self._run(bucket, staged), self._clock)

    def _golden_rows(self, length: int | None) -> tuple[Golden, ...]:
        """Two rows that fill `length`, one of the shortest length, and the model's own edge cases;
        made once per length.
        """
        if length not in self._golden:
            parts = (self._signature, self._program, self._rng, length)
            drawn = [golden_row(*parts, number) for number in range(2)]
            drawn += edge_rows(self._signature, self._program, length)
            rows = [self._make_golden(inputs, length) for inputs in drawn]
            shortest = self._grid.bucket_lengths[0]
            if length != shortest:
                rows.append(self._golden_rows(shortest)[0])
            self._golden[length] = tuple(rows)
        return self._golden[length]

    def _make_golden(self, inputs: Arrays, length: int | None) -> Golden:
        extent = Extent(1, length)
        smallest = Bucket(self._grid.rows[0], length)
        (expected,) = self._execute(smallest, [Golden(inputs, extent, expected={})])
        return Golden(inputs, extent, expected)

    def _staged(self, bucket: Bucket, rows: Sequence[Golden]) -> Arrays:
        slices = [RowSlice(row, 0, 1) for row in rows]
        return gather(bucket, self._signature.device_inputs, slices)

    def _execute(self, bucket: Bucket, rows: Sequence[Golden]) -> list[dict[str, Array]]:
        outputs = self._run(bucket, self._staged(bucket, rows))
        slices = [RowSlice(row, 0, 1) for row in rows]
        return scatter(bucket, self._signature.device_outputs, outputs, slices)

    def _compare(self, bucket: Bucket, rows: Sequence[Golden]) -> None:
        answers = self._execute(bucket, rows)
        for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            for spec in self._signature.device_outputs:
                got, expected = answer[spec.name], row.expected[spec.name]
                problem = _disagreement(spec, got, expected, self._tolerance)
                if problem:
                    where = f"bucket {bucket}, row {place}: output {spec.name!r}"
                    raise WarmupError(f"{where} {problem}")


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
