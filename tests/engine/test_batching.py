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

from engine.batching import GUARD, REASONS, BatchQueue, Expire, Launch, Policy, Stop, Wait
from engine.buckets import Bucket
from engine.costs import PLAN_EVERY, CostTable
from engine.device import Device
from engine.waiting import DEFAULT_PRIORITY


@dataclass(frozen=True, eq=False)
class Request:
    """What the policy sees of a request, and a name for people."""

    name: str
    rows: int = 1
    enqueued_at: float = 0.0
    deadline: float = 100.0
    lane: int | None = None
    priority: int = DEFAULT_PRIORITY

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
    return Policy(**({"max_wait_s": 2.0, "max_rows": 1000, "depth": 2} | changes))


def steep() -> CostTable:
    """16 rows are clearly dearer than 8, as on a CPU."""
    return CostTable({Bucket(1): 0.5, Bucket(8): 1.0, Bucket(16): 1.5})


def flat() -> CostTable:
    """16 rows are hardly dearer than 8, as on a GPU."""
    return CostTable({Bucket(1): 1.0, Bucket(8): 1.02, Bucket(16): 1.05})


def two_lanes() -> CostTable:
    """Rows of the shorter length are not worth a place in the longer bucket."""
    return CostTable(
        {Bucket(1, 16): 0.5, Bucket(4, 16): 0.8, Bucket(1, 64): 5.0, Bucket(4, 64): 8.0}
    )


@dataclass(frozen=True)
class Case:
    """The queue at 10. `flying` are rows that were launched at 9.5, in full buckets of 8."""

    waiting: Iterable[Request]
    expected: str
    flying: int = 0
    closed: bool = False
    costs: CostTable = field(default_factory=steep)
    lanes: tuple[int | None, ...] = (None,)
    policy: Policy = field(default_factory=policy)


