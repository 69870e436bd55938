"""A pending result has exactly one outcome, whatever sets it and in whatever order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BrimError, Cancelled, DeadlineExceeded, ModelFailed
from engine.models.processor import HostProcessor, Prepared
from engine.models.tensors import Arrays, Extent
from engine.runtime.pending import PendingResult, notify
from engine.runtime.request import Request
from engine.scheduling.request_queue import DEFAULT_PRIORITY
from engine.testing import FakeClock


class Rig:
    """Makes pending results, and keeps what they report."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.finished: list[BrimError | None] = []
        self.withdrawn: list[Request] = []
        self.stopped = 0
        self.listened: list[PendingResult] = []

    def request(self, rows: int = 1, timeout_s: float = 30.0) -> Request:
        return Request(
            Prepared({}),
            Extent(rows, None),
            bucket_length=None,
            enqueued_at=self.clock(),
            deadline=self.clock() + timeout_s,
            priority=DEFAULT_PRIORITY,
            processor=HostProcessor(),
        )

    def pending(
        self, rows: int = 1, timeout_s: float = 30.0, kind: type[PendingResult] = PendingResult
    ) -> PendingResult:
        return kind(self.request(rows, timeout_s), self.clock, self._note, self)

    def listen(self, results: Sequence[PendingResult]) -> None:
        self.listened.extend(results)

    def withdraw(self, request: Request) -> None:
        self.withdrawn.append(request)

    def stop_coalescing(self) -> None:
        self.stopped += 1

    def _note(self, results: Sequence[PendingResult]) -> None:
        self.finished.extend(result.error for result in results)


@pytest.fixture
def rig(clock: FakeClock) -> Rig:
    return Rig(clock)


def part(start: int, count: int) -> dict[str, Any]:
    """The outputs of rows `start` to `start + count`: each row answers its own number."""
    return {"y": np.arange(start, start + count)}


def deliver(pending: PendingResult, start: int = 0, count: int = 1) -> bool:
    """As the engine does, for a batch of one."""
    done = pending.deliver(start, part(start, count))
    if done:
        notify([pending])
    return done


def answer(pending: PendingResult) -> list[int]:
    return [int(number) for number in pending.result()["y"]]


# --- an answer ----------------------------------------------------------------------------------


def test_an_answer_is_the_outcome(rig: Rig) -> None:
    pending = rig.pending(rows=3)
    assert not pending.ready
    assert not pending.wait(0)
    rig.clock.advance(0.25)
    assert deliver(pending, 0, 3)
    assert pending.ready
    assert pending.wait(0)
    assert answer(pending) == [0, 1, 2]
    assert rig.finished == [None]
    assert pending.finished_at == rig.clock.now


