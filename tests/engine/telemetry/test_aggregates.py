"""Histograms count as prometheus_client's do; the last minute has percentiles within 2 %."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Reference

from engine.telemetry.aggregates import SECONDS, SLOTS, WINDOW_S, Histogram, SlidingWindow
from engine.testing import FakeClock

VALUES = st.lists(st.one_of(st.floats(0, 100), st.sampled_from(SECONDS)), max_size=20)


@given(st.lists(VALUES, max_size=5))
def test_a_histogram_counts_and_sums_as_prometheus_client_does(batches: list[list[float]]) -> None:
    reference = Reference("h", "Text", buckets=SECONDS, registry=CollectorRegistry())
    histogram = Histogram(SECONDS)
    for batch in batches:
        histogram.observe(batch)
        for value in batch:
            reference.observe(value)
    (family,) = reference.collect()
    expected = [sample.value for sample in family.samples if sample.name == "h_bucket"]
    (total,) = [sample.value for sample in family.samples if sample.name == "h_sum"]
    snapshot = histogram.snapshot()
    assert list(accumulate(snapshot.counts)) == expected
    assert (snapshot.edges, snapshot.sum) == (SECONDS, total)


@given(st.lists(st.floats(1e-5, 900.0), min_size=1, max_size=200))
def test_the_p99_is_at_most_two_percent_above_the_latency_of_its_rank(
    latencies: list[float],
) -> None:
    window = SlidingWindow(1000.0)
    for latency in latencies:
        window.succeeded([latency], 1000.0)
    true = sorted(latencies)[math.ceil(0.99 * len(latencies)) - 1]
    assert true * 0.999999 <= window.recent(1000.0).p99_s <= true * 1.020001


def test_the_slowest_of_a_hundred_is_not_the_p99_but_two_of_them_are(clock: FakeClock) -> None:
    window = SlidingWindow(clock())
    for latency in [0.010] * 99 + [1.0]:
        window.succeeded([latency], clock())
    assert window.recent(clock()).p99_s == pytest.approx(0.010, rel=0.02)
    window.succeeded([1.0], clock())
    assert window.recent(clock()).p99_s == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("latency", "expected"),
    [(0.0, 1e-5), (1e-9, 1e-5), (5000.0, 1000.0)],
    ids=["no time at all", "below the scale", "above the scale"],
)
def test_a_latency_outside_the_scale_counts_at_its_end(
    clock: FakeClock, latency: float, expected: float
) -> None:
    window = SlidingWindow(clock())
    window.succeeded([latency], clock())
    assert window.recent(clock()).p99_s == pytest.approx(expected, rel=0.04)


def test_without_requests_there_is_no_percentile_and_no_fill_but_a_rate_of_zero(
    clock: FakeClock,
) -> None:
    recent = SlidingWindow(clock()).recent(clock())
    assert math.isnan(recent.p99_s)
    assert math.isnan(recent.fill)
    assert (recent.requests_per_second, recent.error_rate) == (0.0, 0.0)


def test_failures_count_as_outcomes_and_not_as_latencies(clock: FakeClock) -> None:
    window = SlidingWindow(clock())
    for _ in range(3):
        window.succeeded([0.5], clock())
    window.failed(clock())
    clock.advance(2)
    recent = window.recent(clock())
    assert recent.error_rate == 0.25
    assert recent.requests_per_second == 2.0
    assert recent.p99_s == pytest.approx(0.5, rel=0.02)


def test_only_failures_have_an_error_rate_of_one_and_no_percentile(clock: FakeClock) -> None:
    window = SlidingWindow(clock())
    window.failed(clock())
    assert window.recent(clock()).error_rate == 1.0
    assert math.isnan(window.recent(clock()).p99_s)


def test_the_fill_is_real_rows_per_bucket_row_over_all_batches(clock: FakeClock) -> None:
    window = SlidingWindow(clock())
    window.batch(1, 4, clock())
    window.batch(32, 32, clock())
    assert window.recent(clock()).fill == 33 / 36


@pytest.mark.parametrize(
    ("after_s", "per_second"),
    [(0.0, 60.0), (0.5, 60.0), (4.0, 15.0), (30.0, 2.0)],
    ids=["a second at least", "half a second is too short", "since the start", "later"],
)
def test_the_rate_in_the_first_minute_is_over_the_time_since_the_start(
    clock: FakeClock, after_s: float, per_second: float
) -> None:
    window = SlidingWindow(clock())
    for _ in range(60):
        window.succeeded([0.1], clock())
    clock.advance(after_s)
    assert window.recent(clock()).requests_per_second == pytest.approx(per_second)


@pytest.mark.parametrize("into_slot", range(5))
def test_a_steady_rate_is_right_at_every_moment_of_a_slot(into_slot: int) -> None:
    clock = FakeClock(1000.0)
    window = SlidingWindow(clock())
    for _ in range(180 + into_slot):  # one a second for three minutes
        clock.advance(1)
        window.succeeded([0.1], clock())
    assert window.recent(clock()).requests_per_second == pytest.approx(1.0, abs=0.03)


def test_values_older_than_the_window_are_dropped(clock: FakeClock) -> None:
    window = SlidingWindow(clock())
    window.succeeded([1.0], clock())
    window.failed(clock())
    window.batch(1, 4, clock())
    clock.advance(WINDOW_S - WINDOW_S / SLOTS)
    window.succeeded([0.001], clock())
    assert window.recent(clock()).p99_s == pytest.approx(1.0, rel=0.02)
    assert window.recent(clock()).error_rate == pytest.approx(1 / 3)
    clock.advance(WINDOW_S / SLOTS)
    assert window.recent(clock()).p99_s == pytest.approx(0.001, rel=0.02)
    assert window.recent(clock()).error_rate == 0.0
    assert math.isnan(window.recent(clock()).fill)


def test_after_hours_without_requests_the_ring_holds_no_old_values(clock: FakeClock) -> None:
    window = SlidingWindow(clock())
    for _ in range(SLOTS):
        window.succeeded([1.0], clock())
        clock.advance(WINDOW_S / SLOTS)
    clock.advance(100 * WINDOW_S)
    window.succeeded([0.002], clock())
    assert window.recent(clock()).p99_s == pytest.approx(0.002, rel=0.02)
    assert window.recent(clock()).requests_per_second * WINDOW_S == pytest.approx(1.0, rel=0.1)
