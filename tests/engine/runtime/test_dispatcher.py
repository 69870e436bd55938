"""Batches are gathered and launched as the scheduler decides, and their rows come back."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np

from engine.errors import DeadlineExceeded
from engine.models.tensors import Array
from engine.scheduling.buckets import Bucket
from engine.scheduling.request_queue import DEFAULT_PRIORITY
from engine.telemetry.snapshots import LoadSnapshot
from engine.testing import FakeClock, expected_rows
from tests.engine.runtime.rig import PATIENCE_S, Rig, RigMaker, assert_answers, error_of


def test_a_row_comes_back_doubled_plus_one(rig: Rig) -> None:
    assert_answers(rig.submit(3), 3)


def test_an_idle_device_takes_the_first_row_at_once(rig: Rig) -> None:
    assert_answers(rig.submit(3), 3)
    (report,) = rig.reports(1)
    assert (report.bucket, report.rows, report.reason) == (Bucket(1), 1, "idle")


def test_rows_that_come_while_the_device_is_busy_share_the_next_batch(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    results = [rig.submit(value) for value in (1, 2, 3)]
    rig.quiet()
    rig.free()
    for pending, value in zip(results, (1, 2, 3), strict=True):
        assert_answers(pending, value)
    assert [(r.bucket, r.rows) for r in rig.reports(2)] == [(Bucket(1), 1), (Bucket(4), 3)]


def test_the_next_batch_is_launched_while_one_computes_but_not_one_more(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=2)
    rig.occupy(0)
    rig.submit(1)
    rig.pass_time(1.0)
    rig.submit(2)
    rig.pass_time(1.0)
    assert rig.launched(1) == [[0], [1]]
    load = rig.work.load()
    assert load == replace(
        LoadSnapshot(queued_rows=1, queued_requests=1, batches_in_flight=2, oldest_batch_s=2.0),
        drain_s=load.drain_s,
        last_priority=DEFAULT_PRIORITY,
        last_deadline=load.last_deadline,
        places_taken=1,
    )
    assert load.drain_s > 0
    rig.devices[1].proceed.release()
    assert rig.devices[1].entered.acquire(timeout=PATIENCE_S)
    rig.pass_time(1.0)
    assert rig.launched(1) == [[0], [1], [2]]


def test_the_next_batch_is_assembled_when_the_device_should_be_free_and_not_before(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(lead_s=0.25)
    rig.occupy(0)
    waits = rig.submit(1)
    rig.pass_time(0.5)
    too = rig.submit(2)
    assert (rig.launched(1), rig.launched(2)) == ([[0]], [])
    rig.pass_time(0.25)
    assert rig.launched(2) == [[1, 2]]
    rig.free()
    assert_answers(waits, 1)
    assert_answers(too, 2)
    assert [report.reason for report in rig.reports(2)] == ["idle", "next"]


class TickingClock(FakeClock):
    """Moves by half a millisecond whenever it is read."""

    def __call__(self) -> float:
        self.advance(0.0005)
        return self.now


def test_the_thread_wakes_by_itself_when_the_device_should_be_free(make_rig: RigMaker) -> None:
    rig = make_rig(clock=TickingClock(), seconds=0.001)
    rig.hold()
    waits = rig.submit(0)
    assert rig.devices[1].started.acquire(timeout=PATIENCE_S)
    too = rig.submit(1)
    assert rig.devices[1].started.acquire(timeout=PATIENCE_S)
    rig.free()
    assert_answers(waits, 0)
    assert_answers(too, 1)


def test_a_large_request_is_split_and_joined_again(rig: Rig) -> None:
    values = tuple(range(11))
    assert_answers(rig.submit(*values), *values)
    assert sum(report.rows for report in rig.reports(3)) == 11


def test_64_threads_get_their_own_answers(rig: Rig) -> None:
    together = threading.Barrier(64)
    answers: dict[int, Array] = {}

    def client(number: int) -> None:
        together.wait()
        for attempt in range(3):
            value = number * 10 + attempt
            answers[value] = rig.submit(value).result()["y"]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 64 * 3
    for value, answer in answers.items():
        assert np.array_equal(answer, expected_rows(value))


def test_padding_goes_to_the_device_but_never_to_a_client(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    results = [rig.submit(1, 2), rig.submit(3)]
    rig.quiet()
    rig.free()
    assert_answers(results[0], 1, 2)
    assert_answers(results[1], 3)
    staged = rig.devices[4].launched[0]["x"]
    assert np.isnan(staged[3:]).all()
    assert np.isfinite(staged[:3]).all()


def test_a_request_past_its_deadline_is_refused_while_the_device_is_busy(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=1)
    rig.occupy(0)
    late, patient, leaving = rig.submit(1, timeout_s=2.25), rig.submit(2), rig.submit(3)
    rig.clock.advance(2.25)
    leaving.cancel()  # wakes the thread, which reads the clock
    error = error_of(late)
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == "no answer is possible within 2.25 s"
    rig.quiet()
    rig.free()
    assert_answers(patient, 2)
    assert rig.launched(1) == [[0], [2]]
