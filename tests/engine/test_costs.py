"""The measured cost table: what is cheapest, and how it follows what it sees."""

from __future__ import annotations

import math
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import costs as costs_module
from engine.buckets import Bucket
from engine.costs import ENOUGH, MEMORY, PLAN_EVERY, STALE, Cost, CostTable, Split
from engine.plan import LOADS, solve


def table(**seconds: float) -> CostTable:
    """`table(b1=1.0, b8=2.0)`: buckets without a length."""
    return CostTable({Bucket(int(name[1:])): cost for name, cost in seconds.items()})


def split(seconds: dict[int, float]) -> Split:
    return Split([(Bucket(rows), s) for rows, s in sorted(seconds.items())])


def cheapest_cut(seconds: dict[int, float], rows: int) -> float:
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


# --- the cheapest cut ----------------------------------------------------------------------------


@settings(deadline=None)
@given(seconds=tables, rows=st.integers(0, 24))
def test_no_multiset_of_buckets_is_cheaper(seconds: dict[int, float], rows: int) -> None:
    rows = min(rows, 2 * max(seconds))  # what is tabulated is exact
    assert split(seconds).work(rows) == cheapest_cut(seconds, rows)


@settings(deadline=None)
@given(seconds=tables, rows=st.integers(1, 60))
def test_taking_the_first_bucket_again_and_again_costs_what_was_said(
    seconds: dict[int, float], rows: int
) -> None:
    cut, left, spent, sizes = split(seconds), rows, 0.0, []
    while left > 0:
        bucket = cut.first(left)
        spent += seconds[bucket.rows]
        sizes.append(bucket.rows)
        left -= bucket.rows
    assert spent == cut.work(rows)
    if rows <= 2 * max(seconds):
        assert sizes == sorted(sizes, reverse=True), "the largest first"


@settings(deadline=None)
@given(seconds=tables, rows=st.integers(1, 60))
def test_beyond_the_table_the_best_bucket_is_taken_off_and_nothing_is_understated(
    seconds: dict[int, float], rows: int
) -> None:
    cut, limit = split(seconds), 2 * max(seconds)
    rows += limit
    assert cut.first(rows) == cut.best
    assert cut.work(rows) == cut.work(rows - cut.best.rows) + seconds[cut.best.rows]
    assert cut.work(rows) >= cheapest_cut(seconds, rows)
    assert cut.work(rows) >= rows * min(s / n for n, s in seconds.items()) - 1e-9


@settings(deadline=None)
@given(seconds=tables)
def test_more_rows_never_take_less_work(seconds: dict[int, float]) -> None:
    cut = split(seconds)
    work = [cut.work(rows) for rows in range(4 * max(seconds))]
    assert work == sorted(work)


@pytest.mark.parametrize(
    ("costs", "rows", "bucket", "work"),
    [
        pytest.param({"b1": 1, "b8": 2}, 1, 1, 1, id="one-row-does-not-pay-for-padding"),
        pytest.param({"b1": 1, "b8": 2}, 2, 8, 2, id="of-equals-the-larger"),
        pytest.param({"b1": 1, "b8": 2}, 3, 8, 2, id="padding-is-cheaper-than-going-three-times"),
        pytest.param({"b8": 1, "b16": 1.5}, 9, 16, 1.5, id="nine-go-together-when-16-is-cheap"),
        pytest.param({"b1": 0.3, "b8": 1, "b16": 1.5}, 9, 8, 1.3, id="nine-leave-one-behind"),
        pytest.param({"b8": 1, "b16": 2.5}, 99, 8, 13, id="a-large-bucket-that-is-dear-per-row"),
        pytest.param({"b8": 1, "b16": 1.9}, 99, 16, 12.4, id="more-than-every-bucket"),
        pytest.param({"b1": 0.1, "b2": 0.2, "b4": 0.4}, 7, 4, 0.7, id="equal-but-for-rounding"),
    ],
)
def test_what_runs_first_when_nobody_else_comes(
    costs: dict[str, float], rows: int, bucket: int, work: float
) -> None:
    assert table(**costs).split(None, rows) == Bucket(bucket)
    assert table(**costs).work(None, rows) == pytest.approx(work)


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


