"""Verification passes functions whose rows are independent, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.compilation.interface import Weights
from engine.errors import WarmupError
from engine.models.tensors import LENGTH, Array, Arrays, TensorSpec
from engine.scheduling.buckets import Bucket, BucketGrid
from engine.scheduling.costs.cost_table import CostTable
from engine.testing import FakeClock, PuppetExecutable, double_plus_one, puppet_model
from engine.warmup.profiler import MAX_RUNS, MIN_RUNS, TIMING_BUDGET_S
from engine.warmup.verifier import Verifier

Function = Callable[[Arrays], dict[str, Array]]

PLAIN: dict[str, Any] = {
    "inputs": (TensorSpec("x", "FP32", (2,)),),
    "outputs": (TensorSpec("y", "FP32", (2,)),),
}
"""Padding is 0 rather than NaN, so what leaks is a number."""

TEXT: dict[str, Any] = {
    "inputs": (TensorSpec("x", "FP32", (LENGTH,), pad=0.5),),
    "outputs": (TensorSpec("y", "FP32"),),
}
"""A row has a length; what its padding adds would be 0.5 a place."""


class Bench:
    """Puppets for a grid of buckets, and a verifier of them."""

    def __init__(
        self,
        function: Function,
        rows: tuple[int, ...] = (1, 2, 4),
        lengths: tuple[int, ...] = (),
        tolerance: float = 1e-4,
        **changes: Any,
    ) -> None:
        self.clock = FakeClock()
        self.grid = BucketGrid(rows, lengths)
        self.puppets = {bucket: PuppetExecutable(function) for bucket in self.grid.buckets}
        model = puppet_model(**changes)
        self.verifier = Verifier(
            model.signature, model.program, self.grid, self._execute, tolerance, self.clock
        )
        self.verified: list[tuple[Bucket, float]] = []

    def run(self) -> CostTable:
        return self.verifier.run(lambda bucket, seconds: self.verified.append((bucket, seconds)))

    def _execute(self, bucket: Bucket, staged: Arrays) -> Arrays:
        return self.puppets[bucket].launch(Weights([], 0), staged).result()


def y(numbers: Any) -> dict[str, Array]:
    return {"y": np.asarray(numbers, np.float32)}


# --- what passes --------------------------------------------------------------------------------


def test_every_bucket_is_verified_smallest_first() -> None:
    bench = Bench(double_plus_one)
    bench.run()
    assert [bucket for bucket, _ in bench.verified] == [Bucket(1), Bucket(2), Bucket(4)]


@pytest.mark.parametrize(
    ("function", "changes"),
    [
        pytest.param(double_plus_one, {}, id="rows-apart-and-padding-of-nan"),
        pytest.param(lambda i: y(i["x"] * 0), PLAIN, id="the-same-answer-for-every-row"),
        pytest.param(
            lambda i: y(np.where(i["x"] > 0, np.nan, np.inf)),
            PLAIN | {"outputs": (TensorSpec("y", "FP32", (2,), nonfinite=True),)},
            id="nan-and-infinity-that-the-model-allows-and-that-agree",
        ),
        pytest.param(
            lambda i: {"y": np.argmax(i["x"], axis=1)},
            PLAIN | {"outputs": (TensorSpec("y", "INT64"),)},
            id="integers",
        ),
    ],
)
def test_a_function_of_one_row_alone_passes(function: Function, changes: dict[str, Any]) -> None:
    bench = Bench(function, **changes)
    bench.run()
    assert len(bench.verified) == 3


def test_a_function_that_does_not_look_at_the_padding_of_the_length_passes() -> None:
    bench = Bench(lambda i: y(i["x"][:, 0]), rows=(1, 2), lengths=(2, 8), **TEXT)
    bench.run()
    assert len(bench.verified) == 4


# --- what does not ------------------------------------------------------------------------------


def mixes_rows(inputs: Arrays) -> dict[str, Array]:
    return y(inputs["x"] - inputs["x"].mean(axis=0))


def looks_at_the_last_row(inputs: Arrays) -> dict[str, Array]:
    return y(inputs["x"] + inputs["x"][-1])


def shifts_rows(inputs: Arrays) -> dict[str, Array]:
    return y(np.roll(inputs["x"], 1, axis=0))


def counts_rows(inputs: Arrays) -> dict[str, Array]:
    return y(inputs["x"] + 0.01 * len(inputs["x"]))


def gives_nan(inputs: Arrays) -> dict[str, Array]:
    return y(inputs["x"] * np.nan)


def gives_nan_in_the_last_place(inputs: Arrays) -> dict[str, Array]:
    answer = inputs["x"] * 2
    if len(answer) == 4:
        answer[-1] = np.inf
    return y(answer)


def spoils_one_number(inputs: Arrays) -> dict[str, Array]:
    answer = inputs["x"] * 2
    answer[2:, 1] += 1
    return y(answer)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        pytest.param(
            spoils_one_number, "bucket 4, row 2: output 'y' is 1 away", id="only-one-number"
        ),
        pytest.param(mixes_rows, "bucket 2, row 0: output 'y' is .* away", id="mixes-rows"),
        pytest.param(
            looks_at_the_last_row,
            "bucket 2, row 0: output 'y' is .* a row must not depend on its neighbours",
            id="depends-on-padding-rows",
        ),
        pytest.param(shifts_rows, "bucket 2, row 0: output 'y' is .* away", id="shifts-rows"),
        pytest.param(counts_rows, r"bucket 2, row 0: .* 0\.01 away", id="depends-on-the-bucket"),
        pytest.param(
            gives_nan, "bucket 1, row 0: output 'y' is not finite for a golden row", id="nan"
        ),
        pytest.param(
            gives_nan_in_the_last_place, "bucket 4, row 3: .* not finite", id="only-in-one-place"
        ),
    ],
)
def test_a_function_that_does_not_keep_rows_apart_fails(function: Function, problem: str) -> None:
    with pytest.raises(WarmupError, match=problem):
        Bench(function, **PLAIN).run()


def test_padding_of_nan_that_leaks_is_not_finite() -> None:
    with pytest.raises(WarmupError, match=r"bucket 2, row 0: .* not finite"):
        Bench(mixes_rows).run()


def test_integers_must_agree_exactly() -> None:
    def last_bit(inputs: Arrays) -> dict[str, Array]:
        return {"y": np.full(len(inputs["x"]), 10**6 + len(inputs["x"]) // 4)}

    outputs = (TensorSpec("y", "INT64"),)
    with pytest.raises(WarmupError, match=r"bucket 4, row 0: .* expected exactly equal integers"):
        Bench(last_bit, tolerance=1.0, **(PLAIN | {"outputs": outputs})).run()


@pytest.mark.parametrize(
    ("rows", "fails"),
    [
        pytest.param((1,), 1, id="one-row"),
        pytest.param((1, 2), 1, id="fewer-rows-than-kinds-of-rows"),
        pytest.param((2,), 2, id="no-bucket-of-one-row"),
        pytest.param((1, 8), 1, id="room-for-all"),
    ],
)
def test_padding_along_the_length_must_not_count_whatever_the_rows(
    rows: tuple[int, ...], fails: int
) -> None:
    with pytest.raises(WarmupError, match=rf"bucket {fails}x8, row .*: .* on padding"):
        Bench(lambda i: y(i["x"].sum(axis=1)), rows=rows, lengths=(2, 8), **TEXT).run()


def test_every_kind_of_row_is_in_every_place() -> None:
    bench = Bench(lambda i: y(i["x"][:, 0]), rows=(1, 4), lengths=(2, 8), **TEXT)
    bench.run()
    for bucket, puppet in bench.puppets.items():
        kinds = 2 if bucket.length == 2 else 3
        for place in range(bucket.rows):
            stood = {batch["x"][place].tobytes() for batch in puppet.launched}
            padding = np.full(bucket.length or 0, 0.5, np.float32).tobytes()
            assert len(stood - {padding}) == kinds


@pytest.mark.parametrize(
    ("tolerance", "passes"),
    [
        pytest.param(0.011, True, id="just-enough"),
        pytest.param(0.009, False, id="just-not-enough"),
    ],
)
def test_the_tolerance_is_relative_to_large_values(tolerance: float, passes: bool) -> None:
    """Alone it is 1000, in the bucket of two 1010."""
    bench = Bench(
        lambda i: y(np.full(i["x"].shape, 990 + 10 * len(i["x"]))),
        rows=(1, 2),
        tolerance=tolerance,
        **PLAIN,
    )
    if passes:
        bench.run()
    else:
        with pytest.raises(WarmupError, match=r"is 10 away .* at most 0\.009 x max"):
            bench.run()


@pytest.mark.parametrize(
    ("alone", "together"),
    [
        pytest.param(np.inf, -np.inf, id="the-other-infinity"),
        pytest.param(np.nan, 1.0, id="a-number-for-nan"),
        pytest.param(1.0, np.inf, id="infinity-for-a-number"),
    ],
)
def test_what_is_not_finite_must_agree_too(alone: float, together: float) -> None:
    spec = TensorSpec("y", "FP32", (2,), nonfinite=True)
    with pytest.raises(WarmupError, match=r"bucket 2, row 0: .* away"):
        Bench(
            lambda i: y(np.full(i["x"].shape, alone if len(i["x"]) == 1 else together)),
            **(PLAIN | {"outputs": (spec,)}),
        ).run()


def test_a_bucket_that_does_not_run_says_why() -> None:
    bench = Bench(double_plus_one)
    bench.puppets[Bucket(2)].fail_result = RuntimeError("out of memory")
    with pytest.raises(WarmupError, match="bucket 2 does not run: out of memory") as caught:
        bench.run()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert [bucket for bucket, _ in bench.verified] == [Bucket(1)]


def test_a_model_that_gives_another_shape_does_not_run() -> None:
    with pytest.raises(WarmupError, match=r"bucket 1 does not run: y came back as \(0, 2\)"):
        Bench(lambda i: y(i["x"][1:])).run()


# --- what it costs ------------------------------------------------------------------------------


def timed(bench: Bench, seconds: Callable[[int], float]) -> None:
    """Every execution takes `seconds(how many before it)` on the bench's clock."""
    for puppet in bench.puppets.values():

        def slow(inputs: Arrays, puppet: PuppetExecutable = puppet) -> dict[str, Array]:
            bench.clock.advance(seconds(len(puppet.launched)))
            return double_plus_one(inputs)

        puppet.function = slow


