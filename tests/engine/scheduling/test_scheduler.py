"""The scheduler: a table of decisions, and invariants that hold for any order of events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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

from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import SOLVE_EVERY, CostTable
from engine.scheduling.fair_share import FairShareTimeline
from engine.scheduling.request_queue import DEFAULT_PRIORITY
from engine.scheduling.scheduler import (
    REASONS,
    STARVATION_INTERVAL,
    Expire,
    Launch,
    Scheduler,
    SchedulerOptions,
    Stop,
    Wait,
)


@dataclass(frozen=True, eq=False)
class Request:
    """What the scheduler reads of a request, and a name."""

    name: str
    rows: int = 1
    enqueued_at: float = 0.0
    deadline: float = 100.0
    bucket_length: int | None = None
    priority: int = DEFAULT_PRIORITY

    def __repr__(self) -> str:
        return self.name


Decision = Launch[Request] | Expire[Request] | Wait | Stop


def text(decision: Decision) -> str:
    """A decision as one line: `launch 8: a[0:3] b[0:5] (full)`."""
    match decision:
        case Launch(bucket, slices, reason):
            rows = " ".join(f"{p.request}[{p.start}:{p.start + p.count}]" for p in slices)
            return f"launch {bucket}: {rows} ({reason})"
        case Expire(requests):
            return f"expire {' '.join(map(str, requests))}"
        case Wait(until):
            return "wait" if until is None else f"wait until {until:g}"
        case Stop():
            return "stop"


def enqueue(scheduler: Scheduler[Request], request: Request, now: float) -> None:
    """Queue a request, whatever its quote."""
    scheduler.enqueue(request, scheduler.quote(request, now), now)


def options(**changes: Any) -> SchedulerOptions:
    return SchedulerOptions(**({"max_wait_s": 2.0, "max_rows": 1000, "depth": 2} | changes))


def steep() -> CostTable:
    """16 rows cost clearly more than 8, as on a CPU."""
    return CostTable({Bucket(1): 0.5, Bucket(8): 1.0, Bucket(16): 1.5})


def flat() -> CostTable:
    """16 rows cost hardly more than 8, as on a GPU."""
    return CostTable({Bucket(1): 1.0, Bucket(8): 1.02, Bucket(16): 1.05})


def two_lengths() -> CostTable:
    """Rows of the shorter length are not worth a place in the longer bucket."""
    return CostTable(
        {Bucket(1, 16): 0.5, Bucket(4, 16): 0.8, Bucket(1, 64): 5.0, Bucket(4, 64): 8.0}
    )


@dataclass(frozen=True)
class Case:
    """The queue at 10. `in_flight` are rows that were launched at 9.5, in full buckets of 8."""

    queued: Iterable[Request]
    expected: str
    in_flight: int = 0
    closed: bool = False
    costs: CostTable = field(default_factory=steep)
    bucket_lengths: tuple[int | None, ...] = (None,)
    options: SchedulerOptions = field(default_factory=options)


TABLE = {
    # the device is free
    "nothing-is-queued": Case([], "wait"),
    "idle-launches-the-queued-rows-at-once": Case([Request("a")], "launch 1: a[0:1] (idle)"),
    "idle-launches-the-bucket-of-the-policy": Case(
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
    "a-request-larger-than-every-bucket-is-split": Case(
        [Request("a", 40)], "launch 16: a[0:16] (full)"
    ),
    "a-small-request-before-a-large-one-that-can-wait": Case(
        [Request("a", 40), Request("b")], "launch 16: b[0:1] a[0:15] (full)"
    ),
    "and-not-before-one-that-would-be-late": Case(
        [Request("a", 48, deadline=15), Request("b", 1, deadline=16.5)], "launch 16: a[0:16] (full)"
    ),
    # the device is busy
    "busy-until-it-is-free": Case([Request("a")], "wait until 10.5", in_flight=8),
    "a-full-batch-is-not-assembled-earlier": Case(
        [Request("a", 16)], "wait until 10.5", in_flight=8
    ),
    "busy-and-a-deadline-comes-first": Case(
        [Request("a", deadline=10.75)], "wait until 10.25", in_flight=8
    ),
    "at-the-depth-it-waits-for-a-completion": Case(
        [Request("a", 16)], "wait until 99.5", in_flight=16
    ),
    "at-the-depth-and-nothing-is-queued": Case([], "wait", in_flight=16),
    "a-depth-of-one": Case(
        [Request("a", 16)], "wait until 99.5", in_flight=8, options=options(depth=1)
    ),
    # several lengths
    "lengths-do-not-share-a-bucket-where-that-is-expensive": Case(
        [
            Request("a", bucket_length=16),
            Request("b", bucket_length=64),
            Request("c", 3, bucket_length=16),
        ],
        "launch 4x16: a[0:1] c[0:3] (full)",
        costs=two_lengths(),
        bucket_lengths=(16, 64),
    ),
    "the-length-of-the-first-request": Case(
        [Request("a", bucket_length=16, deadline=60), Request("b", bucket_length=64, deadline=50)],
        "launch 1x64: b[0:1] (idle)",
        costs=two_lengths(),
        bucket_lengths=(16, 64),
    ),
    # expiry
    "a-request-that-cannot-be-answered-in-time-expires": Case(
        [Request("a", deadline=10.5), Request("b"), Request("c", deadline=9)], "expire a c"
    ),
    "judged-by-the-cheapest-bucket-of-its-length": Case(
        [Request("a", deadline=11, bucket_length=16), Request("b", deadline=11, bucket_length=64)],
        "expire b",
        costs=two_lengths(),
        bucket_lengths=(16, 64),
    ),
    "a-moment-before-it-is-launched": Case(
        [Request("a", deadline=10.5001)], "launch 1: a[0:1] (idle)"
    ),
    "requests-expire-before-a-launch": Case(
        [Request("a", 16), Request("b", deadline=10)], "expire b"
    ),
    "requests-expire-at-the-depth-too": Case([Request("a", deadline=10)], "expire a", in_flight=16),
    "requests-expire-when-closed-too": Case([Request("a", deadline=10)], "expire a", closed=True),
    # closed
    "closed-drains": Case([Request("a", 3)], "launch 8: a[0:3] (drain)", closed=True, costs=flat()),
    "closed-keeps-to-the-depth": Case([Request("a")], "wait until 99.5", in_flight=16, closed=True),
    "closed-and-empty-stops": Case([], "stop", closed=True),
    "closed-and-empty-stops-with-a-batch-in-flight": Case([], "stop", in_flight=8, closed=True),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_poll_decides(case: Case) -> None:
    scheduler: Scheduler[Request] = Scheduler(case.options, case.costs, case.bucket_lengths)
    launch_full(scheduler, case.in_flight, 9.5)
    for request in case.queued:
        enqueue(scheduler, request, 10.0)
    if case.closed:
        scheduler.close()
    assert text(scheduler.poll(10.0)) == case.expected


def launch_full(scheduler: Scheduler[Request], rows: int, now: float) -> list[Launch[Request]]:
    """Launch so many rows in buckets of 8, one behind the other."""
    launches = []
    for number in range(rows // 8):
        enqueue(scheduler, Request(f"in_flight{number}", 8), now)
        # when the next batch would be assembled while this one runs
        decision = scheduler.poll(now + number)
        assert isinstance(decision, Launch)
        launches.append(decision)
    return launches


# --- several decisions in a row ------------------------------------------------------------------


@pytest.fixture
def scheduler() -> Scheduler[Request]:
    """At most 50 rows are queued, and ten batches in flight."""
    return Scheduler(options(max_rows=50, depth=10), steep(), (None,))


def launched(scheduler: Scheduler[Request], now: float) -> Launch[Request]:
    decision = scheduler.poll(now)
    assert isinstance(decision, Launch), text(decision)
    return decision


def served(scheduler: Scheduler[Request], now: float) -> tuple[str, float]:
    """One batch is launched and completes when it should: the decision, and when it completed."""
    launch = launched(scheduler, now)
    ends_at = launch.in_flight_batch.ends_at
    scheduler.complete(launch, ends_at)
    return text(launch), ends_at


def test_a_large_request_is_split_in_order_and_its_rest_stays_at_the_front(
    scheduler: Scheduler[Request],
) -> None:
    enqueue(scheduler, Request("a", 35), 0)
    enqueue(scheduler, Request("b", 6), 0)
    scheduler.close()
    now, lines = 0.0, []
    while scheduler.queue.total_rows:
        line, now = served(scheduler, now)
        lines.append(line)
    assert lines == [
        "launch 16: b[0:6] a[0:10] (full)",
        "launch 16: a[10:26] (full)",
        "launch 16: a[26:35] (drain)",
    ]
    assert text(scheduler.poll(now)) == "stop"


def test_the_next_batch_is_assembled_as_much_earlier_as_gathering_takes() -> None:
    scheduler: Scheduler[Request] = Scheduler(options(), flat(), (None,))
    enqueue(scheduler, Request("a"), 0)
    launch = launched(scheduler, 0)
    for _ in range(200):
        scheduler.started(launch, launch.in_flight_batch.launched_at + 0.1)
    enqueue(scheduler, Request("b"), 0)
    decision = scheduler.poll(0)
    assert isinstance(decision, Wait)
    assert decision.until == pytest.approx(0.9, abs=1e-6)
    assert text(scheduler.poll(0.95)) == "launch 1: b[0:1] (next)"


def test_a_batch_for_a_device_that_is_about_to_be_free_is_the_next_one() -> None:
    scheduler: Scheduler[Request] = Scheduler(options(), flat(), (None,))
    enqueue(scheduler, Request("a"), 0)
    launch = launched(scheduler, 0)
    scheduler.started(launch, 0.1)
    enqueue(scheduler, Request("b", 3), 0)
    assert text(scheduler.poll(0.95)) == "launch 8: b[0:3] (next)"


def test_the_next_batch_is_assembled_earlier_if_batches_complete_early() -> None:
    scheduler: Scheduler[Request] = Scheduler(options(), flat(), (None,))
    now = 0.0
    for number in range(4):
        enqueue(scheduler, Request(f"r{number}"), now)
        launch = launched(scheduler, now)
        scheduler.complete(launch, now + 0.75)
        now += 0.75
    enqueue(scheduler, Request("a"), now)
    launched(scheduler, now)
    enqueue(scheduler, Request("b"), now)
    assert text(scheduler.poll(now)) == f"wait until {now + 0.75:g}"


def test_while_rows_wait_for_the_device_arrivals_need_no_wake_up(
    scheduler: Scheduler[Request],
) -> None:
    assert scheduler.wakes_on_arrival
    enqueue(scheduler, Request("a"), 0)
    launched(scheduler, 0)
    assert scheduler.wakes_on_arrival
    enqueue(scheduler, Request("b"), 0)
    scheduler.poll(0)
    assert not scheduler.wakes_on_arrival
    scheduler.poll(0.5)
    assert scheduler.wakes_on_arrival


def test_a_launch_is_in_flight_until_it_completes_or_is_aborted(
    scheduler: Scheduler[Request],
) -> None:
    enqueue(scheduler, Request("a"), 0)
    first = launched(scheduler, 0)
    assert scheduler.in_flight == 1
    assert scheduler.complete(first, 0.75) == 0.75
    assert scheduler.in_flight == 0
    enqueue(scheduler, Request("b"), 1)
    scheduler.abort(launched(scheduler, 1), 1.25)
    assert scheduler.in_flight == 0
    enqueue(scheduler, Request("c"), 1.25)
    assert text(scheduler.poll(1.25)) == "launch 1: c[0:1] (idle)"


def test_costs_are_learned_from_batches_that_did_not_fail() -> None:
    costs = steep()
    scheduler: Scheduler[Request] = Scheduler(options(), costs, (None,))
    for begins, failed, expected in ((0, True, 0.5), (20, False, 0.75)):
        for now in range(begins, begins + 20, 2):
            enqueue(scheduler, Request("a"), now)
            scheduler.complete(launched(scheduler, now), now + 0.75, failed=failed)
        scheduler.costs.correct(scheduler.costs.samples())
        assert costs.seconds(Bucket(1)) == expected


def test_a_request_expires_once(scheduler: Scheduler[Request]) -> None:
    enqueue(scheduler, Request("in_flight", 8), 0)
    launched(scheduler, 0)
    enqueue(scheduler, Request("a", deadline=0.75), 0)
    enqueue(scheduler, Request("b", deadline=1.25), 0)
    assert [text(scheduler.poll(now)) for now in (0.0, 0.25, 0.25, 0.75, 0.75)] == [
        "wait until 0.25",
        "expire a",
        "wait until 0.75",
        "expire b",
        "wait",
    ]


def test_only_queued_rows_expire(scheduler: Scheduler[Request]) -> None:
    enqueue(scheduler, Request("a", 20, deadline=5), 0)
    assert text(scheduler.poll(0)) == "launch 16: a[0:16] (full)"
    assert scheduler.queue.total_rows == 4
    assert text(scheduler.poll(4.5)) == "expire a"
    assert scheduler.queue.total_rows == 0


def test_a_discarded_request_is_gone_and_discarding_again_does_nothing(
    scheduler: Scheduler[Request],
) -> None:
    gone = Request("a", 20)
    enqueue(scheduler, gone, 0)
    assert text(scheduler.poll(0)) == "launch 16: a[0:16] (full)"
    enqueue(scheduler, Request("b", 8), 0)
    scheduler.discard(gone)
    scheduler.discard(gone)
    assert (scheduler.queue.total_rows, len(scheduler.queue)) == (8, 1)
    scheduler.close()
    assert text(scheduler.poll(1.5)) == "launch 8: b[0:8] (drain)"


def test_clear_removes_all_requests(scheduler: Scheduler[Request]) -> None:
    requests = [Request(name, 2) for name in "abc"]
    for request in requests:
        enqueue(scheduler, request, 0)
    assert scheduler.clear() == tuple(requests)
    assert (scheduler.queue.total_rows, len(scheduler.queue)) == (0, 0)
    assert scheduler.clear() == ()


def test_room_is_counted_in_rows_not_in_requests(scheduler: Scheduler[Request]) -> None:
    for number in range(16):
        enqueue(scheduler, Request(f"a{number}", 3), 0)
    assert scheduler.has_room(2)
    assert not scheduler.has_room(3)


def test_the_time_to_drain_is_that_of_batches_in_flight_and_queued_rows(
    scheduler: Scheduler[Request],
) -> None:
    assert scheduler.drain_seconds(0) == 0.0
    enqueue(scheduler, Request("a", 33), 0)
    assert scheduler.drain_seconds(0) == 2 * 1.5 + 0.5
    launched(scheduler, 0)
    assert scheduler.drain_seconds(0.5) == 1.0 + 1.5 + 0.5


def test_enqueueing_beyond_the_limit_or_after_close_is_a_bug(
    scheduler: Scheduler[Request],
) -> None:
    for number in range(25):
        enqueue(scheduler, Request(f"a{number}", 2), 0)
    with pytest.raises(
        AssertionError, match=r"rows \{None: 50\}, 0 batches in flight> cannot take b"
    ):
        enqueue(scheduler, Request("b"), 0)
    scheduler.close()
    with pytest.raises(AssertionError, match=r"closed> cannot take b; this is a bug"):
        enqueue(scheduler, Request("b"), 0)


def test_the_policy_is_solved_again_when_the_costs_have_changed() -> None:
    costs = steep()
    scheduler: Scheduler[Request] = Scheduler(options(), costs, (None,))
    for number in range(64):
        costs.observe(Bucket(16 if number % 2 else 1), 9.0 if number % 2 else 0.5)
    for _ in range(SOLVE_EVERY):
        scheduler.costs.correct(scheduler.costs.samples())
    enqueue(scheduler, Request("a", 16), 0)
    assert text(scheduler.poll(0)) == "launch 8: a[0:8] (full)"


# --- closed loops --------------------------------------------------------------------------------

# eight rows cost hardly more than one: one batch for all clients takes less than two halves
TOGETHER = {Bucket(1): 1.0, Bucket(8): 1.25}


def loop(scheduler: Scheduler[Request], clients: int, rounds: int) -> float:
    """Clients send again 0.1 s after their answer, until that is detected. Returns the time."""
    now, sent = 0.0, [Request(f"c{n}") for n in range(clients)]
    for _ in range(rounds):
        for request in sent:
            enqueue(scheduler, Request(request.name, 1, now, now + 100), now)
        while scheduler.queue.total_rows or scheduler.in_flight:
            decision = scheduler.poll(now)
            if isinstance(decision, Launch):
                now = decision.in_flight_batch.ends_at
                scheduler.complete(decision, now)
            else:
                assert isinstance(decision, Wait)
                assert decision.until is not None
                now = decision.until
        now += 0.1
    return now


def looped(max_wait_s: float = 2.0) -> tuple[Scheduler[Request], float]:
    """Eight clients in a detected loop, all of which were answered 0.1 s ago."""
    scheduler: Scheduler[Request] = Scheduler(
        options(max_wait_s=max_wait_s), CostTable(TOGETHER), (None,)
    )
    return scheduler, loop(scheduler, 8, 200)


def test_in_a_closed_loop_a_launch_is_delayed_for_returning_clients() -> None:
    scheduler, now = looped()
    for number in range(4):
        enqueue(scheduler, Request(f"r{number}", deadline=now + 100), now)
    decision = scheduler.poll(now)
    assert isinstance(decision, Wait)
    assert decision.until is not None
    assert now < decision.until <= now + 0.1
    for number in range(4, 7):
        enqueue(scheduler, Request(f"r{number}", deadline=now + 100), now)
    assert isinstance(scheduler.poll(now), Wait)
    assert text(scheduler.poll(decision.until)).endswith("(held)"), "and no longer"


def test_when_all_clients_are_back_no_launch_is_delayed() -> None:
    scheduler, now = looped()
    for number in range(8):
        enqueue(scheduler, Request(f"r{number}", deadline=now + 100), now)
    assert text(scheduler.poll(now)).startswith("launch 8")


@pytest.mark.parametrize(
    ("deadline", "max_wait_s", "closed"),
    [
        pytest.param(1.26, 2.0, False, id="not-past-a-deadline"),
        pytest.param(100.0, 0.01, False, id="not-longer-than-allowed"),
        pytest.param(100.0, 0.0, False, id="not-at-all"),
        pytest.param(100.0, 2.0, True, id="not-when-closed"),
    ],
)
def test_a_launch_is_not_delayed(deadline: float, max_wait_s: float, closed: bool) -> None:
    scheduler, now = looped(max_wait_s)
    enqueue(scheduler, Request("a", 4, now, now + deadline), now)
    if closed:
        scheduler.close()
    assert isinstance(scheduler.poll(now), Launch)


def test_a_delay_that_ended_with_an_empty_queue_is_over() -> None:
    scheduler, now = looped()
    request = Request("a", 4, now, now + 100)
    enqueue(scheduler, request, now)
    assert isinstance(scheduler.poll(now), Wait)
    scheduler.discard(request)
    assert text(scheduler.poll(now)) == "wait"
    enqueue(scheduler, Request("b", 4, now, now + 100), now + 50)
    assert text(scheduler.poll(now + 50)) == "launch 8: b[0:4] (idle)"


# --- priorities, and several models --------------------------------------------------------------


def test_a_permanent_backlog_of_a_higher_priority_starves_no_request() -> None:
    """Two seconds of rows of priority 1 are always queued; one of priority 9 has a minute."""
    scheduler: Scheduler[Request] = Scheduler(options(), CostTable({Bucket(8): 1.0}), (None,))
    low = Request("low", deadline=60.0, priority=9)
    enqueue(scheduler, low, 0.0)
    now, launches = 0.0, 0
    while True:
        while scheduler.queue.total_rows < 16:
            enqueue(scheduler, Request("high", 1, now, now + 10.0, None, 1), now)
        launch = launched(scheduler, now)
        launches += 1
        now = launch.in_flight_batch.ends_at
        scheduler.complete(launch, now)
        if any(row_slice.request is low for row_slice in launch.slices):
            break
    assert now <= low.deadline
    assert launches % STARVATION_INTERVAL == 0, "it was not launched by priority"
    assert launches > 5 * STARVATION_INTERVAL, "nor before requests with earlier deadlines"


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("gather_s", [0.0, 0.25])
def test_models_with_a_backlog_share_the_device_by_weight(depth: int, gather_s: float) -> None:
    timeline, schedulers = FairShareTimeline(), []
    for weight, seconds in ((1.0, 1.0), (2.0, 4.0), (3.0, 2.0)):
        costs = CostTable({Bucket(1): seconds})
        schedulers.append(
            Scheduler(
                options(depth=depth, max_rows=9000), costs, (None,), timeline, f"m{weight}", weight
            )
        )
        enqueue(schedulers[-1], Request("all", 9000, deadline=1e9), 0)
    got = dict.fromkeys(schedulers, 0.0)
    in_flight: list[tuple[Scheduler[Request], Launch[Request]]] = []
    now = 0.0
    for _ in range(500):
        polled = True
        timers: list[float] = []
        while polled:
            polled, timers = False, []
            for scheduler in schedulers:
                decision = scheduler.poll(now)
                if isinstance(decision, Launch):
                    in_flight.append((scheduler, decision))
                    polled = True
                elif isinstance(decision, Wait) and decision.until is not None:
                    timers.append(decision.until)
        ends_at = in_flight[0][1].in_flight_batch.ends_at
        now = min([ends_at, *timers])
        if now == ends_at:
            scheduler, launch = in_flight.pop(0)
            scheduler.started(launch, launch.in_flight_batch.launched_at + gather_s)
            got[scheduler] += scheduler.complete(launch, now)
    one, two, three = got.values()
    assert two / one == pytest.approx(2, rel=0.05)
    assert three / one == pytest.approx(3, rel=0.05)


def test_a_cleared_scheduler_does_not_hold_up_other_models() -> None:
    timeline = FairShareTimeline()
    mine, other = (
        Scheduler[Request](options(), steep(), (None,), timeline, name)
        for name in ("mine", "other")
    )
    enqueue(other, Request("b", 50), 0)
    enqueue(mine, Request("a"), 0)
    launch = launched(mine, 0)
    other.poll(0.0)
    mine.complete(launch, 0.5)
    enqueue(mine, Request("c"), 0.5)
    assert text(mine.poll(0.5)) == "wait until 99.5", "the other is next"
    other.clear()
    assert text(mine.poll(0.5)) == "launch 1: c[0:1] (idle)"


def test_a_model_that_was_idle_has_no_credit() -> None:
    timeline = FairShareTimeline()
    busy, idle = (
        Scheduler[Request](options(), CostTable({Bucket(1): 1.0}), (None,), timeline, name)
        for name in ("busy", "idle")
    )
    enqueue(busy, Request("a", 100), 0)
    now = 0.0
    for _ in range(20):
        _, now = served(busy, now)
    enqueue(idle, Request("b", 100), now)
    launches = ""
    for _ in range(6):
        decision = idle.poll(now)
        launches += "i" if isinstance(decision, Launch) else "b"
        scheduler = idle if isinstance(decision, Launch) else busy
        launch = decision if isinstance(decision, Launch) else launched(busy, now)
        now = launch.in_flight_batch.ends_at
        scheduler.complete(launch, now)
    assert launches in ("ibibib", "bibibi")


# --- any events in any order ---------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, polls, completions, cancellations and time, against a plain list."""

    requests = Bundle("requests")

    @initialize(
        depth=st.integers(1, 3),
        max_wait_s=st.sampled_from([0.0, 0.5, 3.0]),
        max_rows=st.integers(1, 80),
    )
    def start(self, depth: int, max_wait_s: float, max_rows: int) -> None:
        self.options = SchedulerOptions(max_wait_s, max_rows, depth)
        self.costs = two_lengths()
        self.scheduler: Scheduler[Request] = Scheduler(self.options, self.costs, (16, 64))
        self.queued: dict[Request, int] = {}  # request -> its first queued row
        self.in_flight: list[Launch[Request]] = []
        self.enqueued = self.left = self.launches = 0
        self.now = 0.0

    @rule(
        target=requests,
        rows=st.integers(1, 9),
        bucket_length=st.sampled_from([16, 64]),
        patience=st.integers(0, 160),
        priority=st.sampled_from([1, 5]),
    )
    def enqueue(self, rows: int, bucket_length: int, patience: int, priority: int) -> Request:
        name = f"r{self.enqueued}"
        request = Request(name, rows, self.now, self.now + patience / 4, bucket_length, priority)
        room = self.scheduler.has_room(rows)
        quote = self.scheduler.quote(request, self.now)
        least = self.costs.optimistic_seconds(bucket_length, 1)
        assert quote.lateness_s >= self.now + least - request.deadline
        assert quote.finish_at >= self.now
        if room and not self.scheduler.queue.closed:
            self.scheduler.enqueue(request, quote, self.now)
            self.queued[request] = 0
            self.enqueued += rows
        return request

    @rule(request=requests)
    def discard(self, request: Request) -> None:
        self.scheduler.discard(request)
        self.leave([request])

    @rule(quarters=st.integers(1, 12))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @precondition(lambda self: self.in_flight)
    @rule(failed=st.booleans())
    def complete(self, failed: bool) -> None:
        launch = self.in_flight.pop(0)
        assert self.scheduler.complete(launch, self.now, failed=failed) >= 0
        self.scheduler.costs.correct(self.scheduler.costs.samples())

    @precondition(lambda self: len(self.in_flight) > 1)
    @rule()
    def abort(self) -> None:
        self.scheduler.abort(self.in_flight.pop(), self.now)

    @rule()
    def poll(self) -> None:
        decision = self.scheduler.poll(self.now)
        match decision:
            case Launch():
                self.check_launch(decision)
                self.in_flight.append(decision)
            case Expire(requests):
                late = [r for r in self.queued if self.too_late(r)]
                assert list(requests) == late != []
                self.leave(late)
            case Wait(until):
                self.check_wait(until)
            case Stop():
                assert self.scheduler.queue.closed
                assert not self.queued

    # seldom, so that the queue is open during most of a run
    @precondition(lambda self: self.enqueued > 60)
    @rule()
    def close(self) -> None:
        self.scheduler.close()

    @precondition(lambda self: self.enqueued > 60)
    @rule()
    def clear(self) -> None:
        assert list(self.scheduler.clear()) == list(self.queued)
        self.leave(list(self.queued))

    @invariant()
    def rows_and_requests_are_those_of_the_list(self) -> None:
        assert self.scheduler.queue.total_rows == self.queued_rows()
        assert self.scheduler.queue.places_taken <= self.options.max_rows
        assert len(self.scheduler.queue) == len(self.queued)
        assert self.scheduler.in_flight == len(self.in_flight) <= self.options.depth
        assert self.scheduler.drain_seconds(self.now) >= 0

    def teardown(self) -> None:
        """Close, and every row that was enqueued leaves exactly once."""
        if not hasattr(self, "queue"):
            return
        self.scheduler.close()
        for _ in range(1000):
            if self.in_flight:
                self.complete(False)
            elif not self.queued:
                break
            self.poll()
        assert isinstance(self.scheduler.poll(self.now), Stop)
        assert self.left == self.enqueued

    def check_launch(self, launch: Launch[Request]) -> None:
        """It takes the next rows of its lengths, in order, and no more than the bucket holds."""
        self.launches += 1
        by_deadline = self.launches % STARVATION_INTERVAL == 0
        bucket_lengths = {row_slice.request.bucket_length for row_slice in launch.slices}
        assert max(bucket_length for bucket_length in bucket_lengths if bucket_length) <= (
            launch.bucket.length or 0
        )
        assert 1 <= launch.rows <= launch.bucket.rows
        assert launch.reason in REASONS
        best = self.costs.best(launch.bucket.length).rows
        assert (launch.reason == "full") == (launch.rows == launch.bucket.rows >= best)
        assert any(self.follows(launch, key) for key in self.keys(by_deadline)), "in no order"
        for row_slice in launch.slices:
            request = row_slice.request
            assert self.queued[request] == row_slice.start
            assert not self.too_late(request)
            self.left += row_slice.count
            if row_slice.start + row_slice.count < request.rows:
                assert row_slice is launch.slices[-1]
                self.queued[request] = row_slice.start + row_slice.count
            else:
                del self.queued[request]
        if launch.rows < launch.bucket.rows:
            assert not any(r.bucket_length in bucket_lengths for r in self.queued), (
                "there was room for them"
            )

    def keys(self, by_deadline: bool) -> list[Callable[[Request], tuple[float, ...]]]:
        """What a batch may be sorted by."""
        if by_deadline:
            return [lambda request: (request.deadline,)]
        batch_rows = self.scheduler.queue.batch_rows

        def size(request: Request) -> int:
            return ((request.rows - 1) // batch_rows[request.bucket_length]).bit_length()

        return [
            lambda request: (request.priority, size(request), request.deadline),
            lambda request: (request.priority, request.deadline),
        ]

    def follows(self, launch: Launch[Request], key: Callable[[Request], tuple[float, ...]]) -> bool:
        """Whether the batch holds the first request, and all are in this order."""
        taken = [key(row_slice.request) for row_slice in launch.slices]
        return taken == sorted(taken) and taken[0] == min(map(key, self.queued))

    def check_wait(self, until: float | None) -> None:
        """Nothing was due, and the wait ends before anything becomes due."""
        assert until is None or until > self.now
        if not self.queued:
            assert not self.scheduler.queue.closed
            return
        assert not any(self.too_late(request) for request in self.queued)
        assert until is not None
        assert until <= min(map(self.expires_at, self.queued))
        assert self.in_flight, "only closed loops delay a launch on a free device"
        if len(self.in_flight) < self.options.depth:
            assert self.now < self.in_flight[-1].in_flight_batch.ends_at, (
                "nor on one that should be free"
            )

    def expires_at(self, request: Request) -> float:
        return request.deadline - self.costs.optimistic_seconds(request.bucket_length, 1)

    def too_late(self, request: Request) -> bool:
        return self.expires_at(request) <= self.now

    def queued_rows(self) -> int:
        return sum(request.rows - start for request, start in self.queued.items())

    def leave(self, requests: list[Request]) -> None:
        """These have left, with all their queued rows."""
        for request in requests:
            if request in self.queued:
                self.left += request.rows - self.queued.pop(request)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
