"""Partitions into buckets, against every multiset of buckets there is."""

from __future__ import annotations

import math
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import Partition


def partition(seconds: dict[int, float]) -> Partition:
    return Partition([(Bucket(rows), s) for rows, s in sorted(seconds.items())])


def cheapest(seconds: dict[int, float], rows: int) -> float:
    """By trying every multiset of buckets that holds so many rows."""
    grid = sorted(seconds.items())

    @cache
    def least(left: int, place: int) -> float:
        if left <= 0:
            return 0.0
        if place == len(grid):
            return math.inf
        size, cost = grid[place]
        return min(
            times * cost + least(left - times * size, place + 1)
            for times in range(-(-left // size) + 1)
        )

    return least(rows, 0)


# halves, so that sums are exact and equal ones are equal
prices = st.integers(1, 400).map(lambda halves: halves / 2)
tables = st.dictionaries(st.integers(1, 12), prices, min_size=1, max_size=4)


@settings(deadline=None)
@given(seconds=tables, rows=st.integers(0, 24))
def test_no_multiset_of_buckets_is_cheaper(seconds: dict[int, float], rows: int) -> None:
    rows = min(rows, 2 * max(seconds))  # what is tabulated is exact
    assert partition(seconds).seconds(rows) == cheapest(seconds, rows)


@settings(deadline=None)
@given(seconds=tables, rows=st.integers(1, 60))
def test_taking_the_first_bucket_repeatedly_costs_the_total(
    seconds: dict[int, float], rows: int
) -> None:
    buckets, left, spent, sizes = partition(seconds), rows, 0.0, []
    while left > 0:
        bucket = buckets.first(left)
        spent += seconds[bucket.rows]
        sizes.append(bucket.rows)
        left -= bucket.rows
    assert spent == buckets.seconds(rows)
    if rows <= 2 * max(seconds):
        assert sizes == sorted(sizes, reverse=True), "the largest first"


@settings(deadline=None)
@given(seconds=tables, rows=st.integers(1, 60))
def test_beyond_the_table_full_best_buckets_are_taken_off_first(
    seconds: dict[int, float], rows: int
) -> None:
    buckets, limit = partition(seconds), 2 * max(seconds)
    rows += limit
    assert buckets.first(rows) == buckets.best
    assert (
        buckets.seconds(rows)
        == buckets.seconds(rows - buckets.best.rows) + seconds[buckets.best.rows]
    )
    assert buckets.seconds(rows) >= cheapest(seconds, rows)
    assert buckets.seconds(rows) >= rows * min(s / n for n, s in seconds.items()) - 1e-9


@settings(deadline=None)
@given(seconds=tables)
def test_more_rows_never_cost_less(seconds: dict[int, float]) -> None:
    buckets = partition(seconds)
    costs = [buckets.seconds(rows) for rows in range(4 * max(seconds))]
    assert costs == sorted(costs)