def test_the_cost_of_a_bucket_is_its_median() -> None:
    bench = Bench(double_plus_one, rows=(1,))
    timed(bench, lambda run: 8.0 if run % 7 == 0 else 1 / 64)
    costs = bench.run()
    assert costs.seconds(Bucket(1)) == pytest.approx(1 / 64)
    assert bench.verified == [(Bucket(1), costs.seconds(Bucket(1)))]


@pytest.mark.parametrize(
    ("seconds", "runs"),
    [
        pytest.param(10.0, MIN_RUNS, id="a-slow-bucket-a-few-times"),
        pytest.param(TIMING_BUDGET_S / 8, 8, id="until-the-budget-is-spent"),
        pytest.param(0.0, MAX_RUNS, id="a-quick-one-not-for-ever"),
    ],
)
def test_a_bucket_is_timed_until_the_budget_is_spent(seconds: float, runs: int) -> None:
    bench = Bench(double_plus_one, rows=(1,))
    timed(bench, lambda _run: seconds)
    bench.run()
    golden_rows, comparisons = 2, 3
    assert len(bench.puppets[Bucket(1)].launched) == golden_rows + comparisons + runs


def test_a_clock_that_stands_still_gives_a_cost_all_the_same() -> None:
    assert Bench(double_plus_one).run().seconds(Bucket(1)) == 1e-9
