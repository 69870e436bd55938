"""The policy as one table, and as promises that hold whatever happens in whatever order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from engine.batching import BatchQueue, Expire, Launch, Policy, Stop, Wait
from engine.buckets import Bucket
from engine.costs import CostTable


@dataclass(frozen=True, eq=False)
class Request:
    """What the policy sees of a request, and a name for people."""

    name: str
    rows: int
    enqueued_at: float
    deadline: float = 100.0
    lane: int | None = None

    def __repr__(self) -> str:
        return self.name


Decision = Launch[Request] | Expire[Request] | Wait | Stop


def said(decision: Decision) -> str:
    """A decision as one line: `launch 8: a[0:3] b[0:5] (full)`."""
    match decision:
        case Launch(bucket, pieces, reason):
            rows = " ".join(f"{p.request}[{p.start}:{p.start + p.count}]" for p in pieces)
            return f"launch {bucket}: {rows} ({reason})"
        case Expire(requests):
            return f"expire {' '.join(map(str, requests))}"
        case Wait(until):
            return "wait" if until is None else f"wait until {until:g}"
        case Stop():
            return "stop"


def policy(**changes: Any) -> Policy:
    fields = {"max_wait_s": 2.0, "hold": False, "max_rows": 1000, "depth": 2}
    return Policy(**(fields | changes))


# 16 rows are hardly dearer than 8 (as on a GPU), or clearly dearer (as on a CPU)
FLAT = CostTable({Bucket(1): 1.0, Bucket(8): 1.0, Bucket(16): 1.05})
STEEP = CostTable({Bucket(1): 0.5, Bucket(8): 1.0, Bucket(16): 1.5})
LANES = CostTable({Bucket(1, 16): 0.5, Bucket(4, 16): 0.8, Bucket(1, 64): 0.5, Bucket(4, 64): 0.8})


@dataclass(frozen=True)
class Case:
    """The queue at one moment. Every arrival is (name, rows, enqueued_at[, deadline[, lane]])."""

    arrivals: Iterable[tuple[Any, ...]]
    expected: str
    now: float = 10.0
    in_flight: int = 0
    closed: bool = False
    costs: CostTable = STEEP
    lanes: tuple[int | None, ...] = (None,)
    policy: Policy = field(default_factory=policy)


TABLE = {
    # what an idle device does
    "nothing-waits": Case([], "wait"),
    "idle-takes-what-is-there-at-once": Case([("a", 1, 10)], "launch 1: a[0:1] (idle)"),
    "idle-takes-all-that-are-there": Case(
        [("a", 1, 9), ("b", 2, 10)], "launch 8: a[0:1] b[0:2] (idle)"
    ),
    "hold-waits-though-the-device-is-idle": Case(
        [("a", 1, 9), ("b", 2, 10)], "wait until 11", policy=policy(hold=True)
    ),
    # how long the oldest waits
    "busy-waits-for-company": Case([("a", 1, 9)], "wait until 11", in_flight=1),
    "the-window-counts-from-the-oldest": Case(
        [("a", 1, 8), ("b", 1, 10)], "launch 8: a[0:1] b[0:1] (window)", in_flight=1
    ),
    "a-moment-before-the-window-ends": Case([("a", 1, 8)], "wait until 10", in_flight=1, now=9.999),
    "hold-ends-with-the-window": Case(
        [("a", 1, 8)], "launch 1: a[0:1] (window)", policy=policy(hold=True)
    ),
    "no-window-no-waiting": Case(
        [("a", 1, 10)], "launch 1: a[0:1] (window)", in_flight=1, policy=policy(max_wait_s=0.0)
    ),
    "the-deadline-comes-before-the-window": Case(
        [("a", 1, 9, 10.5)], "wait until 10.5", in_flight=1
    ),
    # what is full
    "full-does-not-wait": Case([("a", 16, 10)], "launch 16: a[0:16] (full)", in_flight=1),
    "full-does-not-wait-though-held": Case(
        [("a", 16, 10)], "launch 16: a[0:16] (full)", policy=policy(hold=True)
    ),
    "one-row-short-of-full": Case([("a", 15, 10)], "wait until 12", in_flight=1),
    "full-is-the-best-bucket-not-the-largest": Case(
        [("a", 8, 10)],
        "launch 8: a[0:8] (full)",
        in_flight=1,
        costs=CostTable({Bucket(1): 0.5, Bucket(8): 1.0, Bucket(16): 2.5}),
    ),
    # which bucket
    "nine-leave-one-behind-when-8-is-cheaper-a-row": Case(
        [("a", 4, 9), ("b", 5, 9)], "launch 8: a[0:4] b[0:4] (idle)"
    ),
    "nine-go-together-when-16-is-cheaper-a-row": Case(
        [("a", 4, 9), ("b", 5, 9)], "launch 16: a[0:4] b[0:5] (idle)", costs=FLAT
    ),
    "a-request-larger-than-every-bucket-is-cut": Case(
        [("a", 40, 10), ("b", 1, 10)], "launch 16: a[0:16] (full)"
    ),
    # several lengths
    "lanes-do-not-mix": Case(
        [("a", 1, 9, 100, 16), ("b", 1, 9, 100, 64), ("c", 1, 9, 100, 16)],
        "launch 4x16: a[0:1] c[0:1] (idle)",
        costs=LANES,
        lanes=(16, 64),
    ),
    "the-lane-whose-oldest-is-older-goes-first": Case(
        [("a", 1, 9, 100, 16), ("b", 1, 8, 100, 64)],
        "launch 1x64: b[0:1] (idle)",
        costs=LANES,
        lanes=(16, 64),
    ),
    "a-full-lane-passes-an-older-one-that-may-wait": Case(
        [("a", 1, 9, 100, 16), ("b", 4, 10, 100, 64)],
        "launch 4x64: b[0:4] (full)",
        in_flight=1,
        costs=LANES,
        lanes=(16, 64),
    ),
    "wait-until-the-first-of-all-windows": Case(
        [("a", 1, 9.5, 100, 16), ("b", 1, 9, 100, 64)],
        "wait until 11",
        in_flight=1,
        costs=LANES,
        lanes=(16, 64),
    ),
    # how many at once
    "at-the-depth-nothing-is-launched": Case([("a", 16, 5)], "wait until 100", in_flight=2),
    "at-the-depth-and-nobody-waits": Case([], "wait", in_flight=2),
    "depth-of-one": Case([("a", 16, 5)], "wait until 100", in_flight=1, policy=policy(depth=1)),
    # who is too late
    "the-expired-leave": Case(
        [("a", 1, 5, 10), ("b", 1, 5, 11), ("c", 1, 5, 9)], "expire a c", in_flight=2
    ),
    "the-expired-leave-before-anything-is-launched": Case(
        [("a", 16, 5), ("b", 1, 5, 10)], "expire b"
    ),
    "a-moment-before-the-deadline": Case(
        [("a", 1, 5, 10)], "wait until 10", in_flight=2, now=9.999
    ),
    "the-expired-leave-when-closed-too": Case([("a", 1, 5, 10)], "expire a", closed=True),
    # closed
    "closed-drains-without-waiting-for-company": Case(
        [("a", 1, 10)], "launch 1: a[0:1] (drain)", in_flight=1, closed=True
    ),
    "closed-drains-though-held": Case(
        [("a", 1, 10)], "launch 1: a[0:1] (drain)", closed=True, policy=policy(hold=True)
    ),
    "closed-keeps-to-the-depth": Case([("a", 1, 10)], "wait until 100", in_flight=2, closed=True),
    "closed-and-empty-stops": Case([], "stop", closed=True),
    "closed-and-empty-stops-with-a-batch-still-on-its-way": Case(
        [], "stop", in_flight=1, closed=True
    ),
    "closed-and-empty-waits-at-the-depth": Case([], "wait", in_flight=2, closed=True),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_poll_decides(case: Case) -> None:
    queue: BatchQueue[Request] = BatchQueue(case.policy, case.costs, case.lanes)
    for name, rows, at, *rest in case.arrivals:
        queue.offer(Request(name, rows, at, *rest))
    queue.in_flight = case.in_flight
    if case.closed:
        queue.close()
    assert said(queue.poll(case.now)) == case.expected


# --- several decisions in a row -----------------------------------------------------------------


@pytest.fixture
def queue() -> BatchQueue[Request]:
    """At most 50 rows wait, up to ten batches are on their way."""
    return BatchQueue(policy(max_rows=50, depth=10), STEEP, (None,))


def test_a_large_request_is_cut_in_order_and_its_rest_stays_at_the_front(
    queue: BatchQueue[Request],
) -> None:
    queue.offer(Request("a", 35, 0))
    queue.offer(Request("b", 6, 0))
    queue.close()
    assert [said(queue.poll(1)) for _ in range(4)] == [
        "launch 16: a[0:16] (full)",
        "launch 16: a[16:32] (full)",
        "launch 8: a[32:35] b[0:5] (drain)",
        "launch 1: b[5:6] (drain)",
    ]
    assert said(queue.poll(1)) == "stop"


def test_the_row_that_nine_leave_behind_goes_next(queue: BatchQueue[Request]) -> None:
    queue.offer(Request("a", 9, 0))
    assert said(queue.poll(0)) == "launch 8: a[0:8] (idle)"
    assert said(queue.poll(0)) == "wait until 2"
    assert said(queue.poll(2)) == "launch 1: a[8:9] (window)"


def test_a_launch_is_in_flight_until_it_lands(queue: BatchQueue[Request]) -> None:
    queue.offer(Request("a", 1, 0))
    assert queue.in_flight == 0
    queue.poll(0)
    assert queue.in_flight == 1
    queue.landed()
    assert queue.in_flight == 0


def test_the_expired_leave_only_once(queue: BatchQueue[Request]) -> None:
    queue.offer(Request("a", 1, 0, deadline=5))
    queue.offer(Request("b", 1, 0, deadline=7))
    queue.in_flight = 10
    assert [said(queue.poll(now)) for now in (4, 5, 5, 7, 7)] == [
        "wait until 5",
        "expire a",
        "wait until 7",
        "expire b",
        "wait",
    ]


def test_only_the_rows_that_still_wait_expire(queue: BatchQueue[Request]) -> None:
    queue.offer(Request("a", 20, 0, deadline=5))
    assert said(queue.poll(0)) == "launch 16: a[0:16] (full)"
    assert queue.queued_rows == 4
    assert said(queue.poll(5)) == "expire a"
    assert queue.queued_rows == 0


def test_a_discarded_request_is_gone_and_discarding_again_does_nothing(
    queue: BatchQueue[Request],
) -> None:
    gone = Request("a", 20, 0)
    queue.offer(gone)
    queue.offer(Request("b", 2, 0))
    assert said(queue.poll(0)) == "launch 16: a[0:16] (full)"
    queue.discard(gone)
    queue.discard(gone)
    assert (queue.queued_rows, queue.queued_requests) == (2, 1)
    queue.close()
    assert said(queue.poll(0)) == "launch 8: b[0:2] (drain)"


def test_clear_takes_out_everybody(queue: BatchQueue[Request]) -> None:
    everybody = [Request(name, 2, 0) for name in "abc"]
    for request in everybody:
        queue.offer(request)
    assert queue.clear() == tuple(everybody)
    assert (queue.queued_rows, queue.queued_requests) == (0, 0)
    assert queue.clear() == ()


def test_room_is_counted_in_rows_not_in_requests(queue: BatchQueue[Request]) -> None:
    queue.offer(Request("a", 48, 0))
    assert queue.has_room(2)
    assert not queue.has_room(3)


def test_the_time_to_drain_is_that_of_the_rows_that_wait(queue: BatchQueue[Request]) -> None:
    assert queue.drain_seconds() == 0.0
    queue.offer(Request("a", 17, 0))
    assert queue.drain_seconds() == 2 * 1.5


def test_an_offer_beyond_the_limit_or_after_the_close_is_a_bug(queue: BatchQueue[Request]) -> None:
    with pytest.raises(AssertionError, match=r"rows \{None: 0\}, 0 in flight> cannot take a"):
        queue.offer(Request("a", 51, 0))
    queue.close()
    with pytest.raises(AssertionError, match=r"closed> cannot take b; this is a bug"):
        queue.offer(Request("b", 1, 0))


# --- whatever happens, in whatever order ---------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Offers, polls, landings, cancellations and the passing of time, against a plain list.

    `waiting` is what should be there: per lane, who waits and from which row. Times are quarters,
    which floats add up exactly.
    """

    requests = Bundle("requests")

    @initialize(
        max_wait=st.sampled_from([0.0, 0.5, 2.0]),
        hold=st.booleans(),
        max_rows=st.integers(1, 40),
        depth=st.integers(1, 3),
        seconds=st.lists(st.integers(1, 20), min_size=6, max_size=6),
    )
    def open(
        self, max_wait: float, hold: bool, max_rows: int, depth: int, seconds: list[int]
    ) -> None:
        self.policy = Policy(max_wait, hold, max_rows, depth)
        buckets = [Bucket(rows, length) for length in (16, 64) for rows in (1, 4, 8)]
        self.costs = CostTable({b: float(s) for b, s in zip(buckets, seconds, strict=True)})
        self.queue: BatchQueue[Request] = BatchQueue(self.policy, self.costs, (16, 64))
        self.waiting: dict[int | None, list[tuple[Request, int]]] = {16: [], 64: []}
        self.offered = self.left = 0
        self.now = 0.0

    @rule(
        target=requests,
        rows=st.integers(1, 20),
        lane=st.sampled_from([16, 64]),
        patience=st.integers(0, 40),
    )
    def offer(self, rows: int, lane: int, patience: int) -> Request:
        request = Request(f"r{self.offered}", rows, self.now, self.now + patience / 4, lane)
        room = self.rows_waiting() + rows <= self.policy.max_rows
        assert self.queue.has_room(rows) == room
        if room and not self.queue.closed:
            self.queue.offer(request)
            self.waiting[lane].append((request, 0))
            self.offered += rows
        return request

    @rule(request=requests)
    def discard(self, request: Request) -> None:
        self.queue.discard(request)
        self.leave({request})

    @rule(quarters=st.integers(1, 12))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @precondition(lambda self: self.queue.in_flight)
    @rule()
    def land(self) -> None:
        self.queue.landed()

    @rule()
    def poll(self) -> None:
        before = self.queue.in_flight
        decision = self.queue.poll(self.now)
        match decision:
            case Launch():
                assert self.queue.in_flight == before + 1 <= self.policy.depth
                self.check_launch(decision)
            case Expire(requests):
                late = {request for request in self.everybody() if request.deadline <= self.now}
                assert set(requests) == late != set()
                assert len(requests) == len(late)
                self.leave(late)
            case Wait(until):
                self.check_wait(until)
            case Stop():
                assert self.queue.closed
                assert not self.everybody()

    # seldom, so that most of a run happens with the queue open
    @precondition(lambda self: self.offered > 60)
    @rule()
    def close(self) -> None:
        self.queue.close()

    @precondition(lambda self: self.offered > 60)
    @rule()
    def clear(self) -> None:
        cleared = self.queue.clear()
        assert list(cleared) == self.everybody()
        self.leave(set(cleared))

    @invariant()
    def rows_and_requests_are_those_that_wait(self) -> None:
        assert self.queue.queued_rows == self.rows_waiting() <= self.policy.max_rows
        assert self.queue.queued_requests == len(self.everybody())

    def teardown(self) -> None:
        """Close, and every row that was offered leaves exactly once."""
        if not hasattr(self, "queue"):
            return
        self.queue.close()
        for _ in range(1000):
            self.poll()
            if self.queue.in_flight:
                self.queue.landed()
            elif not self.everybody():
                break
        assert isinstance(self.queue.poll(self.now), Stop)
        assert self.left == self.offered

    def check_launch(self, launch: Launch[Request]) -> None:
        """It takes the front of one lane in order, and no more than the bucket holds."""
        lane = self.waiting[launch.bucket.length]
        assert 1 <= launch.rows <= launch.bucket.rows
        full = launch.rows == launch.bucket.rows
        assert full or launch.rows == sum(r.rows - start for r, start in lane)
        for piece in launch.pieces:
            request, start = lane.pop(0)
            assert (piece.request, piece.start) == (request, start)
            assert piece.count >= 1
            self.left += piece.count
            if start + piece.count < request.rows:
                assert piece is launch.pieces[-1]
                lane.insert(0, (request, start + piece.count))

    def check_wait(self, until: float | None) -> None:
        """Nothing was due, and what may become due is not slept through."""
        assert until is None or until > self.now
        waiting = self.everybody()
        assert all(request.deadline > self.now for request in waiting)
        if waiting:
            assert until is not None
            assert until <= min(request.deadline for request in waiting)
        if self.queue.in_flight >= self.policy.depth:
            return
        assert not (waiting and self.queue.closed)
        assert not (waiting and self.queue.in_flight == 0 and not self.policy.hold)
        for lane, line in self.waiting.items():
            if line:
                assert sum(r.rows - start for r, start in line) < self.costs.best(lane).rows
                window_ends = line[0][0].enqueued_at + self.policy.max_wait_s
                assert until is not None
                assert self.now < window_ends
                assert until <= window_ends

    def everybody(self) -> list[Request]:
        return [request for lane in self.waiting.values() for request, _ in lane]

    def rows_waiting(self) -> int:
        return sum(r.rows - start for lane in self.waiting.values() for r, start in lane)

    def leave(self, requests: set[Request]) -> None:
        """These have left, with all their rows that still waited."""
        for lane in self.waiting.values():
            self.left += sum(r.rows - start for r, start in lane if r in requests)
            lane[:] = [(r, start) for r, start in lane if r not in requests]


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
