"""The rules of other servers, as tables: queued rows and the decision."""

from __future__ import annotations

import pytest

from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.fair_share import InFlightBatch
from engine.scheduling.request_queue import RowSlice
from engine.scheduling.scheduler import Expire, Launch, Stop, Wait
from engine.simulation.rules import RULES, Aimd, Linear, Rule
from engine.simulation.traces import Request

COSTS = {Bucket(1): 1.0, Bucket(2): 1.2, Bucket(4): 2.0, Bucket(8): 5.0}
MAX_WAIT_S, SLO_S = 0.5, 3.0


def rule(name: str, queued: int = 0, at: float = 0.0) -> Rule:
    """A rule with so many requests of one row, all of which arrived `at`."""
    made = RULES[name](CostTable(COSTS), None, MAX_WAIT_S, SLO_S)
    for _ in range(queued):
        enqueue(made, request(at), at)
    return made


def enqueue(made: Rule, request_: Request, now: float) -> None:
    made.enqueue(request_, made.quote(request_, now), now)


def request(at: float = 0.0, rows: int = 1, deadline: float = 100.0) -> Request:
    return Request(at, deadline, rows, None, None)


def row_slice(rows: int) -> RowSlice[Request]:
    return RowSlice(request(rows=rows), 0, rows)


def launched(decision: object) -> Launch[Request]:
    assert isinstance(decision, Launch)
    return decision


@pytest.mark.parametrize(
    ("name", "queued", "bucket", "rows"),
    [
        # padded up, as soon as the device is free
        ("pad", 1, 1, 1),
        ("pad", 3, 4, 3),
        ("pad", 5, 8, 5),
        ("pad", 9, 8, 8),
        # the largest that can be filled
        ("idle", 1, 1, 1),
        ("idle", 3, 2, 2),
        ("idle", 7, 4, 4),
        ("idle", 20, 8, 8),
        # 3 rows: 4 at 2.0 s, or 2 and 1 at 2.2 s; 5 rows: 8 at 5.0 s, or 4 and 1 at 3.0 s
        ("greedy", 3, 4, 3),
        ("greedy", 5, 4, 4),
        ("greedy", 7, 4, 4),
        ("greedy", 8, 8, 8),
        # starts with one row
        ("aimd", 3, 1, 1),
        # without samples: no fixed part, no reason to wait
        ("linear", 3, 4, 3),
        # full
        ("window", 8, 8, 8),
        ("window", 12, 8, 8),
    ],
)
def test_the_batch_for_a_number_of_queued_rows(
    name: str, queued: int, bucket: int, rows: int
) -> None:
    launch = launched(rule(name, queued).poll(0.0))
    assert (launch.bucket, launch.rows) == (Bucket(bucket), rows)
    assert launch.reason == ("full" if bucket == rows else "idle")


@pytest.mark.parametrize(
    ("now", "decision"), [(0.0, Wait(0.5)), (0.4, Wait(0.5)), (0.5, 4), (0.9, 4)]
)
def test_a_window_ends_when_its_oldest_row_has_waited(now: float, decision: Wait | int) -> None:
    made = rule("window", 1)
    enqueue(made, request(0.4), 0.4)
    enqueue(made, request(0.4), 0.4)
    got = made.poll(now)
    assert got == decision if isinstance(decision, Wait) else launched(got).bucket.rows == decision


def test_a_closed_rule_launches_without_a_wait_and_stops_when_empty() -> None:
    made = rule("window", 1)
    made.close()
    launch = launched(made.poll(0.0))
    assert made.poll(0.5) == Wait(None)
    made.complete(launch, 1.0)
    assert made.poll(1.0) == Stop()


def test_one_batch_at_a_time_and_arrivals_need_no_wake_up_meanwhile() -> None:
    made = rule("pad", 1)
    assert made.wakes_on_arrival
    launch = launched(made.poll(0.0))
    enqueue(made, request(0.1), 0.1)
    assert (made.wakes_on_arrival, made.poll(0.1)) == (False, Wait(None))
    assert made.complete(launch, 1.5) == 1.5
    assert launched(made.poll(1.5)).rows == 1