@pytest.mark.parametrize(
    ("costs", "useful"),
    [
        pytest.param({"b1": 1, "b8": 2}, [1, 8], id="all"),
        pytest.param({"b1": 1, "b2": 3}, [1], id="twice-the-small-one-is-cheaper"),
        pytest.param({"b1": 2, "b2": 2}, [2], id="more-rows-for-the-same"),
        pytest.param({"b1": 2, "b2": 1}, [2], id="more-rows-for-less"),
        pytest.param({"b1": 1, "b4": 2, "b8": 4.5}, [1, 4], id="two-halves-are-cheaper"),
        pytest.param({"b4": 9}, [4], id="one-is-never-dominated"),
    ],
)
def test_a_dominated_bucket_is_said_to_be_and_never_chosen(
    costs: dict[str, float], useful: list[int]
) -> None:
    costs_ = table(**costs)
    assert [bucket.rows for bucket in costs_.useful(None)] == useful
    assert [line.rows for line in costs_.lines() if not line.dominated] == useful
    for rows in range(1, 40):
        assert {costs_.planned(None, rows, load).rows for load in LOADS} <= set(useful)
        assert costs_.split(None, rows).rows in useful


@settings(deadline=None, max_examples=40)
@given(seconds=tables)
def test_no_dominated_bucket_is_ever_planned(seconds: dict[int, float]) -> None:
    costs = CostTable({Bucket(rows): s for rows, s in seconds.items()})
    planned = {costs.planned(None, n, load) for n in range(1, 4 * max(seconds)) for load in LOADS}
    assert planned <= set(costs.useful(None))


@pytest.mark.parametrize(
    ("rows", "work"),
    [
        pytest.param(0, 0.0, id="nobody"),
        pytest.param(1, 0.5, id="less-than-the-best-takes-what-it-takes-alone"),
        pytest.param(8, 1.0, id="the-best-full"),
        pytest.param(12, 1.5, id="the-rest-waits-for-company"),
    ],
)
def test_in_company_a_row_more_costs_its_part_of_the_best_bucket(rows: int, work: float) -> None:
    assert table(b1=0.5, b8=1.0, b16=3.0).work_in_company(None, rows) == work


# --- as a table ----------------------------------------------------------------------------------


def test_every_length_has_prices_of_its_own() -> None:
    costs = CostTable(
        {Bucket(1, 16): 1.0, Bucket(8, 16): 2.0, Bucket(1, 64): 1.5, Bucket(8, 64): 13.0}
    )
    assert costs.best(16) == Bucket(8, 16)
    assert costs.best(64) == Bucket(1, 64)
    assert costs.seconds(Bucket(8, 64)) == 13.0
    assert (costs.hope(16, 1), costs.hope(64, 1)) == (1.0, 1.5)
    assert (costs.work(16, 8), costs.work(64, 8)) == (2.0, 12.0)
    assert (costs.planned(16, 8, 0.8), costs.planned(64, 8, 0.8)) == (Bucket(8, 16), Bucket(1, 64))
    assert costs.dearest == 13.0


def test_the_lines_go_by_length_and_then_rows_and_keep_what_was_measured() -> None:
    costs = CostTable({Bucket(8, 16): 3.0, Bucket(1, 16): 2.0, Bucket(1, 64): 4.0})
    for _ in range(ENOUGH):
        costs.observe(Bucket(8, 16), 6.0)
    costs.correct()
    assert costs.lines() == (
        Cost(1, 16, 4.0, 2.0, dominated=False),
        Cost(8, 16, 6.0, 3.0, dominated=False),
        Cost(1, 64, 8.0, 4.0, dominated=False),
    )


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


# --- what is seen while serving ------------------------------------------------------------------


@pytest.fixture
def costs() -> CostTable:
    """Two buckets of 1 s and 2 s."""
    return table(b1=1.0, b8=2.0)


def see(costs: CostTable, rows: int, seconds: float, times: int) -> None:
    for _ in range(times):
        costs.observe(Bucket(rows), seconds)


def in_force(costs: CostTable) -> tuple[float, float]:
    """What is so once it is corrected."""
    costs.correct()
    return costs.seconds(Bucket(1)), costs.seconds(Bucket(8))


