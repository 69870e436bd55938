"""The totals: every request is counted once, and its seconds end up where they were spent."""

from __future__ import annotations

import threading
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.buckets import Bucket
from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    ExecutionFailed,
    NonFiniteOutput,
    QueueFull,
    ShuttingDown,
)
from engine.observer import BatchReport, Phases, TicketReport
from engine.stats import BatchStats, Duration
from engine.tally import Tally
from engine.testing import FakeClock

OUTCOMES: Final = ("succeeded", "failed", "expired", "cancelled")
PHASES: Final = Phases(queue_s=1.0, input_s=2.0, infer_s=4.0, output_s=8.0)


def report(
    error: BrimError | None = None, rows: int = 3, phases: Phases | None = PHASES
) -> TicketReport:
    seconds = (
        15.0
        if phases is None
        else sum((phases.queue_s, phases.input_s, phases.infer_s, phases.output_s))
    )
    return TicketReport(rows, None, phases, seconds, error)


def batch(rows: int, failed: bool = False) -> BatchReport:
    times = {"gather_s": 0.25, "execute_s": 2.0, "scatter_s": 0.5}
    return BatchReport(Bucket(4), rows, "full", **times, failed=failed)


def test_at_first_there_is_nothing() -> None:
    tally = Tally()
    counts, durations = tally.counts(), tally.durations()
    assert {getattr(counts, name) for name in counts.__dataclass_fields__} == {0}
    assert {getattr(durations, name) for name in durations.__dataclass_fields__} == {Duration(0, 0)}
    assert (tally.batches(), tally.last_inference_ms) == ((), 0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(None, "succeeded", id="answered"),
        pytest.param(Cancelled("left"), "cancelled", id="the client left"),
        pytest.param(DeadlineExceeded("late"), "expired", id="too late"),
        pytest.param(ExecutionFailed("no"), "failed", id="the device failed"),
        pytest.param(NonFiniteOutput("nan"), "failed", id="a kind of failure"),
        pytest.param(ShuttingDown("bye", 1), "failed", id="the server stopped first"),
    ],
)
def test_a_request_is_counted_once_by_how_it_ended(error: BrimError | None, outcome: str) -> None:
    tally = Tally()
    tally.queued("m", 3)
    tally.tickets_done("m", [report(error)])
    counts = tally.counts()
    assert counts.accepted == 1
    assert {name: getattr(counts, name) for name in OUTCOMES} == {
        name: int(name == outcome) for name in OUTCOMES
    }
    assert counts.rows_answered == (3 if error is None else 0)


def test_the_seconds_of_an_answered_request_are_in_its_phases() -> None:
    tally = Tally()
    for _ in range(2):
        tally.tickets_done("m", [report()])
    durations = tally.durations()
    assert durations.success == Duration(2, 30.0)
    assert durations.queue == Duration(2, 2.0)
    assert durations.compute_input == Duration(2, 4.0)
    assert durations.compute_infer == Duration(2, 8.0)
    assert durations.compute_output == Duration(2, 16.0)
    assert durations.fail == Duration(0, 0.0)


def test_the_seconds_of_a_failed_request_are_in_no_phase_though_it_was_on_the_device() -> None:
    tally = Tally()
    tally.tickets_done("m", [report(ExecutionFailed("no"))])
    tally.tickets_done("m", [report(DeadlineExceeded("late"), phases=None)])
    tally.refused("m", 1, QueueFull("full", 1.0))
    durations = tally.durations()
    assert durations.fail == Duration(3, 30.0)
    assert durations.success == durations.queue == durations.compute_infer == Duration(0, 0.0)


SECONDS = st.floats(0, 100)


@given(
    st.lists(
        st.tuples(st.builds(Phases, SECONDS, SECONDS, SECONDS, SECONDS), st.booleans()), max_size=9
    )
)
def test_the_phases_add_up_to_success(requests: list[tuple[Phases, bool]]) -> None:
    tally = Tally()
    for phases, good in requests:
        tally.tickets_done("m", [report(None if good else Cancelled("left"), phases=phases)])
    d = tally.durations()
    parts = (d.queue, d.compute_input, d.compute_infer, d.compute_output)
    assert sum(part.seconds for part in parts) == pytest.approx(d.success.seconds)
    assert {part.count for part in parts} == {d.success.count}
    assert d.success.count + d.fail.count == len(requests)


def test_the_last_inference_is_the_last_that_was_answered() -> None:
    wall = FakeClock(1_700_000_000.25)
    tally = Tally(wall)
    tally.tickets_done("m", [report()])
    wall.advance(60)
    tally.tickets_done("m", [report(Cancelled("left"))])
    assert tally.last_inference_ms == 1_700_000_000_250


def test_batches_are_told_apart_by_their_real_rows() -> None:
    tally = Tally()
    for rows in (3, 1, 3):
        tally.batch_done("m", batch(rows))
    assert tally.batches() == (
        BatchStats(1, Duration(1, 0.25), Duration(1, 2.0), Duration(1, 0.5)),
        BatchStats(3, Duration(2, 0.5), Duration(2, 4.0), Duration(2, 1.0)),
    )
    counts = tally.counts()
    assert (counts.batches, counts.batches_failed, counts.rows) == (3, 0, 7)
    assert counts.padded_rows == 5


def test_a_batch_that_failed_was_executed_but_says_nothing_of_what_batches_cost() -> None:
    tally = Tally()
    tally.batch_done("m", batch(3, failed=True))
    counts = tally.counts()
    assert (counts.batches, counts.batches_failed) == (1, 1)
    assert (counts.rows, counts.padded_rows) == (3, 1)
    assert tally.batches() == ()


def test_no_count_is_lost_between_threads() -> None:
    tally, together = Tally(), threading.Barrier(4)

    def count() -> None:
        together.wait()
        for _ in range(500):
            tally.queued("m", 1)
            tally.tickets_done("m", [report()])
            tally.batch_done("m", batch(1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = tally.counts()
    assert (counts.accepted, counts.succeeded, counts.batches) == (2000, 2000, 2000)
    assert tally.durations().success == Duration(2000, 30_000.0)
    assert tally.batches()[0].compute_infer == Duration(2000, 4000.0)
