"""Threads for calls that may block: how many, for how long, and what is refused instead."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest

from app.worker.calls.estimate import expected_s, finish_s
from app.worker.calls.job import Job, Phase
from app.worker.calls.lane import HANGS_S, MOST_WAITING, LaneLoad
from app.worker.calls.pool import OWN, OWN_THREADS, Pool
from app.worker.calls.refusal import Reason
from engine.testing import FakeClock
from tests.app.conftest import PATIENCE_S
from tests.app.worker.conftest import LaneByHand


def nothing() -> None:
    pass


def made(pool: Pool, call: Callable[[], object]) -> None:
    """Make a call and wait for it."""
    done = threading.Event()
    assert pool.submit("lane", Job(call, done=done.set)) is None
    assert done.wait(PATIENCE_S)


# --- with threads ---------------------------------------------------------------------------------


def test_a_lane_has_no_more_threads_than_it_may_and_survives_a_call_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool, names, done = Pool(2), set(), threading.Semaphore(0)
    gate = threading.Barrier(2, timeout=PATIENCE_S)

    def call(fails: bool) -> None:
        names.add(threading.current_thread())
        gate.wait()
        if fails:
            raise ZeroDivisionError

    for number in range(6):
        job = Job(lambda number=number: call(number < 2), done=done.release)
        assert pool.submit("lane", job) is None
    for _ in range(6):
        assert done.acquire(timeout=PATIENCE_S)
    assert len(names) == 2
    pool.close()
    for thread in names:
        thread.join(PATIENCE_S)
    assert caplog.text.count("a call in the pool failed") == 2


def test_a_call_that_ends_its_thread_does_not() -> None:
    pool = Pool(1)
    made(pool, sys.exit)
    made(pool, nothing)
    pool.close()


def test_no_lane_waits_for_the_threads_of_another() -> None:
    pool, gate, done = Pool(2), threading.Event(), threading.Semaphore(0)
    for _ in range(10):
        pool.submit("hangs", Job(lambda: gate.wait(PATIENCE_S), done=done.release))
    made(pool, nothing)
    gate.set()
    for _ in range(10):
        assert done.acquire(timeout=PATIENCE_S)
    pool.close()


def test_a_call_that_hangs_is_given_up_and_another_thread_takes_its_place() -> None:
    pool, gate, lost = Pool(1), threading.Event(), threading.Event()
    began = threading.Event()
    hangs = Job(lambda: (began.set(), gate.wait(PATIENCE_S)), done=nothing, lost=lost.set)
    pool.submit("lane", hangs)
    assert began.wait(PATIENCE_S)
    assert hangs.give_up()
    made(pool, nothing)
    assert pool.load()["lane"].stuck == 1
    gate.set()
    assert lost.wait(PATIENCE_S)
    made(pool, nothing)
    pool.close()


def test_own_routes_have_a_thread_before_the_first_request() -> None:
    pool = Pool(16)
    pool.prepare(OWN)
    assert [t.name for t in threading.enumerate()].count("brim-own") == 1
    pool.prepare(OWN)
    assert [t.name for t in threading.enumerate()].count("brim-own") <= OWN_THREADS
    pool.close()


def test_where_the_system_starts_no_thread_one_request_is_refused_and_the_next_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, pool = threading.Thread.start, Pool(2)

    def fails(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)
    refusal = pool.submit("lane", Job(nothing))
    assert refusal is not None
    assert refusal.reason is Reason.NO_THREAD
    assert pool.load()["lane"] == LaneLoad(0, 0, 0, blocked=False)
    monkeypatch.setattr(threading.Thread, "start", start)
    made(pool, nothing)
    pool.close()


# --- by hand --------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def lane(clock: FakeClock) -> LaneByHand:
    return LaneByHand(clock, threads=2)


def busy(lane: LaneByHand, clock: FakeClock, *, took_s: float = 0.0, runs_s: float = 0.0) -> None:
    """All threads run, for so long; a call before them took `took_s` seconds."""
    if took_s:
        assert lane.submit(Job(nothing)) is None
        job = lane.take()
        clock.advance(took_s)
        lane.make(job)
    for _ in range(2):
        assert lane.submit(Job(nothing)) is None
        lane.take()
    clock.advance(runs_s)


@pytest.mark.parametrize(
    ("took_s", "runs_s", "waiting", "within_s", "reason"),
    [
        pytest.param(0.0, 0.0, 0, 0.001, None, id="nothing is known yet"),
        pytest.param(5.0, 1.0, 0, 10.0, None, id="a thread is free in 4 s, and it takes 5"),
        pytest.param(5.0, 1.0, 0, 8.9, Reason.LATE, id="which is too late"),
        pytest.param(5.0, 1.0, 2, 13.9, Reason.LATE, id="two of 5 s come first, on two threads"),
        pytest.param(5.0, 1.0, 2, 14.1, None, id="and after them there is time"),
        pytest.param(0.0, 3.0, 0, 5.0, Reason.LATE, id="those that run have taken 3 s already"),
        pytest.param(0.1, 20.0, 0, 30.0, Reason.LATE, id="what has hung for 20 s goes on hanging"),
        pytest.param(0.1, 0.0, 0, 0.05, Reason.LATE, id="less time than any call takes"),
        pytest.param(5.0, 1.0, 2, math.inf, None, id="no deadline"),
    ],
)
def test_a_call_whose_deadline_cannot_be_met_is_refused_at_once(
    lane: LaneByHand,
    clock: FakeClock,
    took_s: float,
    runs_s: float,
    waiting: int,
    within_s: float,
    reason: Reason | None,
) -> None:
    busy(lane, clock, took_s=took_s, runs_s=runs_s)
    for _ in range(waiting):
        assert lane.submit(Job(nothing)) is None
    refusal = lane.submit(Job(nothing, clock() + within_s))
    assert (refusal and refusal.reason) == reason
    if refusal is not None:
        assert refusal.retry_after_s > 0
        assert refusal.waiting == waiting


def test_a_free_thread_is_given_if_there_is_time_and_to_one_call_whatever_calls_took_before(
    lane: LaneByHand, clock: FakeClock
) -> None:
    assert lane.submit(Job(nothing)) is None
    job = lane.take()
    clock.advance(100.0)
    lane.make(job)
    first, second = Job(nothing, clock() + 1), Job(nothing, clock() + 1)
    assert lane.submit(first) is None
    lane.take()
    refusal = lane.submit(second)
    assert refusal is not None
    assert refusal.reason is Reason.LATE
    assert lane.submit(Job(nothing, clock() + 101)) is None


def test_one_call_that_hung_refuses_no_others(lane: LaneByHand, clock: FakeClock) -> None:
    for took_s in (0.1, 0.1, 0.1, 0.1, 100.0):
        assert lane.submit(Job(nothing)) is None
        job = lane.take()
        clock.advance(took_s)
        lane.make(job)
    lane.submit(Job(nothing))
    lane.take()
    assert lane.submit(Job(nothing, clock() + 0.2)) is None


def test_the_queue_is_bounded(lane: LaneByHand, clock: FakeClock) -> None:
    busy(lane, clock)
    for _ in range(MOST_WAITING):
        assert lane.submit(Job(nothing)) is None
    refusal = lane.submit(Job(nothing))
    assert refusal is not None
    assert refusal.reason is Reason.FULL
    assert lane.submit(Job(nothing), first=True) is None


def test_calls_that_finish_a_request_come_before_those_that_begin_one(
    lane: LaneByHand, clock: FakeClock
) -> None:
    busy(lane, clock)
    begins, finishes = Job(nothing), Job(nothing)
    lane.submit(begins)
    lane.submit(finishes, first=True)
    assert lane.take() is finishes
    assert lane.take() is begins


def test_a_call_is_either_answered_or_given_up(lane: LaneByHand) -> None:
    said: list[str] = []
    done, lost = partial(said.append, "done"), partial(said.append, "lost")
    answers, hangs = Job(nothing, math.inf, done, lost), Job(nothing, math.inf, done, lost)
    for job in (answers, hangs):
        lane.submit(job)
        lane.take()
    assert answers.keep()
    assert not answers.give_up()
    assert hangs.give_up()
    assert not hangs.keep()
    assert not hangs.give_up()
    lane.make(answers)
    lane.make(hangs)
    assert said == ["done", "lost"]
    assert answers.phase is Phase.DONE
    assert not answers.give_up()


def test_a_call_that_is_given_up_while_it_waits_is_not_made(
    lane: LaneByHand, clock: FakeClock
) -> None:
    busy(lane, clock)
    said: list[str] = []
    job = Job(lambda: said.append("called"), math.inf, lost=lambda: said.append("lost"))
    lane.submit(job)
    assert job.give_up()
    assert lane.load() == LaneLoad(0, 2, 0, blocked=False)
    assert not lane.make(job)
    assert said == ["lost"]


def test_threads_that_hang_are_replaced_until_as_many_hang_as_may(
    lane: LaneByHand, clock: FakeClock
) -> None:
    hanging = []
    for _ in range(4):
        assert lane.submit(Job(nothing, clock() + 1)) is None
        hanging.append(lane.take())
        clock.advance(1.0)
        assert hanging[-1].give_up()
    assert lane.load() == LaneLoad(0, 4, 4, blocked=False)
    clock.advance(HANGS_S)
    assert lane.load() == LaneLoad(0, 4, 4, blocked=True)
    refusal = lane.submit(Job(nothing, clock() + 1))
    assert refusal is not None
    assert refusal.reason is Reason.STUCK
    assert lane.started == 4
    ends = [lane.make(job) for job in hanging]
    assert ends == [False, False, True, True]
    assert lane.load() == LaneLoad(0, 0, 0, blocked=False)
    assert lane.submit(Job(nothing, clock() + 1)) is None
    assert lane.started == 4


def test_calls_that_are_only_late_do_not_stop_those_with_more_time(
    lane: LaneByHand, clock: FakeClock
) -> None:
    late = []
    for _ in range(4):  # a client allows 5 ms for what takes 50
        assert lane.submit(Job(nothing, clock() + 0.005)) is None
        late.append(lane.take())
        clock.advance(0.005)
        assert late[-1].give_up()
    assert not lane.load().blocked
    patient = Job(nothing, clock() + 1)
    assert lane.submit(patient) is None
    lane.make(late[0])
    assert lane.take() is patient


def test_a_call_that_waits_gets_the_thread_of_one_that_is_given_up(
    lane: LaneByHand, clock: FakeClock
) -> None:
    jobs = [Job(nothing), Job(nothing), Job(nothing)]
    for job in jobs:
        lane.submit(job)
    lane.take()
    lane.take()
    assert lane.started == 2
    clock.advance(1.0)
    assert jobs[0].give_up()
    assert lane.started == 3


@pytest.mark.parametrize(
    ("first", "threads", "refused"),
    [
        pytest.param(False, 0, True, id="no thread at all"),
        pytest.param(False, 1, False, id="another thread will take it"),
        pytest.param(True, 0, False, id="it finishes a request, and waits"),
    ],
)
def test_a_thread_that_cannot_be_started_refuses_what_no_other_can_take(
    lane: LaneByHand,
    caplog: pytest.LogCaptureFixture,
    first: bool,
    threads: int,
    refused: bool,
) -> None:
    for _ in range(threads):
        lane.submit(Job(nothing))
        lane.take()
    lane.exhausted = True
    with caplog.at_level(logging.CRITICAL):
        refusal = lane.submit(Job(nothing), first=first)
    assert (refusal is not None) is refused
    assert lane.calls == (not refused)
    lane.exhausted = False
    if not threads:
        assert lane.submit(Job(nothing)) is None
        assert lane.started == 1


def test_a_call_leaves_no_cycle_behind(lane: LaneByHand) -> None:
    job = Job(lambda: job, done=lambda: job, lost=lambda: job)
    lane.submit(job)
    lane.make()
    assert job.call is job.done is job.lost


@pytest.mark.parametrize(
    ("mean_s", "ages_s", "waiting", "threads", "expected"),
    [
        pytest.param(0.0, [], 0, 1, 0.0, id="nothing is known"),
        pytest.param(1.0, [0.25, 0.25], 0, 2, 0.75 + 1.0, id="both have 0.75 s left"),
        pytest.param(1.0, [0.5], 3, 1, 0.5 + 3.0 + 1.0, id="one after the other"),
        pytest.param(0.5, [2.0], 0, 1, 2.0 + 2.0, id="one that takes longer than any before"),
    ],
)
def test_when_a_call_would_return_is_known_from_those_before(
    mean_s: float, ages_s: list[float], waiting: int, threads: int, expected: float
) -> None:
    assert finish_s(mean_s, ages_s, waiting, threads) == pytest.approx(expected)
    assert expected_s(mean_s, ages_s) >= mean_s
