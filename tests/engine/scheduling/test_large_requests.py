"""Small requests beside large ones: how long they wait, what it costs, and that all are in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.request_queue import Order
from engine.scheduling.scheduler import Launch, Scheduler, SchedulerOptions, Wait

COSTS = {1: 0.5, 4: 1.0, 8: 1.5}
"""Seconds of a bucket: full batches of 8 rows are the cheapest."""

BATCH_S = 1.5


@dataclass(eq=False)
class Request:
    """What the scheduler reads of a request, and what became of it."""

    at: float
    rows: int = 1
    timeout_s: float = 1000.0
    priority: int = 5
    bucket_length: int | None = None
    launches_before: int = 0
    started_after: int | None = None
    finished_at: float | None = None

    @property
    def deadline(self) -> float:
        """By when it must be answered."""
        return self.at + self.timeout_s


class FirstCome(Scheduler[Request]):
    """The same without the rule for small requests."""

    @override
    def _order(self, now: float, start_at: float) -> Order:
        return Order.PRIORITY


class Play:
    """Runs requests on an exact device."""

    def __init__(self, scheduler: Scheduler[Request], requests: Sequence[Request]) -> None:
        """`requests` are sorted by time."""
        self.scheduler = scheduler
        self.coming = list(requests)
        self.admitted: list[Request] = []
        self.in_flight: list[Launch[Request]] = []
        self.launches = 0

    def run(self) -> list[Request]:
        """To the end. Returns the requests that were admitted."""
        now = 0.0
        while True:
            while self.coming and self.coming[0].at <= now:
                self.arrive(self.coming.pop(0), now)
            while self.in_flight and self.in_flight[0].in_flight_batch.ends_at <= now:
                self.complete(self.in_flight.pop(0), now)
            while isinstance(decision := self.scheduler.poll(now), Launch):
                self.launch(decision)
            assert isinstance(decision, Wait), "nothing expires"
            times = [launch.in_flight_batch.ends_at for launch in self.in_flight[:1]]
            times += [request.at for request in self.coming[:1]]
            times += [decision.until] if decision.until is not None else []
            if not times:
                return self.admitted
            now = min(times)

    def arrive(self, request: Request, now: float) -> None:
        request.launches_before = self.launches
        quote = self.scheduler.quote(request, now)
        if quote.lateness_s <= 0:
            self.scheduler.enqueue(request, quote, now)
            self.admitted.append(request)

    def launch(self, launch: Launch[Request]) -> None:
        self.launches += 1
        self.in_flight.append(launch)
        for request, start, _ in launch.slices:
            if not start:
                request.started_after = self.launches - request.launches_before

    def complete(self, launch: Launch[Request], now: float) -> None:
        self.scheduler.complete(launch, now)
        for request, start, count in launch.slices:
            if start + count == request.rows:
                request.finished_at = now


def play(scheduler: Scheduler[Request], requests: Sequence[Request]) -> list[Request]:
    """Run these requests. Returns those that were admitted."""
    return Play(scheduler, requests).run()


def made(kind: type[Scheduler[Request]] = Scheduler) -> Scheduler[Request]:
    costs = CostTable({Bucket(rows): seconds for rows, seconds in COSTS.items()})
    return kind(SchedulerOptions(0.0, 100_000, 2), costs, (None,))


@pytest.mark.parametrize("large", [[1000], [100] * 10, [9] * 100], ids=["1", "10", "100"])
@settings(max_examples=25, deadline=None)
@given(times=st.lists(st.integers(1, 400), max_size=20))
def test_a_small_request_starts_with_one_of_the_next_two_batches(
    large: list[int], times: list[int]
) -> None:
    """The second of them where the first goes by deadline alone."""
    requests = [Request(0.0, rows) for rows in large]
    small = [Request(at / 4) for at in sorted(times)]
    play(made(), [*requests, *small])
    assert all(request.started_after is not None for request in small)
    assert max([request.started_after or 0 for request in small], default=0) <= 2


@settings(max_examples=50, deadline=None)
@given(
    times=st.lists(st.integers(0, 200), max_size=60),
    rows=st.integers(9, 200),
    allowed_s=st.integers(0, 60),
)
def test_a_large_request_is_delayed_by_what_overtakes_it_and_never_beyond_its_deadline(
    times: list[int], rows: int, allowed_s: int
) -> None:
    batches = -(-rows // 8)

    def finished(kind: type[Scheduler[Request]]) -> float:
        large = Request(0.0, rows, batches * BATCH_S + allowed_s)
        admitted = play(made(kind), [large, *(Request(at / 4) for at in sorted(times))])
        assert len(admitted) == 1 + len(times)
        assert large.finished_at is not None
        assert large.finished_at <= large.deadline
        return large.finished_at

    overtaking = -(-len(times) // 8)  # full batches
    delay = finished(Scheduler) - finished(FirstCome)
    assert delay <= (overtaking + 1) * BATCH_S, "and the rest of the batch of its last row"


requests_ = st.tuples(
    st.integers(0, 12), st.one_of(st.integers(1, 6), st.integers(9, 80)), st.integers(0, 200)
)


@settings(max_examples=150, deadline=None)
@given(arrivals=st.lists(requests_, min_size=1, max_size=60))
def test_no_admitted_request_of_any_size_misses_its_deadline(
    arrivals: list[tuple[int, int, int]],
) -> None:
    at, requests = 0.0, []
    for gap, rows, patience in arrivals:
        at += gap / 8 + 1 / 1024  # so that no request comes when a batch ends
        requests.append(Request(at, rows, 2.01 + patience / 8))
    for request in play(made(), requests):
        assert request.finished_at is not None
        assert request.finished_at <= request.deadline


def test_a_large_request_gets_an_eighth_of_the_batches_whatever_comes() -> None:
    """Small requests need more than the whole device."""
    large = Request(0.0, 80)
    small = [Request(number / 8, 1, 1000.0) for number in range(2000)]
    play(made(), [large, *small])
    assert large.finished_at is not None
    assert large.finished_at <= 8 * 10 * BATCH_S + 2 * BATCH_S


@pytest.mark.parametrize("overtakes", [False, True])
def test_an_overtaken_request_and_what_overtook_it_say_nothing_about_predictions(
    overtakes: bool,
) -> None:
    scheduler = made()
    requests = [Request(0.0, 32), Request(0.25)]
    play(scheduler, requests if overtakes else requests[:1])
    late = Request(requests[0].at, 8, 3.0)
    assert scheduler._admission._errors.value == 0.0
    assert scheduler.quote(late, 0.0).lateness_s == BATCH_S - 3.0