@given(data=st.data())
def test_parts_may_come_in_any_order_and_only_the_last_completes_the_outcome(
    data: st.DataObject,
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    order = data.draw(st.permutations(list(zip(starts, sizes, strict=True))))
    pending = Rig(FakeClock()).pending(rows=sum(sizes))
    done = [deliver(pending, start, count) for start, count in order]
    assert done == [False] * (len(sizes) - 1) + [True]
    assert answer(pending) == list(range(sum(sizes)))


def test_rows_that_come_twice_are_a_bug(rig: Rig) -> None:
    pending = rig.pending(rows=2)
    pending.deliver(0, part(0, 2))
    with pytest.raises(AssertionError, match=r"<PendingResult 2 rows, done> was given rows twice"):
        pending.deliver(0, part(0, 2))


def test_parts_that_come_after_a_cancel_are_ignored(rig: Rig) -> None:
    pending = rig.pending(rows=3)
    pending.deliver(0, part(0, 1))
    pending.cancel()
    assert not pending.deliver(1, part(1, 2))
    with pytest.raises(Cancelled):
        pending.result()


def test_an_answer_is_not_ready_before_it_is_notified(rig: Rig) -> None:
    pending = rig.pending()
    calls: list[list[PendingResult]] = []
    pending.on_ready(calls.append)
    assert pending.deliver(0, part(0, 1))
    assert not pending.ready
    assert not pending.wait(0)
    assert rig.finished == calls == []
    notify([pending])
    assert pending.wait(0)
    assert rig.finished == [None]
    assert calls == [[pending]]


@pytest.mark.parametrize("waiters", [1, 3])
def test_all_waiting_threads_are_woken(rig: Rig, waiters: int) -> None:
    pending, waiting = rig.pending(), threading.Semaphore(0)
    answers: list[list[int]] = []

    class Done(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.release()
            return super().wait(timeout)

    pending._event = Done()
    threads = [
        threading.Thread(target=lambda: answers.append(answer(pending))) for _ in range(waiters)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=30)
    deliver(pending)
    for thread in threads:
        thread.join()
    assert answers == [[0]] * waiters


def test_a_thread_that_waits_after_the_notification_is_not_left_waiting(rig: Rig) -> None:
    """An Event that is made after the notification is set when it is made."""
    pending = rig.pending()
    deliver(pending)
    assert pending._made_event().is_set()


def test_an_answer_can_be_asked_for_twice(rig: Rig) -> None:
    pending = rig.pending()
    deliver(pending)
    assert answer(pending) == answer(pending) == [0]


# --- an error -----------------------------------------------------------------------------------


def test_a_failed_result_raises_that_very_error(rig: Rig) -> None:
    pending, error = rig.pending(), ModelFailed("broken")
    assert pending.fail(error)
    with pytest.raises(ModelFailed) as caught:
        pending.result()
    assert caught.value is error
    assert rig.finished == [error]


def test_at_the_deadline_the_result_expires_and_its_rows_leave_the_queue(rig: Rig) -> None:
    pending = rig.pending(timeout_s=1.5)
    rig.clock.advance(1.5)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 1\.5 s"):
        pending.result()
    assert rig.withdrawn == [pending.request]


def test_an_answer_that_is_there_counts_though_it_is_fetched_after_the_deadline(
    rig: Rig,
) -> None:
    pending = rig.pending(timeout_s=1.5)
    deliver(pending)
    rig.clock.advance(100)
    assert answer(pending) == [0]
    assert rig.withdrawn == []


def test_cancelling_takes_the_rows_out_of_the_queue_once(rig: Rig) -> None:
    pending = rig.pending()
    assert pending.cancel()
    assert not pending.cancel()
    assert rig.withdrawn == [pending.request]
    with pytest.raises(Cancelled, match="the client closed the connection"):
        pending.result()


def test_cancelling_what_is_answered_changes_nothing(rig: Rig) -> None:
    pending = rig.pending()
    deliver(pending)
    assert not pending.cancel()
    assert answer(pending) == [0]
    assert rig.withdrawn == []


def test_a_result_that_was_never_queued_can_be_cancelled(clock: FakeClock) -> None:
    rig = Rig(clock)
    assert PendingResult(rig.request(), clock, lambda _results: None, rig).cancel()


def test_a_recorder_that_fails_does_not_keep_the_client_waiting(rig: Rig) -> None:
    pending = rig.pending()

    def broken(_results: Sequence[PendingResult]) -> None:
        raise ZeroDivisionError

    pending.home = pending.home._replace(finished=broken)
    with pytest.raises(ZeroDivisionError):
        pending.fail(ModelFailed("broken"))
    assert pending.wait(0)


# --- races --------------------------------------------------------------------------------------

SETTERS: dict[str, Callable[[PendingResult], bool]] = {
    "deliver": deliver,
    "fail": lambda pending: pending.fail(ModelFailed("broken")),
    "cancel": lambda pending: pending.cancel(),
}


class SlowResult(PendingResult):
    """Lets the other thread run after every read of the outcome."""

    @property
    def _outcome(self) -> Any:  # type: ignore[override]
        seen = PendingResult._outcome.__get__(self)
        os.sched_yield()
        return seen

    @_outcome.setter
    def _outcome(self, outcome: Any) -> None:
        PendingResult._outcome.__set__(self, outcome)


@pytest.mark.parametrize(
    "names",
    [("deliver", "cancel"), ("fail", "cancel"), ("fail", "deliver"), ("fail", "fail")],
    ids="-against-".join,
)
def test_of_two_threads_that_set_an_outcome_at_once_exactly_one_does(
    rig: Rig, names: tuple[str, str]
) -> None:
    results = [rig.pending(kind=SlowResult) for _ in range(200)]
    together = threading.Barrier(2)
    won: list[list[bool]] = []

    def set_outcome(name: str) -> None:
        wins = []
        for pending in results:
            together.wait()
            wins.append(SETTERS[name](pending))
        won.append(wins)

    threads = [threading.Thread(target=set_outcome, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one + other for one, other in zip(*won, strict=True)] == [1] * len(results)
    assert len(rig.finished) == len(results)


def test_expiring_waits_for_a_thread_that_has_set_the_outcome_and_not_notified_yet(
    rig: Rig,
) -> None:
    """At the deadline, another thread may be between the outcome and the notification."""
    pending = rig.pending(timeout_s=1.0)
    deciding, waited_for = threading.Event(), threading.Event()
    order: list[str] = []

    def count(_results: Sequence[PendingResult]) -> None:
        deciding.set()
        waited_for.wait(30)
        order.append("notified")

    class Done(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None:
                waited_for.set()
            return super().wait(timeout)

    pending.home = pending.home._replace(finished=count)
    pending._event = Done()
    setter = threading.Thread(target=deliver, args=(pending,))
    setter.start()
    assert deciding.wait(30)
    rig.clock.advance(1.0)
    answered = answer(pending)
    order.append("answered")
    waited_for.set()
    setter.join()
    assert answered == [0]
    assert order == ["notified", "answered"]
    assert rig.withdrawn == []


# --- what it prints and keeps --------------------------------------------------------------------


def test_a_result_prints_its_state(rig: Rig) -> None:
    opened, answered, failed = rig.pending(2), rig.pending(), rig.pending()
    answered.deliver(0, part(0, 1))
    failed.cancel()
    assert [repr(pending) for pending in (opened, answered, failed)] == [
        "<PendingResult 2 rows, open>",
        "<PendingResult 1 rows, done>",
        "<PendingResult 1 rows, Cancelled>",
    ]


def test_a_request_keeps_what_was_prepared_and_its_priority() -> None:
    prepared = Prepared({"y": np.zeros(1)}, {"truncated": True}, tokens=3)
    request = Request(
        prepared,
        Extent(1, None),
        bucket_length=None,
        enqueued_at=0,
        deadline=1,
        priority=2,
        processor=HostProcessor(),
    )
    assert request.prepared is prepared
    assert request.inputs is prepared.inputs
    assert request.priority == 2
    assert request.rows == 1


def test_a_result_has_no_times_before_they_come(rig: Rig) -> None:
    pending = rig.pending(timeout_s=3.0)
    assert pending.request.enqueued_at == rig.clock.now
    assert pending.deadline == pending.request.deadline == rig.clock.now + 3.0
    times = (
        pending.gathering_at,
        pending.launched_at,
        pending.computed_at,
        pending.finished_at,
    )
    assert times == (None,) * 4


def test_the_models_postprocess_runs_when_the_result_is_asked_for(rig: Rig) -> None:
    ran_in: list[int] = []

    def add_one(outputs: Arrays) -> Arrays:
        ran_in.append(threading.get_ident())
        return {"y": outputs["y"] + 1}

    request = replace(rig.request(), processor=HostProcessor(postprocess=add_one))
    pending = PendingResult(request, rig.clock, lambda _results: None, rig)
    worker = threading.Thread(target=deliver, args=(pending,))
    worker.start()
    worker.join()
    assert ran_in == []
    assert answer(pending) == [1]
    assert ran_in == [threading.get_ident()]


# --- listeners ------------------------------------------------------------------------------------


def test_a_listener_gets_all_results_of_a_batch_in_one_call(rig: Rig) -> None:
    calls: list[list[PendingResult]] = []
    others: list[list[PendingResult]] = []
    results = [rig.pending() for _ in range(4)]
    for pending in results[:3]:
        pending.on_ready(calls.append)
    results[3].on_ready(others.append)
    for pending in results:
        pending.deliver(0, part(0, 1))
    assert calls == others == []
    notify(results)
    assert (calls, others) == ([results[:3]], [[results[3]]])


def test_a_listener_that_raises_keeps_no_other_listener_waiting(rig: Rig) -> None:
    calls: list[Sequence[PendingResult]] = []
    results = [rig.pending() for _ in range(3)]

    def broken(_results: Sequence[PendingResult]) -> None:
        raise ZeroDivisionError

    for pending, listener in zip(results, (calls.append, broken, rig.listen), strict=True):
        pending.on_ready(listener)
        pending.deliver(0, part(0, 1))
    with pytest.raises(ZeroDivisionError):
        notify(results)
    assert calls == [[results[0]]]
    assert rig.listened == [results[2]]


@pytest.mark.parametrize(
    "set_outcome",
    [
        pytest.param(lambda pending: pending.fail(ModelFailed("no")), id="failed"),
        pytest.param(lambda pending: pending.cancel(), id="the-client-left"),
    ],
)
def test_a_single_outcome_is_notified_once(
    rig: Rig, set_outcome: Callable[[PendingResult], object]
) -> None:
    calls: list[list[PendingResult]] = []
    pending = rig.pending()
    pending.on_ready(calls.append)
    for _ in range(2):
        set_outcome(pending)
    assert calls == [[pending]]


def test_a_listener_that_comes_too_late_is_called_at_once(rig: Rig) -> None:
    calls: list[list[PendingResult]] = []
    pending = rig.pending()
    pending.cancel()
    pending.on_ready(calls.append)
    assert calls == [[pending]]


def test_asking_for_the_result_at_the_deadline_calls_the_listener(rig: Rig) -> None:
    calls: list[list[PendingResult]] = []
    pending = rig.pending(timeout_s=1)
    pending.on_ready(calls.append)
    rig.clock.advance(2)
    with pytest.raises(DeadlineExceeded):
        pending.result()
    assert calls == [[pending]]
