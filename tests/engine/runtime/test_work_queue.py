"""Admission, withdrawal and abandonment: every accepted request has one place until its outcome."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    DeadlineTooShort,
    ModelFailed,
    QueueFull,
    Shed,
    ShuttingDown,
)
from engine.runtime.work_queue import Dispatch, WorkQueue
from engine.scheduling.admission import AdmissionProbe
from engine.scheduling.request_queue import DEFAULT_PRIORITY
from engine.telemetry.snapshots import LoadSnapshot
from tests.engine.runtime.rig import (
    PATIENCE_S,
    Rig,
    RigMaker,
    assert_answers,
    error_of,
    queue,
)


def test_the_load_says_how_old_the_oldest_batch_is(rig: Rig) -> None:
    rig.occupy()
    rig.clock.advance(7)
    assert rig.work.load() == LoadSnapshot(0, 0, 1, 7.0)


# --- admission -----------------------------------------------------------------------------------


def refusal(rig: Rig, *values: float, timeout_s: float = 300.0) -> BrimError | None:
    """The refusal of such a request, if it is refused."""
    try:
        rig.submit(*values, timeout_s=timeout_s)
    except BrimError as error:
        return error
    return None


def test_a_full_queue_refuses_and_says_when_to_come_back(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1, max_rows=4)
    rig.occupy()
    waits = [rig.submit(value) for value in (1, 2, 3, 4)]
    with pytest.raises(QueueFull, match="2 rows do not fit now: 4 wait already") as caught:
        rig.submit(5, 6)
    assert caught.value.retry_after_s == 1.0 + 1.2
    rig.free()
    for pending, value in zip(waits, (1, 2, 3, 4), strict=True):
        assert_answers(pending, value)


def test_a_request_larger_than_the_queue_waits_in_parts_and_leaves_room(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=1, max_rows=4)
    rig.occupy()
    large = rig.submit(*range(30))
    assert (rig.work.load().queued_rows, rig.work.load().places_taken) == (30, 1)
    small = [rig.submit(value) for value in (40, 41, 42)]
    assert isinstance(refusal(rig, 43), QueueFull)
    rig.free()
    assert_answers(large, *range(30))
    for pending, value in zip(small, (40, 41, 42), strict=True):
        assert_answers(pending, value)


def test_a_small_request_is_in_the_next_batch_although_a_large_one_waits(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(start=False, depth=2)
    large = rig.submit(*range(30))
    assert rig.work.borrow()
    first = rig.work.next_now()
    small = rig.submit(40)
    rig.clock.advance(1.2)
    second = rig.work.next_now()
    assert isinstance(first, Dispatch)
    assert isinstance(second, Dispatch)
    assert (first.results, second.results) == ((large,), (small, large))


@pytest.mark.parametrize(
    ("timeout_s", "kind", "retry_after_s"),
    [
        pytest.param(5.1, DeadlineTooShort, None, id="not-even-on-an-idle-device"),
        pytest.param(5.9, Shed, 1.1, id="not-before-the-batch-in-flight-has-ended"),
        pytest.param(7.1, type(None), None, id="in-time"),
    ],
)
def test_a_request_is_refused_for_good_if_an_idle_device_could_not_answer_it_in_time(
    make_rig: RigMaker, timeout_s: float, kind: type, retry_after_s: float | None
) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    refused = refusal(rig, *range(17), timeout_s=timeout_s)
    assert type(refused) is kind
    if retry_after_s is not None:
        assert isinstance(refused, Shed)
        assert refused.retry_after_s == pytest.approx(retry_after_s)
    if kind is DeadlineTooShort:
        assert not refused.retry
        assert str(refused) == (
            "an answer within 5.1 s is impossible: an idle device needs 5.8 s for 17 rows; "
            "send fewer rows in a request, or allow more time"
        )


def test_a_refused_request_has_no_outcome_and_is_not_queued(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1, max_rows=1)
    rig.occupy()
    rig.submit(0)
    pending = rig.pending(1, 2)
    with pytest.raises(QueueFull):
        queue(rig.work, pending)
    assert not pending.ready
    assert rig.work.load().queued_rows == 1


@pytest.mark.parametrize(
    ("rows", "timeout_s", "kind"),
    [
        pytest.param(1, 300.0, type(None), id="it-would-be-accepted"),
        pytest.param(3, 300.0, QueueFull, id="no-room"),
        pytest.param(1, 2.1, Shed, id="too-late"),
        pytest.param(1, 0.5, DeadlineTooShort, id="too-short"),
    ],
)
def test_a_probe_tells_the_refusal_that_a_request_would_get(
    make_rig: RigMaker, rows: int, timeout_s: float, kind: type
) -> None:
    rig = make_rig(depth=1, max_rows=5)
    rig.occupy()
    for values in ((1, 2), (3, 4), (5,), (6,)):  # of two rows one takes a place
        rig.submit(*values)
    now = rig.clock()
    probe = AdmissionProbe(rows, None, now, now + timeout_s, DEFAULT_PRIORITY)
    probed = rig.work.probe(probe)
    assert type(probed) is kind
    assert rig.work.load().queued_rows == 6, "a probe is not queued"
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
    assert rig.work.borrow()
    dispatch = rig.work.next_now()
    assert isinstance(dispatch, Dispatch)
    stays = rig.submit(7)
    assert rig.work.load().queued_rows == 3
    now = rig.clock()
    rig.work.complete(dispatch, now, now, failed=True)
    assert rig.work.load().queued_rows == 1
    assert list(rig.work._waiting.values()) == [stays]


# --- costs ---------------------------------------------------------------------------------------


def test_samples_are_added_and_copied_under_the_lock_and_applied_without_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is made while another thread appends fails; applying takes up to 100 ms."""
    locked: list[tuple[str, bool]] = []

    def watch(name: str) -> None:
        real = getattr(rig.costs, name)

        def call(*arguments: object) -> object:
            locked.append((name, rig.group.lock.locked()))
            return real(*arguments)

        monkeypatch.setattr(rig.costs, name, call)

    for name in ("observe", "samples", "correct"):
        watch(name)
    rig.submit(1).result()
    rig.threads.close(PATIENCE_S)
    rig.work.correct()
    assert set(locked) == {("observe", True), ("samples", True), ("correct", False)}
