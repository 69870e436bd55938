"""The simulation: numbers that can be checked by hand, and what is counted."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping

import pytest

from benchmarks.policy_cells import lower_bound
from engine.scheduling.admission import Quote
from engine.scheduling.buckets import Bucket
from engine.scheduling.scheduler import Stop, Wait
from engine.simulation.scenario import Scenario
from engine.simulation.simulator import Result, Simulation, replicas_needed
from engine.simulation.traces import Arrival, Clients, Request, poisson

ONE: Mapping[Bucket, float] = {Bucket(1): 1.0}
ONE_AND_FOUR: Mapping[Bucket, float] = {Bucket(1): 1.0, Bucket(4): 2.0}
PAIRS: Mapping[Bucket, float] = {Bucket(2): 1.0}


def at(*times: float, rows: int = 1) -> list[Arrival]:
    return [Arrival(time, rows) for time in times]


def run(seconds: Mapping[Bucket, float], trace: list[Arrival], **changes: object) -> Result:
    fields: dict[str, object] = {"policy": "pad", "timeout_s": 100.0}
    return Scenario(seconds, **(fields | changes)).run(trace)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["brim", "pad"])
@pytest.mark.parametrize(
    ("seconds", "trace", "latencies", "batches", "fill", "busy", "lasted"),
    [
        # the second waits for the first
        (ONE, at(0, 0.5, 4), [1, 1.5, 1], 3, 1.0, 3.0, 5.0),
        # three arrive while one runs: they share the bucket of four
        (ONE_AND_FOUR, at(0, 0.25, 0.5, 0.75), [1, 2.75, 2.5, 2.25], 2, 4 / 5, 3.0, 3.0),
        # a request of three rows is split in two, and answered when both parts are
        (PAIRS, at(0, rows=3), [2], 2, 3 / 4, 2.0, 2.0),
        ([], [], [], 0, 0.0, 0.0, 0.0),
    ],
    ids=["one after the other", "together", "split", "no requests"],
)
def test_a_trace_can_be_checked_by_hand(
    policy: str,
    seconds: Mapping[Bucket, float],
    trace: list[Arrival],
    latencies: list[float],
    batches: int,
    fill: float,
    busy: float,
    lasted: float,
) -> None:
    result = run(seconds or ONE, trace, policy=policy)
    assert list(result.latencies) == pytest.approx(latencies)
    assert (result.batches, result.fill, result.busy_s) == (batches, fill, busy)
    assert result.seconds == pytest.approx(lasted, abs=1e-8)
    assert (result.answered, result.good) == (len(latencies), len(latencies))
    if lasted:
        assert result.utilisation == pytest.approx(busy / lasted)
        assert result.goodput == pytest.approx(len(latencies) / lasted)


def test_this_policy_refuses_requests_that_would_be_late() -> None:
    result = run(ONE, at(0, 0.1, 0.2), policy="brim", timeout_s=1.5)
    assert (list(result.latencies), result.refused, result.expired) == ([1.0], 2, 0)


def test_other_policies_answer_late_or_drop_requests_past_their_deadlines() -> None:
    # at 1 the second may still start and ends late; at 2 the third is past its deadline
    result = run(ONE, at(0, 0.1, 0.2), policy="pad", timeout_s=1.5)
    assert list(result.latencies) == pytest.approx([1.0, 1.9])
    assert (result.good, result.refused, result.expired) == (1, 0, 1)


def test_a_request_that_was_split_and_expires_is_counted_once() -> None:
    # one row runs from 0 to 1, and at 1 the deadline is past
    result = run(ONE, at(0, rows=2), timeout_s=0.5)
    assert (result.answered, result.expired, result.batches) == (0, 1, 1)


def test_in_a_closed_loop_a_client_sends_a_turnaround_after_its_answer() -> None:
    clients = Clients(1, turnaround_s=1.0, jitter=0.0)
    result = Scenario(ONE, policy="pad", timeout_s=9.0).run_closed(clients, 10.0)
    # sent at 1, 3, 5, 7, 9
    assert list(result.latencies) == [1.0] * 5
    assert (result.seconds, result.utilisation, result.goodput) == (10.0, 0.5, 0.5)


def test_a_refused_client_sends_again_a_turnaround_after_its_deadline() -> None:
    # one is answered at 2; the other is refused at 1, and sends again at 1 + 1.4 + 1
    clients = Clients(2, turnaround_s=1.0, jitter=0.0)
    result = Scenario(ONE, timeout_s=1.4).run_closed(clients, 3.3)
    assert (result.refused, result.answered) == (1, 1)
    assert Scenario(ONE, timeout_s=1.4).run_closed(clients, 3.5).refused == 2


def test_arrivals_before_the_end_of_the_warm_up_are_not_counted() -> None:
    result = run(ONE, at(0, 2, 4), warmup_s=1.0)
    assert (result.answered, result.batches, result.busy_s) == (2, 2, 2.0)
    assert result.seconds == 4.0


def test_noise_is_the_same_for_a_seed_and_within_its_bounds() -> None:
    def latencies(seed: int) -> list[float]:
        return list(run(ONE, at(*range(0, 40, 2)), noise=0.25, seed=seed).latencies)

    assert latencies(1) == latencies(1) != latencies(2)
    assert all(0.75 <= latency <= 1.25 for latency in latencies(1))
    assert max(latencies(1)) > 1.1
    assert min(latencies(1)) < 0.9


class CountingScheduler:
    """A scheduler that counts how often it is polled."""

    def __init__(self, wakes: bool) -> None:
        self.wakes_on_arrival = wakes
        self.polls = 0
        self.closed = False

    def has_room(self, _rows: int) -> bool:
        return True

    def quote(self, _request: Request, now: float) -> Quote:
        return Quote(now, 0.0, waits=False)

    def enqueue(self, _request: Request, _quote: Quote, _now: float) -> None:
        pass

    def poll(self, _now: float) -> Wait | Stop:
        self.polls += 1
        return Stop() if self.closed else Wait(None)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("wakes", "polls"), [(True, 3), (False, 1)])
def test_a_scheduler_is_polled_on_arrivals_only_if_it_wakes_on_them(
    wakes: bool, polls: int
) -> None:
    scheduler = CountingScheduler(wakes)
    Simulation(scheduler, ONE.__getitem__, timeout_s=1.0).run(at(0, 1, 2))  # type: ignore[arg-type]
    # the last arrival closes the scheduler, after which it is always polled
    assert scheduler.polls == polls
    assert scheduler.closed


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.0, 0.5, 0.99, 1.0), [1.0, 3.0, 4.0, 4.0]), ((), [])],
)
def test_percentiles_are_measured_latencies(
    shares: tuple[float, ...], expected: list[float]
) -> None:
    assert Result(array("d", [4, 1, 3, 2])).percentiles(*shares) == expected


def test_without_an_answer_every_figure_is_defined() -> None:
    result = Result()
    assert result.percentiles(0.5) == [math.inf]
    assert (result.goodput, result.fill, result.utilisation, result.answered) == (0, 0, 0, 0)


def fleet(enough: float) -> Callable[[int], Result]:
    """98 of 100 are in time below `enough` replicas, all but one from there on."""
    return lambda replicas: Result(
        array("d", [0.1] * 98 + [0.1 if replicas >= enough else 9.0]), refused=1
    )


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8, 100])
def test_the_least_number_of_replicas_that_meets_the_objective_is_found(needed: int) -> None:
    assert replicas_needed(fleet(needed), 1.0) == needed


@pytest.mark.parametrize(
    "run",
    [fleet(math.inf), lambda _replicas: Result(), lambda _r: Result(array("d", [0.1]), refused=1)],
    ids=["too slow", "no requests", "refusals count"],
)
def test_there_is_no_number_of_replicas_where_none_is_enough(run: Callable[[int], Result]) -> None:
    assert replicas_needed(run, 1.0, most=16) is None


def test_the_lower_bound_is_the_best_rate_and_at_least_the_cheapest_execution() -> None:
    trace = [Arrival(0), Arrival(0, rows=2), Arrival(0), Arrival(9)]
    assert lower_bound(iter(trace), row_s=1.0, least_s=1.5) == [1.5, 3.0, 4.0, 1.5]


@pytest.mark.parametrize("policy", ["brim", "window", "idle", "pad", "greedy", "aimd", "linear"])
def test_no_request_is_lost_and_no_policy_is_better_than_the_bound(policy: str) -> None:
    trace = list(poisson(1.8, 500, seed=3))
    result = run(ONE_AND_FOUR, trace, policy=policy, timeout_s=30.0)
    assert result.answered + result.refused + result.expired == 500
    bound = sorted(lower_bound(iter(trace), row_s=0.5, least_s=1.0))
    assert result.percentiles(0.5, 0.99) >= [bound[250], bound[495]]
    assert result.rows <= result.bucket_rows