TABLE = {
    # the device is free
    "nothing-waits": Case([], "wait"),
    "idle-takes-what-is-there-at-once": Case([Request("a")], "launch 1: a[0:1] (idle)"),
    "idle-takes-all-that-the-plan-takes": Case(
        [Request("a"), Request("b", 2)], "launch 8: a[0:1] b[0:2] (idle)", costs=flat()
    ),
    "the-best-bucket-full": Case([Request("a", 16)], "launch 16: a[0:16] (full)"),
    "filled-but-not-the-best": Case([Request("a", 8)], "launch 8: a[0:8] (idle)"),
    "the-earliest-deadline-first": Case(
        [Request("a", 4, deadline=50), Request("b", 4, deadline=40)],
        "launch 8: b[0:4] a[0:4] (idle)",
    ),
    "the-highest-priority-first": Case(
        [Request("a", 4, deadline=40), Request("b", 4, priority=1)],
        "launch 8: b[0:4] a[0:4] (idle)",
    ),
    "a-request-larger-than-every-bucket-is-cut": Case(
        [Request("a", 40), Request("b")], "launch 16: a[0:16] (full)"
    ),
    # the device is busy
    "busy-until-it-is-free": Case([Request("a")], "wait until 10.5", flying=8),
    "busy-and-full-is-no-reason-to-form-it-early": Case(
        [Request("a", 16)], "wait until 10.5", flying=8
    ),
    "busy-and-a-deadline-comes-first": Case(
        [Request("a", deadline=10.75)], "wait until 10.25", flying=8
    ),
    "at-the-depth-a-landing-is-waited-for": Case([Request("a", 16)], "wait until 99.5", flying=16),
    "at-the-depth-and-nobody-waits": Case([], "wait", flying=16),
    "a-depth-of-one": Case([Request("a", 16)], "wait until 99.5", flying=8, policy=policy(depth=1)),
    # several lengths
    "lanes-do-not-mix-where-that-is-dear": Case(
        [Request("a", lane=16), Request("b", lane=64), Request("c", 3, lane=16)],
        "launch 4x16: a[0:1] c[0:3] (full)",
        costs=two_lanes(),
        lanes=(16, 64),
    ),
    "the-lane-of-whoever-is-first": Case(
        [Request("a", lane=16, deadline=60), Request("b", lane=64, deadline=50)],
        "launch 1x64: b[0:1] (idle)",
        costs=two_lanes(),
        lanes=(16, 64),
    ),
    # who is too late
    "who-cannot-be-answered-in-time-leaves": Case(
        [Request("a", deadline=10.5), Request("b"), Request("c", deadline=9)], "expire a c"
    ),
    "that-is-by-the-cheapest-bucket-of-its-length": Case(
        [Request("a", deadline=11, lane=16), Request("b", deadline=11, lane=64)],
        "expire b",
        costs=two_lanes(),
        lanes=(16, 64),
    ),
    "a-moment-before-it-is-tried": Case(
        [Request("a", deadline=10.5001)], "launch 1: a[0:1] (idle)"
    ),
    "the-expired-leave-before-anything-is-launched": Case(
        [Request("a", 16), Request("b", deadline=10)], "expire b"
    ),
    "the-expired-leave-at-the-depth-too": Case([Request("a", deadline=10)], "expire a", flying=16),
    "the-expired-leave-when-closed-too": Case([Request("a", deadline=10)], "expire a", closed=True),
    # closed
    "closed-drains": Case([Request("a", 3)], "launch 8: a[0:3] (drain)", closed=True, costs=flat()),
    "closed-keeps-to-the-depth": Case([Request("a")], "wait until 99.5", flying=16, closed=True),
    "closed-and-empty-stops": Case([], "stop", closed=True),
    "closed-and-empty-stops-with-a-batch-still-on-its-way": Case([], "stop", flying=8, closed=True),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_poll_decides(case: Case) -> None:
    queue: BatchQueue[Request] = BatchQueue(case.policy, case.costs, case.lanes)
    launch_full(queue, case.flying, 9.5)
    for request in case.waiting:
        queue.offer(request, 10.0)
    if case.closed:
        queue.close()
    assert said(queue.poll(10.0)) == case.expected


def launch_full(queue: BatchQueue[Request], rows: int, now: float) -> list[Launch[Request]]:
    """Launch so many rows in buckets of 8, one behind the other."""
    launches = []
    for number in range(rows // 8):
        queue.offer(Request(f"flying{number}", 8), now)
        # from where the next batch would be formed while this one computes
        decision = queue.poll(now + number)
        assert isinstance(decision, Launch)
        launches.append(decision)
    return launches


# --- several decisions in a row ------------------------------------------------------------------


@pytest.fixture
def queue() -> BatchQueue[Request]:
    """At most 50 rows wait, up to ten batches are on their way."""
    return BatchQueue(policy(max_rows=50, depth=10), steep(), (None,))


def launched(queue: BatchQueue[Request], now: float) -> Launch[Request]:
    decision = queue.poll(now)
    assert isinstance(decision, Launch), said(decision)
    return decision


def served(queue: BatchQueue[Request], now: float) -> tuple[str, float]:
    """One batch is launched, and lands when it should: what was said, and when it landed."""
    launch = launched(queue, now)
    lands_at = launch.flight.lands_at
    queue.landed(launch, lands_at)
    return said(launch), lands_at


def test_a_large_request_is_cut_in_order_and_its_rest_stays_at_the_front(
    queue: BatchQueue[Request],
) -> None:
    queue.offer(Request("a", 35), 0)
    queue.offer(Request("b", 6), 0)
    queue.close()
    now, lines = 0.0, []
    while queue.queued_rows:
        line, now = served(queue, now)
        lines.append(line)
    assert lines == [
        "launch 16: a[0:16] (full)",
        "launch 16: a[16:32] (full)",
        "launch 16: a[32:35] b[0:6] (drain)",
    ]
    assert said(queue.poll(now)) == "stop"


def test_the_next_batch_is_formed_so_much_earlier_as_gathering_takes() -> None:
    queue: BatchQueue[Request] = BatchQueue(policy(), flat(), (None,))
    queue.offer(Request("a"), 0)
    launch = launched(queue, 0)
    for _ in range(200):
        queue.started(launch, launch.flight.launched_at + 0.1)
    queue.offer(Request("b"), 0)
    decision = queue.poll(0)
    assert isinstance(decision, Wait)
    assert decision.until == pytest.approx(0.9, abs=1e-6)
    assert said(queue.poll(0.95)) == "launch 1: b[0:1] (next)"


def test_a_batch_for_a_device_that_is_about_to_be_free_is_the_next_one() -> None:
    queue: BatchQueue[Request] = BatchQueue(policy(), flat(), (None,))
    queue.offer(Request("a"), 0)
    launch = launched(queue, 0)
    queue.started(launch, 0.1)
    queue.offer(Request("b", 3), 0)
    assert said(queue.poll(0.95)) == "launch 8: b[0:3] (next)"


def test_batches_that_land_earlier_than_expected_let_the_next_be_formed_earlier() -> None:
    queue: BatchQueue[Request] = BatchQueue(policy(), flat(), (None,))
    now = 0.0
    for number in range(4):
        queue.offer(Request(f"r{number}"), now)
        launch = launched(queue, now)
        queue.landed(launch, now + 0.75)
        now += 0.75
    queue.offer(Request("a"), now)
    launched(queue, now)
    queue.offer(Request("b"), now)
    assert said(queue.poll(now)) == f"wait until {now + 0.75:g}"


def test_while_a_row_waits_for_the_device_one_more_changes_nothing(
    queue: BatchQueue[Request],
) -> None:
    assert queue.heeds_arrivals
    queue.offer(Request("a"), 0)
    launched(queue, 0)
    assert queue.heeds_arrivals
    queue.offer(Request("b"), 0)
    queue.poll(0)
    assert not queue.heeds_arrivals
    queue.poll(0.5)
    assert queue.heeds_arrivals


def test_a_launch_is_in_flight_until_it_lands_or_is_lost(queue: BatchQueue[Request]) -> None:
    queue.offer(Request("a"), 0)
    first = launched(queue, 0)
    assert queue.in_flight == 1
    assert queue.landed(first, 0.75) == 0.75
    assert queue.in_flight == 0
    queue.offer(Request("b"), 1)
    queue.lost(launched(queue, 1), 1.25)
    assert queue.in_flight == 0
    queue.offer(Request("c"), 1.25)
    assert said(queue.poll(1.25)) == "launch 1: c[0:1] (idle)"


def test_what_batches_take_is_learned_and_what_failed_ones_take_is_not() -> None:
    costs = steep()
    queue: BatchQueue[Request] = BatchQueue(policy(), costs, (None,))
    for begins, failed, expected in ((0, True, 0.5), (20, False, 0.75)):
        for now in range(begins, begins + 20, 2):
            queue.offer(Request("a"), now)
            queue.landed(launched(queue, now), now + 0.75, failed=failed)
        queue.correct()
        assert costs.seconds(Bucket(1)) == expected


def test_the_expired_leave_only_once(queue: BatchQueue[Request]) -> None:
    queue.offer(Request("flying", 8), 0)
    launched(queue, 0)
    queue.offer(Request("a", deadline=0.75), 0)
    queue.offer(Request("b", deadline=1.25), 0)
    assert [said(queue.poll(now)) for now in (0.0, 0.25, 0.25, 0.75, 0.75)] == [
        "wait until 0.25",
        "expire a",
        "wait until 0.75",
        "expire b",
        "wait",
    ]


def test_only_the_rows_that_still_wait_expire(queue: BatchQueue[Request]) -> None:
    queue.offer(Request("a", 20, deadline=5), 0)
    assert said(queue.poll(0)) == "launch 16: a[0:16] (full)"
    assert queue.queued_rows == 4
    assert said(queue.poll(4.5)) == "expire a"
    assert queue.queued_rows == 0


def test_a_discarded_request_is_gone_and_discarding_again_does_nothing(
    queue: BatchQueue[Request],
) -> None:
    gone = Request("a", 20)
    queue.offer(gone, 0)
    queue.offer(Request("b", 8), 0)
    assert said(queue.poll(0)) == "launch 16: a[0:16] (full)"
    queue.discard(gone)
    queue.discard(gone)
    assert (queue.queued_rows, queue.queued_requests) == (8, 1)
    queue.close()
    assert said(queue.poll(1.5)) == "launch 8: b[0:8] (drain)"


def test_clear_takes_out_everybody(queue: BatchQueue[Request]) -> None:
    everybody = [Request(name, 2) for name in "abc"]
    for request in everybody:
        queue.offer(request, 0)
    assert queue.clear() == tuple(everybody)
    assert (queue.queued_rows, queue.queued_requests) == (0, 0)
    assert queue.clear() == ()


def test_room_is_counted_in_rows_not_in_requests(queue: BatchQueue[Request]) -> None:
    queue.offer(Request("a", 48), 0)
    assert queue.has_room(2)
    assert not queue.has_room(3)


def test_the_time_to_drain_is_that_of_the_device_and_of_the_rows_that_wait(
    queue: BatchQueue[Request],
) -> None:
    assert queue.drain_seconds(0) == 0.0
    queue.offer(Request("a", 33), 0)
    assert queue.drain_seconds(0) == 2 * 1.5 + 0.5
    launched(queue, 0)
    assert queue.drain_seconds(0.5) == 1.0 + 1.5 + 0.5


def test_an_offer_beyond_the_limit_or_after_the_close_is_a_bug(queue: BatchQueue[Request]) -> None:
    with pytest.raises(AssertionError, match=r"rows \{None: 0\}, 0 in flight> cannot take a"):
        queue.offer(Request("a", 51), 0)
    queue.close()
    with pytest.raises(AssertionError, match=r"closed> cannot take b; this is a bug"):
        queue.offer(Request("b"), 0)


def test_a_new_plan_is_made_when_the_costs_have_changed() -> None:
    costs = steep()
    queue: BatchQueue[Request] = BatchQueue(policy(), costs, (None,))
    for number in range(64):
        costs.observe(Bucket(16 if number % 2 else 1), 9.0 if number % 2 else 0.5)
    for _ in range(PLAN_EVERY):
        queue.correct()
    queue.offer(Request("a", 16), 0)
    assert said(queue.poll(0)) == "launch 8: a[0:8] (full)"


# --- closed loops --------------------------------------------------------------------------------

# eight rows cost hardly more than one, so half of the clients should wait for the other half
TOGETHER = {Bucket(1): 1.0, Bucket(8): 1.25}


def loop(queue: BatchQueue[Request], clients: int, rounds: int) -> float:
    """Clients who come back 0.1 s after their answer, until that is known. Returns the time."""
    now, waiting = 0.0, [Request(f"c{n}") for n in range(clients)]
    for _ in range(rounds):
        for request in waiting:
            queue.offer(Request(request.name, 1, now, now + 100), now)
        while queue.queued_rows or queue.in_flight:
            decision = queue.poll(now)
            if isinstance(decision, Launch):
                now = decision.flight.lands_at
                queue.landed(decision, now)
            else:
                assert isinstance(decision, Wait)
                assert decision.until is not None
                now = decision.until
        now += 0.1
    return now


def looped(max_wait_s: float = 2.0) -> tuple[BatchQueue[Request], float]:
    """Eight clients in a loop that is known, all of whom were answered 0.1 s ago."""
    queue: BatchQueue[Request] = BatchQueue(
        policy(max_wait_s=max_wait_s), CostTable(TOGETHER), (None,)
    )
    return queue, loop(queue, 8, 200)


def test_in_a_closed_loop_the_device_is_held_for_those_who_come_back() -> None:
    queue, now = looped()
    for number in range(4):
        queue.offer(Request(f"r{number}", deadline=now + 100), now)
    decision = queue.poll(now)
    assert isinstance(decision, Wait)
    assert decision.until is not None
    assert now < decision.until <= now + 0.1
    for number in range(4, 7):
        queue.offer(Request(f"r{number}", deadline=now + 100), now)
    assert isinstance(queue.poll(now), Wait)
    assert said(queue.poll(decision.until)).endswith("(held)"), "and no longer"


def test_when_all_are_back_nobody_is_waited_for() -> None:
    queue, now = looped()
    for number in range(8):
        queue.offer(Request(f"r{number}", deadline=now + 100), now)
    assert said(queue.poll(now)).startswith("launch 8")


@pytest.mark.parametrize(
    ("deadline", "max_wait_s", "closed"),
    [
        pytest.param(1.26, 2.0, False, id="not-past-a-deadline"),
        pytest.param(100.0, 0.01, False, id="not-longer-than-allowed"),
        pytest.param(100.0, 0.0, False, id="not-at-all"),
        pytest.param(100.0, 2.0, True, id="not-when-closed"),
    ],
)
def test_the_device_is_not_held(deadline: float, max_wait_s: float, closed: bool) -> None:
    queue, now = looped(max_wait_s)
    queue.offer(Request("a", 4, now, now + deadline), now)
    if closed:
        queue.close()
    assert isinstance(queue.poll(now), Launch)


def test_a_hold_that_ended_with_nobody_left_is_forgotten() -> None:
    queue, now = looped()
    request = Request("a", 4, now, now + 100)
    queue.offer(request, now)
    assert isinstance(queue.poll(now), Wait)
    queue.discard(request)
    assert said(queue.poll(now)) == "wait"
    queue.offer(Request("b", 4, now, now + 100), now + 50)
    assert said(queue.poll(now + 50)) == "launch 8: b[0:4] (idle)"


# --- priorities, and several models --------------------------------------------------------------


def test_a_permanent_backlog_of_a_higher_priority_starves_nobody() -> None:
    """Two seconds of rows of priority 1 always wait; one of priority 9 has a minute's time."""
    queue: BatchQueue[Request] = BatchQueue(policy(), CostTable({Bucket(8): 1.0}), (None,))
    low = Request("low", deadline=60.0, priority=9)
    queue.offer(low, 0.0)
    now, launches = 0.0, 0
    while True:
        while queue.queued_rows < 16:
            queue.offer(Request("high", 1, now, now + 10.0, None, 1), now)
        launch = launched(queue, now)
        launches += 1
        now = launch.flight.lands_at
        queue.landed(launch, now)
        if any(piece.request is low for piece in launch.pieces):
            break
    assert now <= low.deadline
    assert launches % GUARD == 0, "it had not had its turn by priority"
    assert launches > 5 * GUARD, "nor before others whose deadline comes earlier"


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("gather_s", [0.0, 0.25])
def test_models_with_a_backlog_share_the_device_by_weight(depth: int, gather_s: float) -> None:
    device, queues = Device(), []
    for weight, seconds in ((1.0, 1.0), (2.0, 4.0), (3.0, 2.0)):
        costs = CostTable({Bucket(1): seconds})
        queues.append(
            BatchQueue(
                policy(depth=depth, max_rows=9000), costs, (None,), device, f"m{weight}", weight
            )
        )
        queues[-1].offer(Request("all", 9000, deadline=1e9), 0)
    got = dict.fromkeys(queues, 0.0)
    flying: list[tuple[BatchQueue[Request], Launch[Request]]] = []
    now = 0.0
    for _ in range(500):
        polled = True
        timers: list[float] = []
        while polled:
            polled, timers = False, []
            for queue in queues:
                decision = queue.poll(now)
                if isinstance(decision, Launch):
                    flying.append((queue, decision))
                    polled = True
                elif isinstance(decision, Wait) and decision.until is not None:
                    timers.append(decision.until)
        lands_at = flying[0][1].flight.lands_at
        now = min([lands_at, *timers])
        if now == lands_at:
            queue, launch = flying.pop(0)
            queue.started(launch, launch.flight.launched_at + gather_s)
            got[queue] += queue.landed(launch, now)
    one, two, three = got.values()
    assert two / one == pytest.approx(2, rel=0.05)
    assert three / one == pytest.approx(3, rel=0.05)


def test_whoever_was_cleared_does_not_stand_in_the_way_of_other_models() -> None:
    device = Device()
    mine, other = (
        BatchQueue[Request](policy(), steep(), (None,), device, name) for name in ("mine", "other")
    )
    other.offer(Request("b", 50), 0)
    mine.offer(Request("a"), 0)
    launch = launched(mine, 0)
    other.poll(0.0)
    mine.landed(launch, 0.5)
    mine.offer(Request("c"), 0.5)
    assert said(mine.poll(0.5)) == "wait until 99.5", "it is the other's turn"
    other.clear()
    assert said(mine.poll(0.5)) == "launch 1: c[0:1] (idle)"


def test_a_model_that_was_idle_has_saved_nothing_up() -> None:
    device = Device()
    busy, idle = (
        BatchQueue[Request](policy(), CostTable({Bucket(1): 1.0}), (None,), device, name)
        for name in ("busy", "idle")
    )
    busy.offer(Request("a", 100), 0)
    now = 0.0
    for _ in range(20):
        _, now = served(busy, now)
    idle.offer(Request("b", 100), now)
    turns = ""
    for _ in range(6):
        decision = idle.poll(now)
        turns += "i" if isinstance(decision, Launch) else "b"
        queue = idle if isinstance(decision, Launch) else busy
        launch = decision if isinstance(decision, Launch) else launched(busy, now)
        now = launch.flight.lands_at
        queue.landed(launch, now)
    assert turns in ("ibibib", "bibibi")


# --- whatever happens, in whatever order ---------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Offers, polls, landings, cancellations and the passing of time, against a plain list."""

    requests = Bundle("requests")

    @initialize(
        depth=st.integers(1, 3),
        max_wait_s=st.sampled_from([0.0, 0.5, 3.0]),
        max_rows=st.integers(1, 80),
    )
    def start(self, depth: int, max_wait_s: float, max_rows: int) -> None:
        self.policy = Policy(max_wait_s, max_rows, depth)
        self.costs = two_lanes()
        self.queue: BatchQueue[Request] = BatchQueue(self.policy, self.costs, (16, 64))
        self.waiting: dict[Request, int] = {}  # to the first row that waits
        self.flying: list[Launch[Request]] = []
        self.offered = self.left = self.launches = 0
        self.now = 0.0

    @rule(
        target=requests,
        rows=st.integers(1, 9),
        lane=st.sampled_from([16, 64]),
        patience=st.integers(0, 160),
        priority=st.sampled_from([1, 5]),
    )
    def offer(self, rows: int, lane: int, patience: int, priority: int) -> Request:
        name = f"r{self.offered}"
        request = Request(name, rows, self.now, self.now + patience / 4, lane, priority)
        room = self.rows_waiting() + rows <= self.policy.max_rows
        assert self.queue.has_room(rows) == room
        excess = self.queue.excess(request, self.now)
        assert excess >= self.now + self.costs.hope(lane, 1) - request.deadline
        if room and not self.queue.closed:
            self.queue.offer(request, self.now)
            self.waiting[request] = 0
            self.offered += rows
        return request

    @rule(request=requests)
    def discard(self, request: Request) -> None:
        self.queue.discard(request)
        self.leave([request])

    @rule(quarters=st.integers(1, 12))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @precondition(lambda self: self.flying)
    @rule(failed=st.booleans())
    def land(self, failed: bool) -> None:
        launch = self.flying.pop(0)
        assert self.queue.landed(launch, self.now, failed=failed) >= 0
        self.queue.correct()

    @precondition(lambda self: len(self.flying) > 1)
    @rule()
    def lose(self) -> None:
        self.queue.lost(self.flying.pop(), self.now)

    @rule()
    def poll(self) -> None:
        decision = self.queue.poll(self.now)
        match decision:
            case Launch():
                self.check_launch(decision)
                self.flying.append(decision)
            case Expire(requests):
                late = [r for r in self.waiting if self.hopeless(r)]
                assert list(requests) == late != []
                self.leave(late)
            case Wait(until):
                self.check_wait(until)
            case Stop():
                assert self.queue.closed
                assert not self.waiting

    # seldom, so that most of a run happens with the queue open
    @precondition(lambda self: self.offered > 60)
    @rule()
    def close(self) -> None:
        self.queue.close()

    @precondition(lambda self: self.offered > 60)
    @rule()
    def clear(self) -> None:
        assert list(self.queue.clear()) == list(self.waiting)
        self.leave(list(self.waiting))

    @invariant()
    def rows_and_requests_are_those_that_wait(self) -> None:
        assert self.queue.queued_rows == self.rows_waiting() <= self.policy.max_rows
        assert self.queue.queued_requests == len(self.waiting)
        assert self.queue.in_flight == len(self.flying) <= self.policy.depth
        assert self.queue.drain_seconds(self.now) >= 0

    def teardown(self) -> None:
        """Close, and every row that was offered leaves exactly once."""
        if not hasattr(self, "queue"):
            return
        self.queue.close()
        for _ in range(1000):
            if self.flying:
                self.land(False)
            elif not self.waiting:
                break
            self.poll()
        assert isinstance(self.queue.poll(self.now), Stop)
        assert self.left == self.offered

    def check_launch(self, launch: Launch[Request]) -> None:
        """It takes the next rows of its lanes, in order, and no more than the bucket holds."""
        self.launches += 1
        by_deadline = self.launches % GUARD == 0
        lanes = {piece.request.lane for piece in launch.pieces}
        assert max(lane for lane in lanes if lane) <= (launch.bucket.length or 0)
        assert 1 <= launch.rows <= launch.bucket.rows
        assert launch.reason in REASONS
        best = self.costs.best(launch.bucket.length).rows
        assert (launch.reason == "full") == (launch.rows == launch.bucket.rows >= best)
        order = [(0 if by_deadline else r.priority, r.deadline) for r in self.waiting]
        first = launch.pieces[0].request
        assert (0 if by_deadline else first.priority, first.deadline) == min(order)
        taken = [(0 if by_deadline else p.request.priority, p.request.deadline)
                 for p in launch.pieces]  # fmt: skip
        assert taken == sorted(taken)
        for piece in launch.pieces:
            request = piece.request
            assert self.waiting[request] == piece.start
            assert not self.hopeless(request)
            self.left += piece.count
            if piece.start + piece.count < request.rows:
                assert piece is launch.pieces[-1]
                self.waiting[request] = piece.start + piece.count
            else:
                del self.waiting[request]
        if launch.rows < launch.bucket.rows:
            assert not any(r.lane in lanes for r in self.waiting), "there was room for them"

    def check_wait(self, until: float | None) -> None:
        """Nothing was due, and what may become due is not slept through."""
        assert until is None or until > self.now
        if not self.waiting:
            assert not self.queue.closed
            return
        assert not any(self.hopeless(request) for request in self.waiting)
        assert until is not None
        assert until <= min(r.deadline - self.costs.hope(r.lane, 1) for r in self.waiting)
        assert self.flying, "a free device is held in a closed loop only, and this is none"
        if len(self.flying) < self.policy.depth:
            assert self.now < self.flying[-1].flight.lands_at, "nor is one that should be free"

    def hopeless(self, request: Request) -> bool:
        return request.deadline - self.costs.hope(request.lane, 1) <= self.now

    def rows_waiting(self) -> int:
        return sum(request.rows - start for request, start in self.waiting.items())

    def leave(self, requests: list[Request]) -> None:
        """These have left, with all their rows that still waited."""
        for request in requests:
            if request in self.waiting:
                self.left += request.rows - self.waiting.pop(request)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
