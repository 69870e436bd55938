"""The threads of one endpoint: what their death means, and how they are closed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
from typing_extensions import override

from engine.errors import DeadlineExceeded, ModelFailed, ShuttingDown
from engine.models.tensors import Arrays
from engine.runtime.pending import PendingResult
from engine.scheduling.costs.cost_table import CORRECT_EVERY_S
from engine.telemetry.snapshots import LoadSnapshot
from tests.engine.runtime.rig import (
    PATIENCE_S,
    Death,
    Rig,
    RigMaker,
    assert_answers,
    assert_threads_end,
    error_of,
    queue,
)


class Fatal(PendingResult):
    """Ends the thread that delivers it."""

    __slots__ = ()

    @override
    def deliver(self, start: int, outputs: Arrays) -> bool:
        raise Death


def test_the_threads_are_named_after_their_model(rig: Rig) -> None:
    assert [t.name for t in rig.alive()] == [
        "brim-dispatcher-puppet",
        "brim-completion-puppet",
        "brim-corrector-puppet",
    ]


def die(_results: Sequence[PendingResult]) -> None:
    """A listener that ends the thread that calls it."""
    raise Death


# --- a thread dies -------------------------------------------------------------------------------


def dispatcher_dies(rig: Rig) -> None:
    """While it launches."""
    rig.devices[4].fail_launch = Death("at the launch")
    rig.submit(7, 8, 9, 10)
    rig.clock.advance(10.0)
    rig.work.wake()


def scheduler_dies(rig: Rig) -> None:
    """While deciding."""
    rig.scheduler.broken = ZeroDivisionError("in the scheduler")
    rig.work.wake()


def completion_dies(rig: Rig) -> None:
    """While waiting for the device."""
    rig.devices[1].fail_result = Death("at the result")
    rig.devices[1].proceed.release()


@pytest.mark.parametrize(
    ("die", "reason"),
    [
        pytest.param(
            dispatcher_dies, "brim-dispatcher-puppet died: Death('at the launch')", id="launch"
        ),
        pytest.param(
            scheduler_dies,
            "brim-dispatcher-puppet died: ZeroDivisionError('in the scheduler')",
            id="scheduler",
        ),
        pytest.param(
            completion_dies, "brim-completion-puppet died: Death('at the result')", id="result"
        ),
    ],
)
def test_when_a_thread_dies_every_request_fails_and_new_ones_are_refused(
    rig: Rig, die: Callable[[Rig], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    computing = rig.occupy()
    waiting = [rig.submit(1), rig.submit(2)]
    rig.quiet()
    die(rig)
    assert rig.died.wait(PATIENCE_S)
    assert rig.deaths == [reason]
    message = f"model 'puppet' has failed: {reason}"
    errors = [error_of(pending) for pending in (computing, *waiting)]
    assert all(type(error) is ModelFailed for error in errors)
    assert {str(error) for error in errors} == {message}
    assert len({id(error) for error in errors}) == 3
    with pytest.raises(ModelFailed) as refused:
        rig.submit(3)
    assert str(refused.value) == message
    assert rig.work.load() == LoadSnapshot()
    assert reason in caplog.text
    rig.free()
    assert_threads_end(rig)


def test_what_the_device_answers_after_the_death_of_the_dispatcher_is_dropped(rig: Rig) -> None:
    computing = rig.occupy()
    scheduler_dies(rig)
    assert rig.died.wait(PATIENCE_S)
    rig.free()
    rig.reports(1)
    assert isinstance(error_of(computing), ModelFailed)
    assert len(rig.finished) == 1
    assert rig.scheduler.in_flight == 0


def test_a_death_between_two_answers_of_one_batch_leaves_no_request_behind(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    first, second = rig.submit(1), rig.pending(2, kind=Fatal)
    queue(rig.work, second)
    rig.quiet()
    rig.free()
    assert rig.died.wait(PATIENCE_S)
    assert_answers(first, 1)
    assert isinstance(error_of(second), ModelFailed)


def test_a_death_while_answers_are_counted_keeps_no_client_waiting(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    results = [rig.submit(1), rig.submit(2)]
    rig.quiet()

    def fall(_results: Sequence[PendingResult]) -> None:
        raise Death

    results[0].home = results[0].home._replace(finished=fall)
    rig.free()
    assert rig.died.wait(PATIENCE_S)
    for pending, value in zip(results, (1, 2), strict=True):
        assert_answers(pending, value)


def test_a_death_while_requests_expire_leaves_no_request_behind(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    late = [rig.submit(value, timeout_s=2.25) for value in (1, 2)]
    rig.quiet()
    late[0].on_ready(die)
    rig.clock.advance(2.25)
    rig.work.wake()
    assert rig.died.wait(PATIENCE_S)
    for pending in late:
        assert pending.ready
        assert isinstance(pending.error, DeadlineExceeded)


def test_a_death_while_requests_are_abandoned_leaves_no_request_behind(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    computing = rig.occupy()
    waiting = [rig.submit(value) for value in (1, 2)]
    waiting[0].on_ready(die)
    with pytest.raises(Death):
        rig.threads.close(0.0)
    for pending in (computing, *waiting):
        assert pending.ready
        assert isinstance(pending.error, ShuttingDown)


# --- a thread that only tunes ---------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("deque mutated"), MemoryError(), Death("hard")])
def test_a_correction_that_fails_is_logged_once_and_costs_no_request(
    rig: Rig,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = threading.Semaphore(0)

    def fail(_samples: object) -> None:
        tried.release()
        raise error

    monkeypatch.setattr(rig.costs, "correct", fail)
    for value in range(3):
        assert_answers(rig.submit(value), value)
        rig.clock.advance(CORRECT_EVERY_S)
    assert all(tried.acquire(timeout=PATIENCE_S) for _ in range(3))
    assert_answers(rig.submit(7), 7)
    assert (rig.deaths, len(rig.alive())) == ([], 3)
    rig.threads.close(PATIENCE_S)
    assert [r.message for r in caplog.records] == ["brim-corrector-puppet failed; it goes on"]


# --- close, clause by clause ---------------------------------------------------------------------


def test_close_refuses(rig: Rig) -> None:
    rig.work.drain()
    with pytest.raises(ShuttingDown, match="the server is shutting down") as caught:
        rig.submit(1)
    assert caught.value.retry_after_s == 1.0


def test_close_drains_what_waits_without_a_delay(rig: Rig) -> None:
    computing = rig.occupy(0)
    waiting = rig.submit(1)
    rig.work.drain()
    rig.free()
    rig.threads.close(PATIENCE_S)
    assert_answers(computing, 0)
    assert_answers(waiting, 1)
    assert [report.reason for report in rig.reports(2)] == ["idle", "drain"]


def test_close_fails_every_request_that_is_left_when_the_time_is_up(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    computing = rig.occupy(0)
    waiting = rig.submit(1)
    rig.threads.close(0.0)
    for pending in (computing, waiting):
        error = error_of(pending)
        assert isinstance(error, ShuttingDown)
        assert str(error) == "the server stopped before the answer"
    rig.free()
    rig.threads.close(PATIENCE_S)
    assert rig.launched(1) == [[0]]


def test_close_joins(rig: Rig) -> None:
    assert len(rig.alive()) == 3
    rig.submit(1).result()
    rig.threads.close(PATIENCE_S)
    assert rig.alive() == []


def test_close_is_idempotent(rig: Rig) -> None:
    pending = rig.submit(1)
    for _ in range(3):
        rig.threads.close(PATIENCE_S)
    assert_answers(pending, 1)


def test_close_before_start_fails_what_waits(make_rig: RigMaker) -> None:
    rig = make_rig(start=False)
    pending = rig.submit(1)
    rig.threads.close(PATIENCE_S)
    assert isinstance(error_of(pending), ShuttingDown)


def test_start_after_close_ends_at_once(make_rig: RigMaker) -> None:
    rig = make_rig(start=False)
    rig.threads.close(0.0)
    rig.threads.start()
    rig.threads.close(PATIENCE_S)
    assert rig.alive() == []
