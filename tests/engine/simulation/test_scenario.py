"""Scenarios: lengths that fit, capacity, and the policy that decides."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.scheduling.buckets import Bucket
from engine.simulation.scenario import POLICIES, Scenario, capacity, closed_loop_bound, row_seconds
from engine.simulation.traces import Arrival, Clients

PLAIN = {Bucket(1): 1.0, Bucket(4): 2.0}
LONG = {Bucket(1, 16): 1.0, Bucket(4, 16): 2.0, Bucket(1, 64): 3.0, Bucket(4, 64): 9.0}


@pytest.mark.parametrize(
    ("policy", "length", "fitted"),
    [("brim", 3, 16), ("brim", 16, 16), ("brim", 17, 64), ("pad", 3, 64), ("pad", 64, 64)],
)
def test_a_row_goes_to_the_shortest_bucket_and_for_others_to_the_longest(
    policy: str, length: int, fitted: int
) -> None:
    assert Scenario(LONG, policy).fit(length) == fitted


@pytest.mark.parametrize(
    ("seconds", "length", "problem"),
    [
        (LONG, 65, "length: got 65, expected at most 64"),
        (LONG, None, "length: got None, expected a length up to 64"),
        (PLAIN, 3, "length: got 3, expected no length"),
    ],
)
def test_a_row_that_fits_no_bucket_is_an_error(
    seconds: dict[Bucket, float], length: int | None, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Scenario(seconds).run([Arrival(0.0, 1, length)])


def test_buckets_have_all_a_length_or_none() -> None:
    with pytest.raises(ConfigError, match="all with a length, or none"):
        _ = Scenario({Bucket(1): 1.0, Bucket(1, 8): 1.0}).bucket_lengths


def test_an_unknown_policy_is_an_error_that_lists_all_policies() -> None:
    with pytest.raises(ConfigError, match="'magic', expected one of brim, window, idle"):
        Scenario(PLAIN, "magic")


def test_this_policy_runs_short_rows_in_the_shorter_bucket() -> None:
    trace = [Arrival(0.0, 1, 10)]
    took = {policy: Scenario(LONG, policy, 99.0).run(trace).latencies[0] for policy in POLICIES}
    assert took == {policy: 1.0 if policy == "brim" else 3.0 for policy in POLICIES}


@pytest.mark.parametrize(("wait_s", "latency"), [(None, 1.002), (0.0, 1.0), (0.5, 1.5)])
def test_the_longest_wait_is_the_given_one_or_the_policys_default(
    wait_s: float | None, latency: float
) -> None:
    trace = [Arrival(0.0), Arrival(100.0)]  # the queue closes with the last arrival
    result = Scenario(PLAIN, "window", 9.0, max_wait_s=wait_s).run(trace)
    assert result.latencies[0] == pytest.approx(latency)


def test_every_run_starts_with_a_new_cost_table() -> None:
    scenario = Scenario(PLAIN, timeout_s=9.0, noise=0.5)
    trace = [Arrival(number / 2) for number in range(300)]
    assert list(scenario.run(trace).latencies) == list(scenario.run(trace).latencies)


def test_the_objective_is_the_deadline_unless_it_is_given() -> None:
    assert Scenario(PLAIN, timeout_s=2.0).objective_s == 2.0
    assert Scenario(PLAIN, timeout_s=2.0, slo_s=1.0).objective_s == 1.0


@pytest.mark.parametrize(
    ("seconds", "rows", "lengths", "rate"),
    [
        (PLAIN, (1,), (), 2.0),
        (PLAIN, (1, 3), (), 1.0),
        (LONG, (1,), (16,), 2.0),
        (LONG, (1,), (64,), 4 / 9),
        (LONG, (1,), (), 2 / (0.5 + 2.25)),
        (LONG, (1,), (1, 2, 3, 20), 4 / (3 * 0.5 + 2.25)),
    ],
)
def test_capacity_is_the_rate_of_the_best_bucket_of_every_length(
    seconds: dict[Bucket, float], rows: tuple[int, ...], lengths: tuple[int, ...], rate: float
) -> None:
    assert capacity(seconds, rows, lengths) == pytest.approx(rate)


def test_a_row_costs_its_part_of_the_best_bucket_of_its_length() -> None:
    assert [row_seconds(LONG, length) for length in (16, 64)] == [0.5, 2.25]


@pytest.mark.parametrize(("clients", "bound"), [(1, 0.5), (2, 1.0), (9, 2.0)])
def test_a_closed_loop_is_bounded_by_its_clients_or_by_the_device(
    clients: int, bound: float
) -> None:
    assert closed_loop_bound(PLAIN, Clients(clients, turnaround_s=1.0)) == bound
