"""The states of a model: forward only, with the reason and the progress."""

from __future__ import annotations

import pytest

from engine.errors import BrimError, NotReady, ShuttingDown
from engine.scheduling.buckets import Bucket
from engine.telemetry.snapshots import Progress
from engine.testing import rows
from tests.engine.serving.rig import (
    CLOSED,
    COMPILING,
    DRAINING,
    FAILED,
    PATIENCE_S,
    READY,
    WARMING,
    Life,
    LifeMaker,
    assert_answers,
    refusal,
)


def test_a_model_comes_up_step_by_step_and_goes_down_the_same_way(ready: Life) -> None:
    assert ready.endpoint.lifecycle.state is READY
    ready.endpoint.close(PATIENCE_S)
    assert ready.states == [COMPILING, WARMING, READY, DRAINING, CLOSED]


def test_before_it_is_ready_a_model_says_how_far_it_is(live: LifeMaker) -> None:
    error = refusal(live())
    assert isinstance(error, NotReady)
    assert str(error) == "model 'puppet' is loading: 0 of 3 buckets are verified"
    assert error.retry_after_s == 1.0


def test_when_to_come_back_follows_from_what_is_done(live: LifeMaker) -> None:
    """After 12 s one of three buckets is verified and all are compiled: 4 of 6 steps."""
    life = live()
    errors: list[BrimError] = []

    def look(_model: str, bucket: Bucket) -> None:
        if bucket == Bucket(1):
            life.clock.advance(12.0)
            errors.append(refusal(life))

    life.observer.reactions["verified"] = look
    life.bring_up()
    assert str(errors[0]) == "model 'puppet' is warming: 1 of 3 buckets are verified"
    assert isinstance(errors[0], NotReady)
    assert errors[0].retry_after_s == pytest.approx(12 / 4 * 6 - 12)


def test_progress_stops_with_the_start_up(live: LifeMaker) -> None:
    life = live()
    assert life.snapshot().progress == Progress(0, 3, 0.0, None)
    life.bring_up()
    before = life.snapshot().progress
    life.clock.advance(100)
    life.endpoint.drain()
    assert life.snapshot().progress == before == Progress(3, 3, 0.0, 0.0)


def test_a_failed_model_stays_failed_until_it_is_closed(live: LifeMaker) -> None:
    life = live(RuntimeError("broken")).bring_up()
    life.endpoint.fail("broken again")
    life.endpoint.drain()
    assert life.snapshot().reason == "RuntimeError: broken"
    assert life.endpoint.lifecycle.state is FAILED
    life.endpoint.close(0.0)
    assert life.states == [FAILED, CLOSED]


def test_a_draining_model_refuses_and_finishes_what_is_there(ready: Life) -> None:
    pending = ready.occupy()
    waiting = ready.submit(rows(1))
    ready.endpoint.drain()
    error = refusal(ready)
    assert isinstance(error, ShuttingDown)
    assert error.retry_after_s == 1.0
    assert not ready.snapshot().serving
    ready.free()
    assert_answers(pending.result(), 0)
    assert_answers(waiting.result(), 1)


def test_a_closed_model_has_answered_every_request(ready: Life) -> None:
    computing = ready.occupy()
    ready.endpoint.close(0.0)
    with pytest.raises(ShuttingDown):
        computing.result()
    assert ready.counts.accepted == ready.counts.failed == 1
    assert isinstance(refusal(ready), ShuttingDown)


def test_close_is_idempotent_and_may_come_before_anything_else(live: LifeMaker) -> None:
    life = live()
    life.endpoint.close(0.0)
    life.endpoint.close(0.0)
    assert life.states == [DRAINING, CLOSED]
    assert isinstance(refusal(life), ShuttingDown)
