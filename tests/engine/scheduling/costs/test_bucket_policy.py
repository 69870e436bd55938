"""The bucket policy, against an exact solver that shares no code with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.scheduling.costs.bucket_policy import LOADS, nearest_load, solve


@dataclass
class Exact:
    """The same decision process with the whole Poisson distribution, as matrices.

    `optimum` is found by value iteration until the values have converged; `waiting(policy)`, the
    mean number of queued rows, by solving the linear equations of one policy.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    load: float
    matrices: list[NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.top = 6 * self.rows[-1] + 40
        self.rate = self.load * max(n / s for n, s in zip(self.rows, self.seconds, strict=True))
        self.states = np.arange(self.top + 1)
        self.matrices = [self._moves(*one) for one in zip(self.rows, self.seconds, strict=True)]

    def _moves(self, rows: int, seconds: float) -> NDArray[Any]:
        """Chances from every number of queued rows to every other, over one execution."""
        mean = self.rate * seconds
        logs = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(self.top + 1)]
        moves = np.zeros((self.top + 1, self.top + 1))
        for waiting in self.states:
            left = max(0, waiting - rows)
            moves[waiting, left:] = np.exp(logs[: self.top + 1 - left])
            moves[waiting, -1] += 1 - moves[waiting].sum()
        return moves

    def optimum(self) -> tuple[int, ...]:
        step = 0.9 * min(*self.seconds, 1 / self.rate)
        value = np.zeros(self.top + 1)
        for _ in range(50_000):
            choices = np.stack(
                [
                    self.states + self.rate * s / 2 + step / s * (moves @ value - value) + value
                    for s, moves in zip(self.seconds, self.matrices, strict=True)
                ]
            )
            best = choices.min(axis=0)
            best[0] = value[0] + step * self.rate * (value[1] - value[0])
            moved = best - value
            value = best - best[0]
            if np.ptp(moved) < 1e-9 * np.abs(moved).max():
                return tuple(int(place) for place in choices.argmin(axis=0))
        pytest.fail("the exact solver did not converge")

    def waiting(self, policy: Sequence[int]) -> float:
        """Beyond its end a policy runs the bucket that is cheapest per row when full."""
        price = [s / n for n, s in zip(self.rows, self.seconds, strict=True)]
        whole = [*policy, *[price.index(min(price))] * (self.top + 1 - len(policy))]
        lasts = np.array([1 / self.rate, *(self.seconds[place] for place in whole[1:])])
        moves = np.stack([self.matrices[place][n] for n, place in enumerate(whole)])
        moves[0] = np.eye(self.top + 1)[1]
        cost = (self.states + self.rate * lasts / 2) * lasts
        cost[0] = 0
        # the value of state 0 is 0; its column holds the mean instead
        system = np.eye(self.top + 1) - moves
        system[:, 0] = lasts
        return float(np.linalg.solve(system, cost)[0])


