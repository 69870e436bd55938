"""Requests that arrive together are queued as if they had come one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.scheduler import Launch, Scheduler, SchedulerOptions, Wait

NOW = 16.0
LENGTHS = (32, 64)


@dataclass(frozen=True, eq=False)
class Request:
    """What the scheduler reads of a request."""

    rows: int = 1
    deadline: float = 1000.0
    bucket_length: int | None = 32
    priority: int = 5


def scheduler(**changes: Any) -> Scheduler[Request]:
    """Two lengths, one dearer; powers of two, so that sums of costs are exact."""
    costs = CostTable(
        {Bucket(rows, n): n / 64 * (0.5 + rows / 8) for rows in (1, 4) for n in LENGTHS}
    )
    options = SchedulerOptions(**({"max_wait_s": 2.0, "max_rows": 24, "depth": 2} | changes))
    return Scheduler(options, costs, LENGTHS)


def one_by_one(target: Scheduler[Request], requests: Sequence[Request]) -> list[Request]:
    """Queue those that have room and are in time. Returns the others."""
    refused = []
    for request in requests:
        if target.has_room(request.rows):
            quote = target.quote(request, NOW)
            if quote.lateness_s <= 0:
                target.enqueue(request, quote, NOW)
                continue
        refused.append(request)
    return refused


def together(target: Scheduler[Request], requests: Sequence[Request]) -> list[Request]:
    """The same with `admit`, wherever that takes some."""
    refused = []
    while requests:
        admitted = target.admit(requests, NOW)
        refused += one_by_one(target, requests[admitted : admitted + 1])
        requests = requests[admitted + 1 :]
    return refused


def launches(target: Scheduler[Request]) -> list[Any]:
    """What the device would run until the queue is empty."""
    found, now = [], NOW
    while target.queue.total_rows:
        decision = target.poll(now)
        if isinstance(decision, Launch):
            found.append((decision.bucket, decision.slices))
            now = decision.in_flight_batch.ends_at
            target.complete(decision, now)
        elif isinstance(decision, Wait):
            now = decision.until or now
        else:
            found.append((decision,))
    return found


requests_ = st.builds(
    Request,
    rows=st.integers(1, 20),
    deadline=st.sampled_from([17.0, 18.0, 20.0, 32.0, 1000.0]),
    bucket_length=st.sampled_from(LENGTHS),
    priority=st.sampled_from([4, 5, 5, 5]),
)


@given(
    st.lists(requests_, max_size=3),
    st.lists(requests_, min_size=1, max_size=8),
    st.sampled_from([0.0, 0.25, 4.0]),
    st.booleans(),
    st.sampled_from([24, 240]),
)
def test_a_group_is_queued_as_its_requests_would_be_one_by_one(
    before: list[Request], group: list[Request], error: float, busy: bool, max_rows: int
) -> None:
    targets = scheduler(max_rows=max_rows), scheduler(max_rows=max_rows)
    for target in targets:
        target._admission._errors.add(error)
        one_by_one(target, before)
        if busy and before and target.queue.total_rows:
            target.poll(NOW)
    first, second = targets
    assert together(first, group) == one_by_one(second, group)
    assert first.queue.rows == second.queue.rows
    assert first._admission._predicted == second._admission._predicted
    assert first._admission.next_expiry == second._admission.next_expiry
    assert first._load.value(NOW) == pytest.approx(second._load.value(NOW))
    assert first.drain_seconds(NOW) == second.drain_seconds(NOW)
    assert list(first.queue) == list(second.queue)
    assert launches(first) == launches(second)


@pytest.mark.parametrize(
    ("group", "admitted"),
    [
        ([Request(), Request(), Request()], 3),
        ([Request(deadline=50), Request(deadline=40)], 1),
        ([Request(), Request(bucket_length=64)], 1),
        ([Request(), Request(priority=6)], 1),
        ([*(Request(2) for _ in range(12)), Request()], 12),
        ([Request(), Request(3)], 1),
        ([Request(deadline=16.25)], 0),
    ],
    ids=[
        "all",
        "due before the last",
        "another length",
        "another priority",
        "no room",
        "divided",
        "late",
    ],
)
def test_a_group_ends_before_the_first_that_needs_a_quote_of_its_own(
    group: list[Request], admitted: int
) -> None:
    target = scheduler()
    assert target.admit(group, NOW) == admitted
    assert list(target.queue) == group[:admitted]


def test_a_closed_queue_admits_nothing() -> None:
    target = scheduler()
    target.close()
    assert target.admit([Request()], NOW) == 0
