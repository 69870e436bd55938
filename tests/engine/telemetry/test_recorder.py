"""The recorder: every request is counted once, and its seconds are in the phase that took them."""

from __future__ import annotations

import math
import threading
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    ExecutionFailed,
    NonFiniteOutput,
    QueueFull,
    Shed,
    ShuttingDown,
)
from engine.scheduling.buckets import Bucket
from engine.telemetry.events import BatchReport, Phases, RequestReport
from engine.telemetry.recorder import COUNT_AT, ModelRecorder
from engine.telemetry.snapshots import OUTCOMES, BatchStats, Duration
from engine.testing import FakeClock


@pytest.fixture
def recorder(clock: FakeClock) -> ModelRecorder:
    return ModelRecorder(clock)


PHASES: Final = Phases(queue_s=1.0, input_s=2.0, infer_s=4.0, output_s=8.0)


def report(
    error: BrimError | None = None, rows: int = 3, phases: Phases | None = PHASES
) -> RequestReport:
    seconds = (
        15.0
        if phases is None
        else sum((phases.queue_s, phases.input_s, phases.infer_s, phases.output_s))
    )
    return RequestReport(rows, None, phases, seconds, error)


def batch(rows: int, failed: bool = False) -> BatchReport:
    times = {"gather_s": 0.25, "execute_s": 2.0, "scatter_s": 0.5}
    return BatchReport(Bucket(4), rows, "full", **times, failed=failed)


def test_a_new_recorder_has_recorded_nothing(recorder: ModelRecorder) -> None:
    activity = recorder.activity()
    counts, durations = activity.counts, activity.durations
    assert {getattr(counts, name) for name in counts.__dataclass_fields__} == {0}
    assert {getattr(durations, name) for name in durations.__dataclass_fields__} == {Duration(0, 0)}
    assert (activity.batches, activity.last_inference_ms) == ((), 0)
    assert (activity.refusals, activity.reasons) == ({}, {})
    assert (activity.rows_completed, activity.padded_rows_completed) == (0, 0)
    for name in activity.histograms.__dataclass_fields__:
        histogram = getattr(activity.histograms, name)
        assert (sum(histogram.counts), histogram.sum) == (0, 0.0)
    assert activity.recent.requests_per_second == 0.0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(None, "succeeded", id="answered"),
        pytest.param(Cancelled("left"), "cancelled", id="the client left"),
        pytest.param(DeadlineExceeded("late"), "expired", id="too late"),
        pytest.param(ExecutionFailed("no"), "failed", id="the device failed"),
        pytest.param(NonFiniteOutput("nan"), "nonfinite", id="its own rows"),
        pytest.param(ShuttingDown("bye", 1), "failed", id="the server stopped first"),
    ],
)
def test_a_request_is_counted_once_by_its_outcome(
    recorder: ModelRecorder, error: BrimError | None, outcome: str
) -> None:
    recorder.queued("m", 1)
    recorder.requests_done("m", [report(error)])
    counts = recorder.activity().counts
    assert counts.accepted == 1
    assert {name: getattr(counts, name) for name in OUTCOMES} == {
        name: int(name == outcome) for name in OUTCOMES
    }
    assert counts.rows_answered == (3 if error is None else 0)


def test_the_seconds_of_an_answered_request_are_in_its_phases(recorder: ModelRecorder) -> None:
    for _ in range(2):
        recorder.requests_done("m", [report()])
    durations = recorder.activity().durations
    assert durations.success == Duration(2, 30.0)
    assert durations.queue == Duration(2, 2.0)
    assert durations.compute_input == Duration(2, 4.0)
    assert durations.compute_infer == Duration(2, 8.0)
    assert durations.compute_output == Duration(2, 16.0)
    assert durations.fail == Duration(0, 0.0)


def test_the_seconds_of_a_failed_request_are_in_no_phase_though_it_was_on_the_device(
    recorder: ModelRecorder,
) -> None:
    recorder.requests_done("m", [report(ExecutionFailed("no"))])
    recorder.requests_done("m", [report(DeadlineExceeded("late"), phases=None)])
    recorder.refused("m", 1, QueueFull("full", 1.0))
    durations = recorder.activity().durations
    assert durations.fail == Duration(3, 30.0)
    assert durations.success == durations.queue == durations.compute_infer == Duration(0, 0.0)


SECONDS = st.floats(0, 100)


@given(
    st.lists(
        st.tuples(st.builds(Phases, SECONDS, SECONDS, SECONDS, SECONDS), st.booleans()), max_size=9
    )
)
def test_the_phases_add_up_to_success(requests: list[tuple[Phases, bool]]) -> None:
    recorder = ModelRecorder(FakeClock())
    for phases, good in requests:
        recorder.requests_done("m", [report(None if good else Cancelled("left"), phases=phases)])
    d = recorder.activity().durations
    parts = (d.queue, d.compute_input, d.compute_infer, d.compute_output)
    assert sum(part.seconds for part in parts) == pytest.approx(d.success.seconds)
    assert {part.count for part in parts} == {d.success.count}
    assert d.success.count + d.fail.count == len(requests)


def test_the_last_inference_is_the_last_that_succeeded() -> None:
    wall = FakeClock(1_700_000_000.25)
    recorder = ModelRecorder(FakeClock(), wall)
    recorder.requests_done("m", [report()])
    wall.advance(60)
    recorder.requests_done("m", [report(Cancelled("left"))])
    assert recorder.activity().last_inference_ms == 1_700_000_000_250


