"""What is served under one name: requests, counts and snapshots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import (
    Cancelled,
    DeadlineExceeded,
    ExecutionFailed,
    ModelFailed,
    NonFiniteOutput,
    NotReady,
    QueueFull,
    ShuttingDown,
)
from engine.models.model import Model, ModelState
from engine.models.tensors import Arrays
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import Cost
from engine.serving.endpoint import HUNG_TIMES, STALL_S
from engine.telemetry.snapshots import Counts, MemoryUse
from engine.testing import rows
from tests.engine.serving.rig import (
    COMPILING,
    FAILED,
    LOADING,
    PATIENCE_S,
    READY,
    WARMING,
    Life,
    LifeMaker,
    assert_answers,
    raises,
    refusal,
)

BUCKETS = (Bucket(1), Bucket(2), Bucket(4))


def test_a_ready_model_answers(ready: Life) -> None:
    assert_answers(ready.infer(rows(1, 2)), 1, 2)
    assert isinstance(ready.loaded, Model)
    assert ready.endpoint.interface.signature is ready.loaded.signature
    assert ready.endpoint.interface.processor is ready.loaded.processor


# --- counts --------------------------------------------------------------------------------------


def test_every_accepted_request_is_counted_with_its_one_outcome(live: LifeMaker) -> None:
    life = live(in_flight=1, max_queue_rows=5).bring_up()

    def function(inputs: Arrays) -> dict[str, Any]:
        return {"y": np.where(inputs["x"] == 13, np.nan, inputs["x"])}

    life.device.function = function
    first = life.occupy()
    good, bad, late, hasty, gone = (
        life.submit(rows(value), timeout_s)
        for value, timeout_s in ((1, None), (13, None), (2, 1.0), (4, 0.49), (3, None))
    )
    assert isinstance(refusal(life), QueueFull)
    gone.cancel()
    life.clock.advance(1.0)
    for expired in (late, hasty):
        with pytest.raises(DeadlineExceeded):
            expired.result()
    life.free()
    for pending in (first, good):
        pending.result()
    with pytest.raises(NonFiniteOutput):
        bad.result()
    life.observer.wait_for("batch_done", 2)
    assert life.counts == Counts(
        accepted=6,
        refused=1,
        shed=0,
        succeeded=2,
        failed=0,
        expired=1,
        cancelled=1,
        nonfinite=1,
        own_deadline=1,
        batches=2,
        batches_failed=0,
        rows=3,
        rows_answered=2,
        padded_rows=5,
    )
    assert [rows for _, rows, _ in life.observer.named("refused")] == [1]
    assert len(life.observer.named("queued")) == 6


@pytest.mark.parametrize(
    ("timeout_s", "own"),
    [(None, False), (0.3, False), (9.0, False), (0.29, True), (0.0001, True)],
)
def test_a_deadline_is_the_clients_own_if_it_is_shorter_than_slo_and_timeout(
    live: LifeMaker, timeout_s: float | None, own: bool
) -> None:
    # the timeout of a model may be shorter than its objective, and then no request has more time
    life = live(timeout_s=0.3, slo_s=0.5).bring_up()
    life.occupy()
    late = life.submit(rows(1), timeout_s)
    life.clock.advance(9.0)
    with pytest.raises(DeadlineExceeded):
        late.result()
    assert (life.counts.expired, life.counts.own_deadline) == (int(not own), int(own))
    life.free()


def test_a_failed_batch_and_its_padding_are_counted(ready: Life) -> None:
    ready.device.fail_result = RuntimeError("boom")
    with pytest.raises(ExecutionFailed):
        ready.infer(rows(1, 2, 3))
    ready.observer.wait_for("batch_done")
    counts = ready.counts
    assert (counts.batches, counts.batches_failed) == (1, 1)
    assert (counts.rows, counts.padded_rows) == (3, 1)
    assert (counts.failed, counts.succeeded) == (1, 0)


def test_a_request_reports_where_its_time_went(live: LifeMaker) -> None:
    life = live(in_flight=1).bring_up()
    first = life.occupy()
    second = life.submit(rows(1))
    third = life.submit(rows(2))
    life.clock.advance(2.0)
    third.cancel()
    life.free()
    for pending in (first, second):
        pending.result()
    reports = [report for _, report in life.observer.wait_for("request_done", 3)]
    assert [(r.queue_s, r.latency_s, type(r.error)) for r in reports] == [
        (None, 2.0, Cancelled),
        (0.0, 2.0, type(None)),
        (2.0, 2.0, type(None)),
    ]


def test_every_refusal_is_counted_once_and_with_its_rows_where_they_are_known(
    live: LifeMaker,
) -> None:
    life = live(in_flight=1, max_queue_rows=4)
    refused = [refusal(life)]
    life.bring_up().occupy()
    for value in (1, 2, 3):
        life.submit(rows(value))
    life.submit(rows(3))
    refused.append(refusal(life, rows(4, 5)))
    life.endpoint.drain()
    refused.append(refusal(life))
    assert [type(error) for error in refused] == [NotReady, QueueFull, ShuttingDown]
    heard = life.observer.named("refused")
    assert heard == [
        ("puppet", count, error) for count, error in zip((0, 2, 0), refused, strict=True)
    ]
    assert life.counts.refused == 3


# --- snapshots -----------------------------------------------------------------------------------


def test_the_snapshot_has_the_memory_once_compiled_and_the_costs_once_verified(
    live: LifeMaker,
) -> None:
    life = live(required=False)
    snapshot = life.snapshot()
    assert (snapshot.cost_table, snapshot.memory, snapshot.state) == ((), None, LOADING)
    assert not snapshot.serving
    states: dict[ModelState, MemoryUse | None] = {}
    life.observer.reactions["state_changed"] = lambda _model, state, _reason: states.setdefault(
        state, life.snapshot().memory
    )
    life.bring_up()
    snapshot = life.snapshot()
    assert states == {COMPILING: None, WARMING: snapshot.memory, READY: snapshot.memory}
    assert snapshot.cost_table == tuple(
        Cost(b.rows, None, 1e-9, 1e-9, dominated=b.rows < 4) for b in BUCKETS
    )
    assert isinstance(snapshot.memory, MemoryUse)
    assert [bucket[:2] for bucket in snapshot.memory.buckets] == [(1, None), (2, None), (4, None)]
    assert (snapshot.name, snapshot.required, snapshot.serving) == ("puppet", False, True)


def test_the_snapshot_shows_what_waits_and_what_is_in_flight(live: LifeMaker) -> None:
    life = live(in_flight=1).bring_up()
    life.occupy()
    life.submit(rows(1, 2))
    load = life.snapshot().load
    assert (load.queued_rows, load.queued_requests, load.batches_in_flight) == (2, 1, 1)


@pytest.mark.parametrize(
    ("seconds", "serving"),
    [
        pytest.param(STALL_S - 1, True, id="long-but-not-absurd"),
        pytest.param(STALL_S + 1, False, id="overdue-beyond-doubt"),
    ],
)
def test_a_device_that_does_not_answer_is_no_longer_served(
    ready: Life, seconds: float, serving: bool
) -> None:
    pending = ready.occupy()
    ready.clock.advance(seconds)
    snapshot = ready.snapshot()
    assert snapshot.serving is serving
    assert snapshot.load.stalled_s == (0.0 if serving else seconds)
    ready.free()
    assert pending.wait(PATIENCE_S)
    ready.observer.wait_for("batch_done")
    assert ready.snapshot().serving


def test_an_expensive_bucket_may_take_longer_before_it_counts_as_stuck(live: LifeMaker) -> None:
    life = live(rows=(1,))

    def slow(inputs: Arrays) -> dict[str, Any]:
        life.clock.advance(5.0)
        return {"y": inputs["x"]}

    life.compiler.function = slow
    life.bring_up()
    life.occupy()
    life.clock.advance(STALL_S + 20 * 5.0)
    assert life.snapshot().serving
    life.clock.advance(1.0)
    assert not life.snapshot().serving


def test_a_batch_that_never_ends_makes_the_model_dead(ready: Life) -> None:
    """A deadlocked callback, a lost device: waiting does not help, a new process does."""
    ready.occupy()
    ready.clock.advance(HUNG_TIMES * STALL_S)
    assert not ready.snapshot().dead
    ready.clock.advance(STALL_S)
    assert ready.snapshot().dead
    ready.free()


# --- what must not hurt it -----------------------------------------------------------------------


class Death(BaseException):
    """Not an `Exception`: it ends the thread that it is raised in."""


def test_when_a_thread_dies_the_model_has_failed(ready: Life) -> None:
    ready.device.fail_launch = Death()
    with pytest.raises(ModelFailed, match="brim-dispatcher-puppet died: Death"):
        ready.infer(rows(1))
    ready.observer.wait_for("state_changed", 4)
    snapshot = ready.snapshot()
    assert snapshot.state is FAILED
    assert snapshot.reason == "brim-dispatcher-puppet died: Death()"
    assert not snapshot.serving
    assert ready.observer.wait_for("broken") == [("puppet", snapshot.reason)]


def test_an_observer_that_breaks_does_not_break_the_model(live: LifeMaker) -> None:
    life = live()
    events = ("state_changed", "compiled", "verified", "queued", "batch_done", "request_done")
    life.observer.reactions = dict.fromkeys(events, raises(ZeroDivisionError()))
    life.bring_up()
    assert_answers(life.infer(rows(1)), 1)
    assert_answers(life.infer(rows(2)), 2)
    assert life.counts.succeeded == 2
    assert {name for name, *_ in life.observer.events} >= set(events) - {"batch_done"}