TABLES = {
    "a-large-bucket-costs-hardly-more": ((1, 2, 4, 8, 16), (1.0, 1.02, 1.05, 1.1, 1.2)),
    "a-large-bucket-costs-clearly-more": ((1, 8, 16), (0.5, 1.0, 1.5)),
    "small-is-best-as-on-a-cpu": ((1, 2, 4, 8, 16), (23.0, 37.7, 80.0, 170.0, 360.0)),
    "a-fixed-part-and-one-per-row": ((1, 4, 16), (1.1, 1.4, 2.6)),
    "two-hardly-different": ((1, 2), (1.0, 1.1)),
    "every-row-costs-the-same": ((1, 2, 4, 8), (1.0, 2.0, 4.0, 8.0)),
    "with-dominated-buckets": ((1, 4, 8, 16), (1.0, 3.9, 3.95, 4.2)),
    "far-apart": ((1, 16), (1.0, 8.0)),
    "one-bucket": ((8,), (1.0,)),
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(("rows", "seconds"), TABLES.values(), ids=TABLES)
def test_at_its_own_load_the_policy_is_the_exact_one_within_a_row(
    rows: tuple[int, ...], seconds: tuple[float, ...], load: float
) -> None:
    exact = Exact(rows, seconds, load).optimum()
    policy = solve(rows, seconds, load)
    assert len(policy) == 2 * rows[-1] + 1
    for waiting in range(1, len(policy)):
        assert policy[waiting] in exact[max(1, waiting - 1) : waiting + 2], waiting


# Between the loads that it is solved for, a threshold moves by a row or two.
MAX_LOSS = {
    0.1: 0.002,
    0.2: 0.03,
    0.35: 0.002,
    0.5: 0.03,
    0.6: 0.002,
    0.75: 0.03,
    0.85: 0.005,
    0.95: 0.05,
}


@pytest.mark.parametrize("load", MAX_LOSS)
@pytest.mark.parametrize(("rows", "seconds"), TABLES.values(), ids=TABLES)
def test_the_policy_causes_hardly_more_waiting_than_the_optimum(
    rows: tuple[int, ...], seconds: tuple[float, ...], load: float
) -> None:
    exact = Exact(rows, seconds, load)
    policy = solve(rows, seconds, LOADS[nearest_load(load)])
    assert exact.waiting(policy) <= (1 + MAX_LOSS[load]) * exact.waiting(exact.optimum())


def test_the_policy_is_better_than_padding_up_and_than_filling_up() -> None:
    rows, seconds = TABLES["a-large-bucket-costs-clearly-more"]
    exact = Exact(rows, seconds, 0.8)
    pad = [next((place for place, n in enumerate(rows) if n >= w), 2) for w in range(33)]
    fill = [max((place for place, n in enumerate(rows) if n <= w), default=0) for w in range(33)]
    solved = exact.waiting(solve(rows, seconds, 0.8))
    assert solved < 0.97 * exact.waiting(pad)
    assert solved < 0.97 * exact.waiting(fill)


@pytest.mark.parametrize(
    ("rows", "seconds", "waiting", "bucket"),
    [
        pytest.param((8,), (1.0,), 1, 8, id="one-bucket-has-no-choice"),
        pytest.param((1, 8), (1.0, 1.1), 2, 8, id="padding-costs-next-to-nothing"),
        pytest.param((1, 8), (1.0, 7.9), 2, 1, id="padding-costs-everything"),
        pytest.param((1, 8), (1.0, 9.0), 16, 1, id="the-large-bucket-is-expensive-even-full"),
        pytest.param((1, 8, 16), (0.5, 1.0, 1.5), 16, 16, id="full"),
        pytest.param((1, 8, 16), (0.5, 1.0, 1.9), 9, 8, id="one-is-left-over"),
    ],
)
def test_the_bucket_for_a_number_of_rows(
    rows: tuple[int, ...], seconds: tuple[float, ...], waiting: int, bucket: int
) -> None:
    assert rows[solve(rows, seconds, 0.8)[waiting]] == bucket


grids = st.lists(
    st.tuples(st.integers(1, 24), st.floats(0.05, 4)),
    min_size=1,
    max_size=5,
    unique_by=lambda c: c[0],
).map(sorted)


@settings(max_examples=25, deadline=None)
@given(grid=grids, power=st.integers(-12, 12))
def test_only_relative_costs_count(grid: list[tuple[int, float]], power: int) -> None:
    rows, seconds = zip(*grid, strict=True)
    # a power of two, so that not even rounding differs
    assert solve(rows, tuple(s * 2.0**power for s in seconds), 0.8) == solve(rows, seconds, 0.8)


@settings(max_examples=25, deadline=None)
@given(grid=grids)
def test_increasing_costs_give_every_state_a_bucket(
    grid: list[tuple[int, float]],
) -> None:
    rows = tuple(n for n, _ in grid)
    seconds = tuple(sum(s for _, s in grid[: place + 1]) for place in range(len(grid)))
    policy = solve(rows, seconds, 0.8)
    assert len(policy) == 2 * rows[-1] + 1
    assert set(policy) <= set(range(len(rows)))
    # rows that fit a bucket that costs less are never padded further
    for waiting, place in enumerate(policy[1:], 1):
        smaller = [n for n, s in zip(rows, seconds, strict=True) if s < seconds[place]]
        assert not any(waiting <= n for n in smaller), waiting


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [TABLES["a-large-bucket-costs-hardly-more"], TABLES["a-fixed-part-and-one-per-row"]],
)
def test_with_a_fixed_part_and_one_per_row_more_rows_never_take_a_smaller_bucket(
    rows: tuple[int, ...], seconds: tuple[float, ...]
) -> None:
    policy = solve(rows, seconds, 0.8)[1:]
    assert list(policy) == sorted(policy)
