"""The report that is made of samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from app.cli.bench.plan import Target
from app.cli.bench.report import Failure, Latency, Second
from tests.app.cli.bench.made import plan_of, read, report_of

MIXED = report_of(
    (0, 200, 0.0, 0.010),
    (1, 200, 0.5, 0.020),
    (1, 503, 0.6, 0.001),
    (0, Failure.RESET, 0.7, 0.5),
    (1, 200, 1.5, 0.040),
    (0, 429, 3.1, 0.002),
    (0, 504, 3.2, 1.0),
    (0, Failure.UNANSWERED, 3.9, 10.0),
    plan=plan_of(targets=[Target("a"), Target("b", 4, 2.0)], duration_s=4.0, deadline_ms=30),
    lags=[0.001, 0.002],
)


def test_rates_are_per_second_of_the_window() -> None:
    assert MIXED.offered_per_s == 8 / 4
    assert MIXED.ok_per_s == 3 / 4
    assert MIXED.rows_per_s == (1 + 4 + 4) / 4
    assert MIXED.goodput_per_s == 2 / 4, "40 ms is beyond the deadline"


def test_without_a_deadline_every_success_is_goodput() -> None:
    seen = report_of((0, 200, 0.0, 9.0))
    assert seen.goodput_per_s == seen.ok_per_s > 0


def test_every_request_is_a_status_or_a_failure() -> None:
    assert MIXED.statuses == {200: 3, 429: 1, 503: 1, 504: 1}
    assert MIXED.failures == {"reset": 1, "unanswered": 1}


def test_successes_and_refusals_have_latencies_of_their_own() -> None:
    assert (MIXED.ok.count, MIXED.refused.count) == (3, 2)
    assert MIXED.ok.max_ms == pytest.approx(40)
    assert MIXED.refused.max_ms == pytest.approx(2)


def test_every_target_has_its_own_latencies() -> None:
    a, b = MIXED.targets
    assert (a.target, a.requests, a.ok.count) == (Target("a"), 5, 1)
    assert (b.target, b.requests, b.ok.count) == (Target("b", 4, 2.0), 3, 2)


def test_the_timeline_has_what_ended_in_each_second() -> None:
    line = MIXED.timeline
    assert [(s.ok, s.refused, s.failed) for s in line[:5]] == [
        (2, 1, 0),
        (1, 0, 1),
        (0, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
    ]
    assert line[1].p50_ms == pytest.approx(40)
    assert line[2] == Second(0, 0, 0, 0.0, 0.0)
    assert len(line) == 14, "the last request timed out at 13.9"


def test_percentiles_are_those_of_the_latencies() -> None:
    seconds = np.arange(1, 10_001) / 1e5  # 0.01 ms to 100 ms
    latency = Latency.of(seconds)
    assert latency.count == 10_000
    for got, expected in (
        (latency.mean_ms, 50.005),
        (latency.p50_ms, 50),
        (latency.p90_ms, 90),
        (latency.p99_ms, 99),
        (latency.p999_ms, 99.9),
        (latency.max_ms, 100),
    ):
        assert got == pytest.approx(expected, rel=2e-3)


def test_a_latency_beyond_the_histogram_is_recorded_at_its_edge() -> None:
    latency = Latency.of(np.array([0.0, 1e-9, 7200.0]))
    assert latency.count == 3
    assert HdrHistogram.decode(latency.histogram).get_total_count() == 3


def test_without_answers_all_latencies_are_0() -> None:
    latency = Latency.of(np.array([]))
    assert (latency.count, latency.p999_ms, latency.mean_ms, latency.max_ms) == (0, 0, 0, 0)
    assert list(latency.curve()) == []


def test_the_curve_ends_with_all_answers_and_the_slowest() -> None:
    shares, values = zip(*Latency.of(np.array([0.001, 0.002, 0.002, 0.008])).curve(), strict=True)
    assert shares == (0.25, 0.75, 1.0)
    assert values == pytest.approx((1, 2, 8), rel=2e-3)


def test_the_json_can_be_read_back_whole() -> None:
    assert read(MIXED.to_json()) == MIXED


def test_the_json_has_the_settings_and_names_its_units() -> None:
    content = json.loads(MIXED.to_json())
    assert content["settings"]["deadline_ms"] == 30
    assert content["statuses"]["503"] == 1
    assert HdrHistogram.decode(content["ok"]["histogram"]).get_total_count() == 3


@pytest.mark.parametrize(
    ("core", "lag", "doubt"),
    [
        (0.5, 0.001, None),
        (0.95, 0.001, "the load generator used 95% of its core"),
        (0.5, 0.003, "the load generator itself was 3.00 ms late at p99"),
    ],
)
def test_a_generator_at_its_own_limit_makes_the_report_doubtful(
    core: float, lag: float, doubt: str | None
) -> None:
    doubtful = report_of((0, 200, 0.0, 0.010), lags=[lag], core=core).doubt
    assert (doubtful or "").startswith(doubt or "")
    assert (doubtful is None) == (doubt is None)


def test_a_run_without_any_request_is_a_report_too() -> None:
    seen = report_of()
    assert (seen.ok.count, seen.timeline, seen.doubt) == (0, (), None)
    assert read(seen.to_json()) == seen
