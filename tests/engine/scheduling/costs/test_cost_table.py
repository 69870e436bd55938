"""The cost table: the cheapest buckets, and corrections by samples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.buckets import Bucket
from engine.scheduling.costs import bucket_policy
from engine.scheduling.costs.bucket_policy import LOADS, solve
from engine.scheduling.costs.cost_table import (
    MIN_SAMPLES,
    SOLVE_EVERY,
    STALE,
    WINDOW,
    Cost,
    CostTable,
)


def table(**seconds: float) -> CostTable:
    """`table(b1=1.0, b8=2.0)`: buckets without a length."""
    return CostTable({Bucket(int(name[1:])): cost for name, cost in seconds.items()})


# halves, so that sums are exact and equal ones are equal
prices = st.integers(1, 400).map(lambda halves: halves / 2)
tables = st.dictionaries(st.integers(1, 12), prices, min_size=1, max_size=4)


# --- the bucket to run ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "rows", "bucket", "seconds"),
    [
        pytest.param({"b1": 1, "b8": 2}, 1, 1, 1, id="one-row-does-not-pay-for-padding"),
        pytest.param({"b1": 1, "b8": 2}, 2, 8, 2, id="of-equals-the-larger"),
        pytest.param({"b1": 1, "b8": 2}, 3, 8, 2, id="padding-is-cheaper-than-three-batches"),
        pytest.param({"b8": 1, "b16": 1.5}, 9, 16, 1.5, id="nine-go-together-when-16-is-cheap"),
        pytest.param({"b1": 0.3, "b8": 1, "b16": 1.5}, 9, 8, 1.3, id="one-of-nine-is-left-over"),
        pytest.param(
            {"b8": 1, "b16": 2.5}, 99, 8, 13, id="a-large-bucket-that-is-expensive-per-row"
        ),
        pytest.param({"b8": 1, "b16": 1.9}, 99, 16, 12.4, id="more-than-every-bucket"),
        pytest.param({"b1": 0.1, "b2": 0.2, "b4": 0.4}, 7, 4, 0.7, id="equal-but-for-rounding"),
    ],
)
def test_the_first_bucket_when_no_more_rows_arrive(
    costs: dict[str, float], rows: int, bucket: int, seconds: float
) -> None:
    assert table(**costs).partition_bucket(None, rows) == Bucket(bucket)
    assert table(**costs).min_device_seconds(None, rows) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("costs", "rows"),
    [
        pytest.param({"b1": 1, "b4": 2}, 4, id="large-is-cheap"),
        pytest.param({"b1": 1, "b4": 5}, 1, id="large-is-expensive"),
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
def test_a_dominated_bucket_is_marked_and_never_chosen(
    costs: dict[str, float], useful: list[int]
) -> None:
    costs_ = table(**costs)
    assert [bucket.rows for bucket in costs_.useful(None)] == useful
    assert [line.rows for line in costs_.lines() if not line.dominated] == useful
    for rows in range(1, 40):
        assert {costs_.policy_bucket(None, rows, load).rows for load in LOADS} <= set(useful)
        assert costs_.partition_bucket(None, rows).rows in useful


@settings(deadline=None, max_examples=40)
@given(seconds=tables)
def test_no_policy_chooses_a_dominated_bucket(seconds: dict[int, float]) -> None:
    costs = CostTable({Bucket(rows): s for rows, s in seconds.items()})
    chosen = {
        costs.policy_bucket(None, n, load) for n in range(1, 4 * max(seconds)) for load in LOADS
    }
    assert chosen <= set(costs.useful(None))


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        pytest.param(0, 0.0, id="no-rows"),
        pytest.param(1, 0.5, id="less-than-the-best-costs-the-whole-batch"),
        pytest.param(8, 1.0, id="the-best-full"),
        pytest.param(12, 1.5, id="the-rest-waits-to-fill-a-bucket"),
    ],
)
def test_amortised_a_row_costs_its_part_of_the_best_bucket(rows: int, seconds: float) -> None:
    assert table(b1=0.5, b8=1.0, b16=3.0).amortised_seconds(None, rows) == seconds


# --- as a table ----------------------------------------------------------------------------------


def test_every_length_has_costs_of_its_own() -> None:
    costs = CostTable(
        {Bucket(1, 16): 1.0, Bucket(8, 16): 2.0, Bucket(1, 64): 1.5, Bucket(8, 64): 13.0}
    )
    assert costs.best(16) == Bucket(8, 16)
    assert costs.best(64) == Bucket(1, 64)
    assert costs.seconds(Bucket(8, 64)) == 13.0
    assert (costs.optimistic_seconds(16, 1), costs.optimistic_seconds(64, 1)) == (1.0, 1.5)
    assert (costs.min_device_seconds(16, 8), costs.min_device_seconds(64, 8)) == (2.0, 12.0)
    assert (costs.policy_bucket(16, 8, 0.8), costs.policy_bucket(64, 8, 0.8)) == (
        Bucket(8, 16),
        Bucket(1, 64),
    )
    assert costs.max_cost == 13.0


def test_the_lines_go_by_length_and_then_rows_and_keep_what_was_measured() -> None:
    costs = CostTable({Bucket(8, 16): 3.0, Bucket(1, 16): 2.0, Bucket(1, 64): 4.0})
    for _ in range(MIN_SAMPLES):
        costs.observe(Bucket(8, 16), 6.0)
    costs.correct(costs.samples())
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


# --- corrections ---------------------------------------------------------------------------------


@pytest.fixture
def costs() -> CostTable:
    """Two buckets of 1 s and 2 s."""
    return table(b1=1.0, b8=2.0)


def observe(costs: CostTable, rows: int, seconds: float, times: int) -> None:
    for _ in range(times):
        costs.observe(Bucket(rows), seconds)


def in_force(costs: CostTable) -> tuple[float, float]:
    """The seconds of both buckets after a correction."""
    costs.correct(costs.samples())
    return costs.seconds(Bucket(1)), costs.seconds(Bucket(8))


def test_one_paused_batch_changes_nothing(costs: CostTable) -> None:
    for number in range(2 * WINDOW):
        costs.observe(Bucket(1), 1000.0 if number == WINDOW // 2 else 1.0)
        assert in_force(costs) == (1.0, 2.0)


def test_a_paused_first_batch_changes_nothing(costs: CostTable) -> None:
    observe(costs, 1, 1000.0, 1)
    assert in_force(costs) == (1.0, 2.0)
    observe(costs, 1, 1.0, MIN_SAMPLES - 1)
    assert in_force(costs) == (1.0, 2.0)


def test_a_third_of_all_batches_paused_changes_nothing(costs: CostTable) -> None:
    for number in range(3 * WINDOW):
        costs.observe(Bucket(1 if number % 2 else 8), 1000.0 if number % 3 == 0 else 2 - number % 2)
    assert in_force(costs) == (1.0, 2.0)


def test_a_bucket_that_became_slower_is_followed_and_the_other_is_not(costs: CostTable) -> None:
    for _ in range(WINDOW):
        costs.observe(Bucket(1), 1.0)
        costs.observe(Bucket(8), 3.0)
    assert in_force(costs) == (1.0, 3.0)
    assert costs.min_device_seconds(None, 8) == 3.0
    observe(costs, 8, 2.0, WINDOW)
    assert in_force(costs) == (1.0, 2.0), "and followed back"


def test_a_slower_machine_is_followed_for_buckets_that_do_not_run(costs: CostTable) -> None:
    observe(costs, 1, 1.5, WINDOW)
    assert in_force(costs) == (1.5, 3.0)
    assert costs.max_cost == 3.0


def test_optimistic_seconds_use_the_lower_of_measured_and_corrected_costs(costs: CostTable) -> None:
    observe(costs, 1, 5.0, WINDOW)
    assert in_force(costs) == (5.0, 10.0)
    assert (costs.optimistic_seconds(None, 1), costs.optimistic_seconds(None, 8)) == (1.0, 2.0)
    observe(costs, 1, 0.5, WINDOW)
    assert in_force(costs) == (0.5, 1.0)
    assert (costs.optimistic_seconds(None, 1), costs.optimistic_seconds(None, 8)) == (0.5, 1.0)


def test_a_slower_machine_is_noticed_within_some_dozen_batches(costs: CostTable) -> None:
    observe(costs, 1, 1.0, WINDOW)
    observe(costs, 1, 2.0, WINDOW // 2 + 1)
    assert in_force(costs) == (2.0, 4.0)


def test_few_samples_of_its_own_count_less_than_those_of_all_buckets(costs: CostTable) -> None:
    observe(costs, 8, 2.0, 20)
    observe(costs, 1, 9.0, MIN_SAMPLES - 1)
    assert in_force(costs) == (1.0, 2.0)
    observe(costs, 1, 9.0, 1)
    assert in_force(costs) == (9.0, 2.0)


def test_samples_take_effect_with_the_correction_and_not_before(
    costs: CostTable,
) -> None:
    observe(costs, 1, 3.0, MIN_SAMPLES)
    assert costs.seconds(Bucket(1)) == 1.0
    costs.correct(costs.samples())
    assert costs.seconds(Bucket(1)) == 3.0


def test_old_samples_leave_the_window(costs: CostTable) -> None:
    observe(costs, 8, 9.0, WINDOW)
    observe(costs, 1, 1.0, WINDOW)
    assert in_force(costs) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("small", "large", "solved"),
    [
        pytest.param(1.0, 2.0, False, id="as-measured"),
        pytest.param(5.0, 10.0, False, id="everything-slower"),
        pytest.param(1.0, 2.0 * STALE - 0.01, False, id="a-little-against-each-other"),
        pytest.param(1.0, 2.0 * STALE + 0.01, True, id="one-slower-against-the-other"),
        pytest.param(5.0, 2.0, True, id="the-other-one"),
    ],
)
def test_the_policy_is_solved_again_when_relative_costs_have_changed(
    costs: CostTable, monkeypatch: pytest.MonkeyPatch, small: float, large: float, solved: bool
) -> None:
    loads: list[float] = []

    def solving(rows: tuple[int, ...], seconds: tuple[float, ...], load: float) -> tuple[int, ...]:
        loads.append(load)
        return solve(rows, seconds, load)

    monkeypatch.setattr(bucket_policy, "solve", solving)
    for _ in range(WINDOW):
        costs.observe(Bucket(1), small)
        costs.observe(Bucket(8), large)
    for _ in range(SOLVE_EVERY - 1):
        costs.correct(costs.samples())
    assert loads == [], "not as often as that"
    costs.correct(costs.samples())
    assert loads == (list(LOADS) if solved else [])


def test_a_new_policy_is_solved_for_the_corrected_costs(costs: CostTable) -> None:
    assert costs.policy_bucket(None, 8, 0.8) == Bucket(8)
    for _ in range(WINDOW):
        costs.observe(Bucket(1), 1.0)
        costs.observe(Bucket(8), 20.0)
    costs.correct(costs.samples())
    assert costs.policy_bucket(None, 8, 0.8) == Bucket(8), (
        "the old policy applies until there is a new one"
    )
    for _ in range(SOLVE_EVERY):
        costs.correct(costs.samples())
    assert costs.policy_bucket(None, 8, 0.8) == Bucket(1)


def test_more_rows_than_the_policy_covers_take_the_best_bucket(costs: CostTable) -> None:
    assert costs.policy_bucket(None, 10_000, 0.8) == costs.best(None) == Bucket(8)


@pytest.mark.parametrize(("load", "bucket"), [(0.0, 8), (0.2, 8), (0.4, 8), (0.7, 1), (2.0, 1)])
def test_at_a_low_load_no_rows_are_left_over_to_wait_for_others(load: float, bucket: int) -> None:
    """Four rows in single buckets keep the device free for arrivals that do not come."""
    assert table(b1=0.5, b8=1.0, b16=1.5).policy_bucket(None, 4, load) == Bucket(bucket)
