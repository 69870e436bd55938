"""Requests that are submitted together are dispatched together; models share one device."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from engine.compilation.interface import Weights
from engine.errors import DeadlineExceeded, ModelFailed
from engine.runtime.device_group import DeviceGroup, Replica
from engine.runtime.pending import PendingResult
from engine.runtime.request import Request
from engine.runtime.work_queue import WorkQueue
from engine.runtime.worker_threads import WorkerThreads
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.scheduler import Scheduler, SchedulerOptions
from engine.testing import FakeClock, PuppetExecutable, RecordingObserver, puppet_model, rows
from tests.engine.runtime.rig import (
    CHEAP_S,
    PATIENCE_S,
    Rig,
    RigMaker,
    WatchedScheduler,
    a_request,
    assert_answers,
    assert_threads_end,
    error_of,
    queue,
)

# --- coalesce ------------------------------------------------------------------------------------


def test_cheap_batches_are_run_by_the_coalescing_thread_at_the_end(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=CHEAP_S)
    names = rig.quick()
    with rig.group.coalesce():
        results = [rig.submit(value) for value in range(3)]
        assert not any(pending.ready for pending in results)
    assert all(pending.ready for pending in results)
    assert set(names) == {threading.current_thread().name}
    assert sum(report.rows for report in rig.reports(len(names))) == 3


def test_expensive_batches_are_the_dispatchers_and_wait_for_the_end(rig: Rig) -> None:
    names = rig.quick()
    with rig.group.coalesce():
        results = [rig.submit(value) for value in range(4)]
        assert rig.observer.events == []
    for value, pending in enumerate(results):
        assert_answers(pending, value)
    assert rig.launched(4) == [[0, 1, 2, 3]]
    assert set(names) == {"brim-dispatcher-puppet"}


def test_the_dispatcher_takes_no_batch_while_requests_are_coalesced(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = threading.Semaphore(0)
    wake, wait = rig.work._wake, rig.work._wake.wait

    def sleep(seconds: float | None = None) -> bool:
        asleep.release()
        return wait(seconds)

    rig.hold()
    for puppet in rig.devices.values():
        puppet.quick = True
    rig.submit(0)
    assert rig.devices[1].entered.acquire(timeout=PATIENCE_S)
    monkeypatch.setattr(wake, "wait", sleep)
    with rig.group.coalesce():
        first = rig.submit(1)
        rig.free()
        assert asleep.acquire(timeout=PATIENCE_S)
        second = rig.submit(2)
    assert_answers(first, 1)
    assert_answers(second, 2)
    assert (rig.launched(1), rig.launched(2)) == ([[0]], [[1, 2]])


@pytest.mark.parametrize("seconds", [0.001, 1.0], ids=["run-here", "run-by-the-dispatcher"])
def test_waiting_for_a_result_inside_ends_the_coalescing(
    make_rig: RigMaker, seconds: float
) -> None:
    rig = make_rig(seconds=seconds)
    with rig.group.coalesce():
        pending = rig.submit(3)
        assert pending.wait(PATIENCE_S)
    assert_answers(pending, 3)


def test_waiting_in_another_thread_leaves_the_coalescing_alone(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=0.001)
    with rig.group.coalesce():
        pending = rig.submit(3)
        other = threading.Thread(target=pending.wait, args=(0.0,))
        other.start()
        other.join()
        assert rig.launched(1) == []
    assert_answers(pending, 3)


def test_a_program_that_calls_back_into_python_is_never_run_by_the_coalescing_thread(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(seconds=CHEAP_S, self_contained=False)
    names = rig.quick()
    with rig.group.coalesce():
        pending = rig.submit(1)
    assert_answers(pending, 1)
    assert names == ["brim-dispatcher-puppet"]


def test_outside_of_coalesce_the_dispatcher_is_woken_by_every_request(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=CHEAP_S)
    names = rig.quick()
    assert_answers(rig.submit(1), 1)
    assert names == ["brim-dispatcher-puppet"]


def test_a_batch_that_the_coalescing_thread_launches_and_that_has_not_ended_is_completed_elsewhere(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(seconds=CHEAP_S)
    names = rig.result_threads()
    with rig.group.coalesce():
        pending = rig.submit(1)
    assert_answers(pending, 1)
    assert names == ["brim-completion-puppet"]


def test_what_cannot_be_launched_at_the_end_is_the_dispatchers(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=CHEAP_S, depth=1)
    before = rig.occupy(0)
    with rig.group.coalesce():
        later = rig.submit(1)
    rig.free()
    assert_answers(before, 0)
    assert_answers(later, 1)


def test_what_is_to_be_launched_later_is_launched_at_that_moment(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=CHEAP_S)
    rig.occupy(0)
    with rig.group.coalesce():
        rig.submit(1)
    rig.clock.advance(1.0)
    for _ in range(2):
        assert rig.devices[1].started.acquire(timeout=PATIENCE_S)
    assert rig.launched(1) == [[0], [1]]


def test_two_threads_do_not_both_dispatch(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=CHEAP_S, depth=1)
    names = rig.quick()
    rig.hold()

    def first() -> None:
        with rig.group.coalesce():
            rig.submit(1)

    other = threading.Thread(target=first, name="other")
    other.start()
    assert rig.devices[1].entered.acquire(timeout=PATIENCE_S)
    with rig.group.coalesce():
        pending = rig.submit(2)
    assert not pending.ready
    rig.free()
    assert_answers(pending, 2)
    other.join(PATIENCE_S)
    assert names == ["other", "other"]


def test_what_is_submitted_while_the_dispatcher_works_is_its_work_too(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(seconds=CHEAP_S)
    names = rig.quick()
    rig.hold()
    results = [rig.submit(1)]
    assert rig.devices[1].entered.acquire(timeout=PATIENCE_S)

    def second() -> None:
        with rig.group.coalesce():
            results.append(rig.submit(2))
            rig.clock.advance(1.0)  # the device should be free by now

    other = threading.Thread(target=second, daemon=True)
    other.start()
    other.join(PATIENCE_S)
    assert not other.is_alive()
    rig.free()
    for value, pending in enumerate(results, 1):
        assert_answers(pending, value)
    assert names == ["brim-dispatcher-puppet"] * 2


def test_what_has_expired_at_the_end_gets_its_error(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=CHEAP_S)
    rig.quick()
    with rig.group.coalesce():
        pending = rig.submit(1, timeout_s=1.0)
        rig.clock.advance(2.0)
    assert pending.ready
    assert isinstance(error_of(pending), DeadlineExceeded)


def test_a_bug_at_the_end_fails_the_model_and_not_the_calling_thread(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(seconds=CHEAP_S)
    rig.scheduler.broken = ZeroDivisionError("in the scheduler")
    with rig.group.coalesce():
        pending = rig.submit(1)
    assert rig.deaths == ["MainThread died: ZeroDivisionError('in the scheduler')"]
    assert isinstance(error_of(pending), ModelFailed)
    assert "in the scheduler" in caplog.text
    assert_threads_end(rig)


def test_an_exit_of_the_calling_thread_is_its_own_and_leaves_no_client_waiting(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(seconds=CHEAP_S)
    rig.devices[1].fail_launch = SystemExit("told to")
    with pytest.raises(SystemExit), rig.group.coalesce():
        pending = rig.submit(1)
    assert isinstance(error_of(pending), ModelFailed)
    assert "told to" in caplog.text
    assert_threads_end(rig)


def test_an_exit_in_the_batch_of_one_model_does_not_keep_another_model_waiting() -> None:
    group = DeviceGroup()
    flushed: list[str] = []

    def exits(name: str) -> None:
        flushed.append(name)
        raise SystemExit

    with pytest.raises(SystemExit), group.coalesce(), group.lock:
        assert all(group.defer(partial(exits, name)) for name in "abc")
    assert sorted(flushed) == ["a", "b", "c"]


# --- several models, one device ------------------------------------------------------------------


def test_models_get_their_part_of_the_device_by_weight(clock: FakeClock) -> None:
    group, observer = DeviceGroup(), RecordingObserver()
    devices = PuppetExecutable(), PuppetExecutable()
    # one device: batches of both models start one after the other and end in that order
    started, launched = devices[0].started, devices[0].launched
    devices[1].started, devices[1].launched = started, launched
    works: list[WorkQueue] = []
    threads: list[WorkerThreads] = []
    for name, weight, device in zip(("light", "heavy"), (1.0, 3.0), devices, strict=True):
        device.hold()
        costs = CostTable({Bucket(1): 1.0})
        options = SchedulerOptions(0.0, 100, 1)
        scheduler: Scheduler[Request] = Scheduler(
            options, costs, (None,), group.timeline, name, weight
        )
        works.append(WorkQueue(name, scheduler, group, clock))
        replica = Replica(group, puppet_model().signature, Weights([], 0), {Bucket(1): device})
        batch_done = partial(observer.batch_done, name)
        threads.append(
            WorkerThreads(name, works[-1], replica, batch_done, lambda _reason: None, clock)
        )
    for value, work in enumerate(works):
        for _ in range(30):
            request = a_request(rows(value), clock(), 1000.0)
            queue(work, PendingResult(request, clock, lambda _results: None, work))
    for each in threads:
        each.start()
    for count in range(1, 37):
        assert started.acquire(timeout=PATIENCE_S)
        clock.advance(1.0)
        devices[int(launched[count - 1]["x"][0, 0])].proceed.release()
        observer.wait_for("batch_done", count)
    order = [batch["x"][0, 0] for batch in launched[4:36]]  # once both are there
    assert abs(order.count(1) - 24) <= 1
    assert order.count(0) + order.count(1) == 32
    for device in devices:
        device.free()
    for each in threads:
        each.close(PATIENCE_S)


def test_a_model_without_requests_sleeps_while_others_are_served(make_rig: RigMaker) -> None:
    rig = make_rig()
    options = SchedulerOptions(max_wait_s=0.0, max_rows=100, depth=2)
    scheduler = WatchedScheduler(options, rig.costs, (None,), rig.group.timeline, "idle")
    work = WorkQueue("idle", scheduler, rig.group, rig.clock)
    replica = Replica(rig.group, puppet_model().signature, Weights([], 0), {})
    ignore = rig.deaths.append
    idle = WorkerThreads("idle", work, replica, lambda _report: None, ignore, rig.clock)
    scheduler.changed()
    idle.start()
    scheduler.quiet()
    for value in range(5):
        assert_answers(rig.submit(value), value)
    rig.reports(5)
    idle.close(PATIENCE_S)
    assert scheduler.polls == 2  # when it began, and when it was closed
