"""The last minute in constant memory: percentiles within 2 %, and what is old is forgotten."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.window import SLOTS, WINDOW_S, Window
from engine.testing import FakeClock


@given(st.lists(st.floats(1e-5, 900.0), min_size=1, max_size=200))
def test_the_p99_is_at_most_two_percent_above_the_latency_of_its_rank(
    latencies: list[float],
) -> None:
    window = Window(FakeClock())
    for latency in latencies:
        window.answered([latency])
    true = sorted(latencies)[math.ceil(0.99 * len(latencies)) - 1]
    assert true * 0.999999 <= window.recent().p99_s <= true * 1.020001


def test_the_slowest_of_a_hundred_is_not_the_p99_but_two_of_them_are(clock: FakeClock) -> None:
    window = Window(clock)
    for latency in [0.010] * 99 + [1.0]:
        window.answered([latency])
    assert window.recent().p99_s == pytest.approx(0.010, rel=0.02)
    window.answered([1.0])
    assert window.recent().p99_s == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("latency", "told"),
    [(0.0, 1e-5), (1e-9, 1e-5), (5000.0, 1000.0)],
    ids=["no time at all", "below the scale", "above the scale"],
)
def test_what_is_off_the_scale_counts_at_its_end(
    clock: FakeClock, latency: float, told: float
) -> None:
    window = Window(clock)
    window.answered([latency])
    assert window.recent().p99_s == pytest.approx(told, rel=0.04)


def test_nothing_has_no_percentile_and_no_fill_but_a_rate_of_zero(clock: FakeClock) -> None:
    recent = Window(clock).recent()
    assert math.isnan(recent.p99_s)
    assert math.isnan(recent.fill)
    assert (recent.requests_per_second, recent.error_rate) == (0.0, 0.0)


def test_failures_count_as_outcomes_and_not_as_latencies(clock: FakeClock) -> None:
    window = Window(clock)
    for _ in range(3):
        window.answered([0.5])
    window.failed()
    clock.advance(2)
    recent = window.recent()
    assert recent.error_rate == 0.25
    assert recent.requests_per_second == 2.0
    assert recent.p99_s == pytest.approx(0.5, rel=0.02)


def test_only_failures_have_an_error_rate_of_one_and_no_percentile(clock: FakeClock) -> None:
    window = Window(clock)
    window.failed()
    assert window.recent().error_rate == 1.0
    assert math.isnan(window.recent().p99_s)


def test_the_fill_is_real_rows_per_bucket_row_over_all_batches(clock: FakeClock) -> None:
    window = Window(clock)
    window.batch(1, 4)
    window.batch(32, 32)
    assert window.recent().fill == 33 / 36


@pytest.mark.parametrize(
    ("after_s", "per_second"),
    [(0.0, 60.0), (0.5, 60.0), (4.0, 15.0), (30.0, 2.0)],
    ids=["a second at least", "half a second is too short", "since the start", "later"],
)
def test_a_young_server_s_rate_is_over_the_time_that_it_has_lived(
    clock: FakeClock, after_s: float, per_second: float
) -> None:
    window = Window(clock)
    for _ in range(60):
        window.answered([0.1])
    clock.advance(after_s)
    assert window.recent().requests_per_second == pytest.approx(per_second)


@pytest.mark.parametrize("into_slot", range(5))
def test_a_steady_rate_is_told_right_wherever_in_a_slot_one_asks(into_slot: int) -> None:
    clock = FakeClock(1000.0)
    window = Window(clock)
    for _ in range(180 + into_slot):  # one a second for three minutes
        clock.advance(1)
        window.answered([0.1])
    assert window.recent().requests_per_second == pytest.approx(1.0, abs=0.03)


def test_what_is_older_than_the_window_is_forgotten(clock: FakeClock) -> None:
    window = Window(clock)
    window.answered([1.0])
    window.failed()
    window.batch(1, 4)
    clock.advance(WINDOW_S - WINDOW_S / SLOTS)
    window.answered([0.001])
    assert window.recent().p99_s == pytest.approx(1.0, rel=0.02)
    assert window.recent().error_rate == pytest.approx(1 / 3)
    clock.advance(WINDOW_S / SLOTS)
    assert window.recent().p99_s == pytest.approx(0.001, rel=0.02)
    assert window.recent().error_rate == 0.0
    assert math.isnan(window.recent().fill)


def test_a_ring_that_nobody_touched_for_hours_holds_nothing_old(clock: FakeClock) -> None:
    window = Window(clock)
    for _ in range(SLOTS):
        window.answered([1.0])
        clock.advance(WINDOW_S / SLOTS)
    clock.advance(100 * WINDOW_S)
    window.answered([0.002])
    assert window.recent().p99_s == pytest.approx(0.002, rel=0.02)
    assert window.recent().requests_per_second * WINDOW_S == pytest.approx(1.0, rel=0.1)