def test_one_process_that_was_paused_changes_nothing(costs: CostTable) -> None:
    for number in range(2 * MEMORY):
        costs.observe(Bucket(1), 1000.0 if number == MEMORY // 2 else 1.0)
        assert in_force(costs) == (1.0, 2.0)


def test_a_process_that_was_paused_in_its_first_batch_changes_nothing(costs: CostTable) -> None:
    see(costs, 1, 1000.0, 1)
    assert in_force(costs) == (1.0, 2.0)
    see(costs, 1, 1.0, ENOUGH - 1)
    assert in_force(costs) == (1.0, 2.0)


def test_not_even_a_third_of_all_batches_paused_changes_anything(costs: CostTable) -> None:
    for number in range(3 * MEMORY):
        costs.observe(Bucket(1 if number % 2 else 8), 1000.0 if number % 3 == 0 else 2 - number % 2)
    assert in_force(costs) == (1.0, 2.0)


def test_a_bucket_that_became_slower_is_followed_and_the_other_is_not(costs: CostTable) -> None:
    for _ in range(MEMORY):
        costs.observe(Bucket(1), 1.0)
        costs.observe(Bucket(8), 3.0)
    assert in_force(costs) == (1.0, 3.0)
    assert costs.work(None, 8) == 3.0
    see(costs, 8, 2.0, MEMORY)
    assert in_force(costs) == (1.0, 2.0), "and followed back"


def test_a_machine_that_became_slower_is_so_for_buckets_that_do_not_run(costs: CostTable) -> None:
    see(costs, 1, 1.5, MEMORY)
    assert in_force(costs) == (1.5, 3.0)
    assert costs.dearest == 3.0


def test_there_is_hope_that_the_device_is_as_quick_as_it_ever_was(costs: CostTable) -> None:
    see(costs, 1, 5.0, MEMORY)
    assert in_force(costs) == (5.0, 10.0)
    assert (costs.hope(None, 1), costs.hope(None, 8)) == (1.0, 2.0)
    see(costs, 1, 0.5, MEMORY)
    assert in_force(costs) == (0.5, 1.0)
    assert (costs.hope(None, 1), costs.hope(None, 8)) == (0.5, 1.0)


def test_a_slower_machine_is_noticed_within_some_dozen_batches(costs: CostTable) -> None:
    see(costs, 1, 1.0, MEMORY)
    see(costs, 1, 2.0, MEMORY // 2 + 1)
    assert in_force(costs) == (2.0, 4.0)


def test_a_few_samples_of_its_own_are_worth_less_than_all_the_others(costs: CostTable) -> None:
    see(costs, 8, 2.0, 20)
    see(costs, 1, 9.0, ENOUGH - 1)
    assert in_force(costs) == (1.0, 2.0)
    see(costs, 1, 9.0, 1)
    assert in_force(costs) == (9.0, 2.0)


def test_what_is_observed_is_in_force_when_it_is_corrected_and_not_before(
    costs: CostTable,
) -> None:
    see(costs, 1, 3.0, ENOUGH)
    assert costs.seconds(Bucket(1)) == 1.0
    costs.correct()
    assert costs.seconds(Bucket(1)) == 3.0


def test_what_a_bucket_was_like_long_ago_is_forgotten(costs: CostTable) -> None:
    see(costs, 8, 9.0, MEMORY)
    see(costs, 1, 1.0, MEMORY)
    assert in_force(costs) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("small", "large", "anew"),
    [
        pytest.param(1.0, 2.0, False, id="as-measured"),
        pytest.param(5.0, 10.0, False, id="everything-slower"),
        pytest.param(1.0, 2.0 * STALE - 0.01, False, id="a-little-against-each-other"),
        pytest.param(1.0, 2.0 * STALE + 0.01, True, id="one-slower-against-the-other"),
        pytest.param(5.0, 2.0, True, id="the-other-one"),
    ],
)
def test_the_plan_is_made_anew_when_costs_changed_against_each_other(
    costs: CostTable, monkeypatch: pytest.MonkeyPatch, small: float, large: float, anew: bool
) -> None:
    plans: list[float] = []

    def planned(rows: tuple[int, ...], seconds: tuple[float, ...], load: float) -> tuple[int, ...]:
        plans.append(load)
        return solve(rows, seconds, load)

    monkeypatch.setattr(costs_module, "solve", planned)
    for _ in range(MEMORY):
        costs.observe(Bucket(1), small)
        costs.observe(Bucket(8), large)
    for _ in range(PLAN_EVERY - 1):
        costs.correct()
    assert plans == [], "not as often as that"
    costs.correct()
    assert plans == (list(LOADS) if anew else [])


def test_a_new_plan_is_made_of_the_costs_in_force(costs: CostTable) -> None:
    assert costs.planned(None, 8, 0.8) == Bucket(8)
    for _ in range(MEMORY):
        costs.observe(Bucket(1), 1.0)
        costs.observe(Bucket(8), 20.0)
    costs.correct()
    assert costs.planned(None, 8, 0.8) == Bucket(8), "the old plan stands until there is a new one"
    for _ in range(PLAN_EVERY):
        costs.correct()
    assert costs.planned(None, 8, 0.8) == Bucket(1)


def test_more_rows_than_the_plan_knows_take_the_best_bucket(costs: CostTable) -> None:
    assert costs.planned(None, 10_000, 0.8) == costs.best(None) == Bucket(8)


@pytest.mark.parametrize(("load", "bucket"), [(0.0, 8), (0.2, 8), (0.4, 8), (0.7, 1), (2.0, 1)])
def test_who_is_hardly_asked_leaves_nobody_behind_for_company(load: float, bucket: int) -> None:
    """Four rows in four single buckets keep the device free for others, who do not come."""
    assert table(b1=0.5, b8=1.0, b16=1.5).planned(None, 4, load) == Bucket(bucket)
