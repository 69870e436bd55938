"""Admission, withdrawal and abandonment: every accepted request has one place until its outcome."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    ModelFailed,
    QueueFull,
    Shed,
    ShuttingDown,
)
from engine.runtime.work_queue import Dispatch, WorkQueue
from engine.scheduling.admission import AdmissionProbe
from engine.scheduling.request_queue import DEFAULT_PRIORITY
from engine.telemetry.snapshots import LoadSnapshot
from tests.engine.runtime.rig import Rig, RigMaker, assert_answers, error_of, queue


def test_the_load_says_how_old_the_oldest_batch_is(rig: Rig) -> None:
    rig.occupy()
    rig.clock.advance(7)
    assert rig.work.load() == LoadSnapshot(0, 0, 1, 7.0)


# --- admission -----------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_when_to_come_back(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1, max_rows=5)
    rig.occupy()
    waits = rig.submit(1, 2, 3, 4)
    with pytest.raises(QueueFull, match="2 rows do not fit: 4 wait already") as caught:
        rig.submit(5, 6)
    assert caught.value.retry_after_s == 1.0 + 1.2
    fits = rig.submit(5)
    rig.free()
    assert_answers(waits, 1, 2, 3, 4)
    assert_answers(fits, 5)


def test_a_refused_request_has_no_outcome_and_is_not_queued(make_rig: RigMaker) -> None:
    rig = make_rig(max_rows=1)
    pending = rig.pending(1, 2)
    with pytest.raises(QueueFull):
        queue(rig.work, pending)
    assert not pending.ready
    assert rig.work.load().queued_rows == 0


@pytest.mark.parametrize(
    ("rows", "timeout_s", "kind"),
    [
        pytest.param(1, 300.0, type(None), id="it-would-be-accepted"),
        pytest.param(2, 300.0, QueueFull, id="no-room"),
        pytest.param(1, 1.5, Shed, id="too-late"),
    ],
)
def test_a_probe_tells_the_refusal_that_a_request_would_get(
    make_rig: RigMaker, rows: int, timeout_s: float, kind: type
) -> None:
    rig = make_rig(depth=1, max_rows=5)
    rig.occupy()
    rig.submit(1, 2, 3, 4)
    now = rig.clock()
    probe = AdmissionProbe(rows, None, now, now + timeout_s, DEFAULT_PRIORITY)
    probed = rig.work.probe(probe)
    assert type(probed) is kind
    assert rig.work.load().queued_rows == 4, "a probe is not queued"
    if probed is not None:
        with pytest.raises(kind) as refused:
            rig.submit(*range(rows), timeout_s=timeout_s)
        assert str(refused.value) == str(probed)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        pytest.param(lambda work: work.drain(), ShuttingDown, id="draining"),
        pytest.param(lambda work: work.fail("a bug"), ModelFailed, id="failed"),
    ],
)
def test_a_probe_of_a_queue_that_has_ended_is_refused(
    rig: Rig, end: Callable[[WorkQueue], None], kind: type[BrimError]
) -> None:
    end(rig.work)
    now = rig.clock()
    probed = rig.work.probe(AdmissionProbe(1, None, now, now + 300.0, DEFAULT_PRIORITY))
    assert type(probed) is kind


# --- withdrawal ----------------------------------------------------------------------------------


def test_rows_that_are_cancelled_while_they_wait_never_reach_the_device(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=1)
    rig.occupy(0)
    stays, leaves, stays_too = (rig.submit(value) for value in (1, 2, 3))
    leaves.cancel()
    assert rig.work.load().queued_rows == 2
    rig.quiet()
    rig.free()
    assert_answers(stays, 1)
    assert_answers(stays_too, 3)
    assert isinstance(error_of(leaves), Cancelled)
    assert rig.launched(2) == [[1, 3]]
    assert rig.launched(4) == []


def test_a_client_that_leaves_while_its_rows_compute_changes_nothing_for_the_others(
    rig: Rig,
) -> None:
    computing = rig.occupy(0)
    computing.cancel()
    rig.free()
    assert_answers(rig.submit(1), 1)
    assert isinstance(error_of(computing), Cancelled)


def test_a_waiting_client_gives_up_at_its_deadline_by_itself(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    rig.occupy(0)
    late = rig.submit(1, timeout_s=2.25)
    rig.clock.advance(2.25)
    with pytest.raises(DeadlineExceeded):
        late.result()
    assert rig.work.load().queued_rows == 0


def test_a_failed_batch_takes_the_other_rows_of_its_requests_out_of_the_queue(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(start=False, depth=2)
    rig.submit(1, 2, 3, 4, 5, 6)
    stays = rig.submit(7)
    assert rig.work.borrow()
    dispatch = rig.work.next_now()
    assert isinstance(dispatch, Dispatch)
    assert rig.work.load().queued_rows == 3
    now = rig.clock()
    rig.work.complete(dispatch, now, now, failed=True)
    assert rig.work.load().queued_rows == 1
    assert list(rig.work._waiting.values()) == [stays]
