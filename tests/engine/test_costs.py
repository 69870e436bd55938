"""The measured cost table, and what it says is cheapest."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.buckets import Bucket
from engine.costs import Cost, CostTable


def table(**seconds: float) -> CostTable:
    """`table(b1=1.0, b8=2.0)`: buckets without a length."""
    return CostTable({Bucket(int(name[1:])): cost for name, cost in seconds.items()})


@pytest.mark.parametrize(
    ("costs", "queued", "rows"),
    [
        pytest.param({"b1": 1, "b8": 2}, 1, 1, id="one-row-does-not-pay-for-padding"),
        pytest.param({"b1": 1, "b8": 2}, 2, 8, id="of-equals-the-larger"),
        pytest.param({"b1": 1, "b8": 2}, 3, 8, id="padding-is-cheaper-than-going-twice"),
        pytest.param({"b8": 1, "b16": 1.5}, 9, 8, id="nine-leave-one-behind"),
        pytest.param({"b8": 1, "b16": 1.05}, 9, 16, id="nine-go-together-when-16-is-cheap"),
        pytest.param({"b8": 1, "b16": 2.5}, 99, 8, id="a-large-bucket-that-is-dear-per-row"),
        pytest.param({"b8": 1, "b16": 1.9}, 99, 16, id="more-than-every-bucket"),
    ],
)
def test_the_cheapest_bucket_costs_least_per_real_row(
    costs: dict[str, float], queued: int, rows: int
) -> None:
    assert table(**costs).cheapest(None, queued) == Bucket(rows)


@given(
    seconds=st.dictionaries(
        st.integers(1, 64), st.integers(1, 1000).map(float), min_size=1, max_size=6
    ),
    queued=st.integers(1, 100),
)
def test_no_other_bucket_is_cheaper_per_real_row(seconds: dict[int, float], queued: int) -> None:
    chosen = CostTable({Bucket(rows): s for rows, s in seconds.items()}).cheapest(None, queued)
    price = {rows: s / min(rows, queued) for rows, s in seconds.items()}
    assert price[chosen.rows] == min(price.values())


@pytest.mark.parametrize(
    ("costs", "rows"),
    [
        pytest.param({"b1": 1, "b4": 2}, 4, id="large-is-cheap"),
        pytest.param({"b1": 1, "b4": 5}, 1, id="large-is-dear"),
        pytest.param({"b1": 1, "b4": 4}, 4, id="of-equals-the-larger"),
    ],
)
def test_the_best_bucket_is_the_one_that_is_cheapest_when_full(
    costs: dict[str, float], rows: int
) -> None:
    assert table(**costs).best(None) == Bucket(rows)


def test_every_length_has_prices_of_its_own() -> None:
    costs = CostTable(
        {Bucket(1, 16): 1.0, Bucket(8, 16): 2.0, Bucket(1, 64): 1.0, Bucket(8, 64): 9.0}
    )
    assert costs.best(16) == Bucket(8, 16)
    assert costs.best(64) == Bucket(1, 64)
    assert costs.seconds(Bucket(8, 64)) == 9.0


@pytest.mark.parametrize(
    ("queued", "seconds"),
    [
        pytest.param({}, 0.0, id="nobody"),
        pytest.param({16: 0, 64: 0}, 0.0, id="empty-lanes"),
        pytest.param({16: 1}, 2.0, id="one-row-takes-a-whole-batch"),
        pytest.param({16: 8}, 2.0, id="one-full-batch"),
        pytest.param({16: 9}, 4.0, id="one-row-more"),
        pytest.param({16: 9, 64: 3}, 13.0, id="lanes-add-up"),
    ],
)
def test_draining_costs_one_best_bucket_per_started_batch(
    queued: dict[int | None, int], seconds: float
) -> None:
    costs = CostTable({Bucket(1, 16): 1.0, Bucket(8, 16): 2.0, Bucket(1, 64): 3.0})
    assert costs.drain_seconds(queued) == seconds


def test_the_lines_go_by_length_and_then_rows() -> None:
    costs = CostTable({Bucket(8, 16): 3.0, Bucket(1, 16): 2.0, Bucket(1, 64): 4.0})
    assert costs.lines() == (Cost(1, 16, 2.0), Cost(8, 16, 3.0), Cost(1, 64, 4.0))


def test_the_table_does_not_change_with_the_numbers_it_was_made_of() -> None:
    seconds = {Bucket(1): 1.0}
    costs = CostTable(seconds)
    seconds[Bucket(1)] = 9.0
    assert costs.seconds(Bucket(1)) == 1.0


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param({}, id="empty"),
        pytest.param({Bucket(1): 0.0}, id="free"),
        pytest.param({Bucket(1): -1.0}, id="negative"),
        pytest.param({Bucket(1): math.nan}, id="not-a-number"),
    ],
)
def test_costs_that_cannot_be_measured_are_a_bug(seconds: dict[Bucket, float]) -> None:
    with pytest.raises(AssertionError, match="this is a bug"):
        CostTable(seconds)