def test_batches_are_counted_by_their_real_rows(recorder: ModelRecorder) -> None:
    for rows in (3, 1, 3):
        recorder.batch_done("m", batch(rows))
    assert recorder.activity().batches == (
        BatchStats(1, Duration(1, 0.25), Duration(1, 2.0), Duration(1, 0.5)),
        BatchStats(3, Duration(2, 0.5), Duration(2, 4.0), Duration(2, 1.0)),
    )
    counts = recorder.activity().counts
    assert (counts.batches, counts.batches_failed, counts.rows) == (3, 0, 7)
    assert counts.padded_rows == 5


def test_a_failed_batch_counts_as_executed_but_not_in_the_statistics_per_batch(
    recorder: ModelRecorder,
) -> None:
    recorder.batch_done("m", batch(3, failed=True))
    counts = recorder.activity().counts
    assert (counts.batches, counts.batches_failed) == (1, 1)
    assert (counts.rows, counts.padded_rows) == (3, 1)
    assert recorder.activity().batches == ()


def test_no_count_is_lost_between_threads(recorder: ModelRecorder) -> None:
    together = threading.Barrier(4)

    def count() -> None:
        together.wait()
        for _ in range(500):
            recorder.queued("m", 1)
            recorder.requests_done("m", [report()])
            recorder.batch_done("m", batch(1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = recorder.activity().counts
    assert (counts.accepted, counts.succeeded, counts.batches) == (2000, 2000, 2000)
    assert recorder.activity().durations.success == Duration(2000, 30_000.0)
    assert recorder.activity().batches[0].compute_infer == Duration(2000, 4000.0)
    latency = recorder.activity().histograms.request_latency_s
    assert (sum(latency.counts), latency.sum) == (2000, 30_000.0)


def test_refusals_are_counted_by_error_and_batches_by_reason(recorder: ModelRecorder) -> None:
    for error in (QueueFull("full", 1.0), Shed("late", 1.0), QueueFull("full", 1.0)):
        recorder.refused("m", 1, error)
    recorder.batch_done("m", batch(3))
    recorder.batch_done("m", batch(3, failed=True))
    activity = recorder.activity()
    assert activity.refusals == {"QueueFull": 2, "Shed": 1}
    assert activity.reasons == {"full": 2}
    assert (activity.counts.refused, activity.counts.shed) == (3, 1)


def test_rows_and_histograms_of_batches_leave_out_those_that_failed(
    recorder: ModelRecorder,
) -> None:
    recorder.batch_done("m", batch(3))
    recorder.batch_done("m", batch(2, failed=True))
    activity = recorder.activity()
    assert (activity.rows_completed, activity.padded_rows_completed) == (3, 1)
    assert (activity.histograms.batch_rows.sum, activity.histograms.execution_s.sum) == (3, 2.0)
    assert activity.recent.fill == 0.75


def test_the_queue_wait_of_a_request_that_was_not_dispatched_is_unknown(
    recorder: ModelRecorder,
) -> None:
    late = RequestReport(1, None, None, 9.0, DeadlineExceeded("late"))
    dispatched = RequestReport(1, 0.5, PHASES, 15.0, None)
    recorder.requests_done("m", [late, dispatched])
    histograms = recorder.activity().histograms
    assert (sum(histograms.queue_wait_s.counts), histograms.queue_wait_s.sum) == (1, 0.5)
    assert (sum(histograms.request_latency_s.counts), histograms.request_latency_s.sum) == (2, 24.0)


def test_an_activity_does_not_change_when_more_is_recorded(recorder: ModelRecorder) -> None:
    recorder.requests_done("m", [report()])
    before = recorder.activity()
    recorder.refused("m", 1, QueueFull("full", 1.0))
    recorder.batch_done("m", batch(3))
    recorder.requests_done("m", [report()])
    assert (before.refusals, before.reasons) == ({}, {})
    assert sum(before.histograms.request_latency_s.counts) == 1
    assert before.counts.succeeded == 1


def test_reports_are_counted_once_however_many_are_kept(recorder: ModelRecorder) -> None:
    for _ in range(2 * COUNT_AT + 7):
        recorder.requests_done("m", [report()])
        recorder.batch_done("m", batch(3))
    counts = recorder.activity().counts
    assert (counts.succeeded, counts.batches) == (2 * COUNT_AT + 7,) * 2
    assert recorder.activity().counts == counts


def test_a_report_belongs_to_its_own_moment_and_not_to_that_of_the_snapshot(
    recorder: ModelRecorder, clock: FakeClock
) -> None:
    recorder.requests_done("m", [report()])
    recorder.batch_done("m", batch(3))
    clock.advance(61.0)
    recent = recorder.activity().recent
    assert recent.requests_per_second == 0.0
    assert math.isnan(recent.fill)


def test_a_report_of_another_slot_leaves_the_kept_ones_where_they_belong(
    recorder: ModelRecorder, clock: FakeClock
) -> None:
    recorder.requests_done("m", [report()])
    clock.advance(61.0)
    recorder.requests_done("m", [report(ExecutionFailed("no"))])
    assert recorder.activity().recent.error_rate == 1.0