def test_a_request_is_split_and_its_rest_is_next() -> None:
    made = rule("idle")
    big, small = request(rows=11), request()
    enqueue(made, big, 0.0)
    enqueue(made, small, 0.0)
    first = launched(made.poll(0.0))
    made.complete(first, 5.0)
    second = launched(made.poll(5.0))
    assert [(p.request, p.start, p.count) for p in first.slices] == [(big, 0, 8)]
    assert [(p.request, p.start, p.count) for p in second.slices] == [(big, 8, 3), (small, 0, 1)]


def test_a_request_past_its_deadline_is_dropped_with_its_remaining_rows() -> None:
    made = rule("idle")
    late, fine = request(rows=11, deadline=5.0), request()
    enqueue(made, late, 0.0)
    enqueue(made, fine, 0.0)
    made.complete(launched(made.poll(0.0)), 5.0)
    assert made.poll(5.0) == Expire((late,))
    assert launched(made.poll(5.0)).rows == 1


def test_an_empty_queue_is_a_wait() -> None:
    assert rule("pad").poll(0.0) == Wait(None)


def test_no_request_is_refused_before_its_deadline() -> None:
    made = rule("pad", 1000)
    assert made.has_room(1)
    assert made.quote(request(deadline=7.0), 5.0).lateness_s == -2.0


@pytest.mark.parametrize(
    ("most", "rows", "spent", "then"),
    [
        (1.0, 1, 1.0, 2.0),  # full and in time: one more
        (4.0, 3, 1.0, 4.0),  # in time, not full: nothing is learned
        (8.0, 8, 1.0, 8.0),  # not beyond the largest bucket
        (4.0, 4, 1.6, 3.6),  # beyond half of the objective: a tenth less
        (1.0, 1, 1.6, 1.0),  # at least one
    ],
)
def test_aimd_adds_one_and_takes_a_tenth(most: float, rows: int, spent: float, then: float) -> None:
    made = rule("aimd")
    assert isinstance(made, Aimd)
    made.most = float(rows)
    for _ in range(rows):
        enqueue(made, request(), 0.0)
    launch = launched(made.poll(0.0))
    made.most = most
    made.complete(launch, spent)
    assert made.most == pytest.approx(then)


def taught(gap: float, **batches: float) -> Linear:
    """A linear rule after batches of n rows that took so long, and arrivals this far apart."""
    made = rule("linear")
    assert isinstance(made, Linear)
    for _ in range(200):
        for name, spent in batches.items():
            batch, count = InFlightBatch("", spent, 0.0, spent), int(name[1:])
            launch = Launch(Bucket(8), (row_slice(count),), "idle", batch, count)
            made._learn(launch, spent)
    for number in range(200):
        made._arrived(number * gap)
    return made


@pytest.mark.parametrize(
    ("gap", "queued", "until"),
    [
        # the line is 1 s and 0.1 s a row; two are queued: one more saves 1 s and costs 2 gaps
        (0.2, 2, 0.2),
        (0.6, 2, None),
        (0.2, 6, None),
        # never beyond the longest wait
        (0.9, 1, 0.5),
    ],
)
def test_a_line_waits_while_another_arrival_saves_more_than_it_costs(
    gap: float, queued: int, until: float | None
) -> None:
    made = taught(gap, n1=1.1, n4=1.4)
    last = 199 * gap
    for _ in range(queued):
        made.queue.add(request(last, deadline=1e9))
    got = made.poll(last)
    if until is None:
        assert launched(got).rows == queued
    else:
        assert isinstance(got, Wait)
        assert got.until == pytest.approx(last + until, rel=1e-3)


def test_a_rule_uses_the_buckets_of_its_length_only() -> None:
    costs = CostTable({Bucket(1, 8): 1.0, Bucket(4, 8): 2.0, Bucket(2, 16): 3.0})
    made = RULES["pad"](costs, 16, MAX_WAIT_S, SLO_S)
    assert made.buckets == [Bucket(2, 16)]
