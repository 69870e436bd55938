"""Results are scattered to their requests; a failed batch or row fails its own requests only."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from engine.errors import ExecutionFailed, ModelFailed, NonFiniteOutput
from engine.models.tensors import Array, Arrays, TensorSpec
from engine.runtime import dispatcher
from engine.runtime import pending as pending_module
from engine.runtime.pending import PendingResult
from engine.telemetry.snapshots import LoadSnapshot
from engine.testing import PuppetExecutable, double_plus_one, puppet_model
from tests.engine.runtime.rig import (
    PATIENCE_S,
    Death,
    Rig,
    RigMaker,
    assert_answers,
    assert_threads_end,
    error_of,
)

UNLUCKY = 13.0


# --- times ---------------------------------------------------------------------------------------


def test_the_load_is_updated_before_a_client_is_answered(rig: Rig) -> None:
    for value in range(20):
        rig.submit(value).result()
        assert rig.work.load() == LoadSnapshot()


def test_a_batch_says_how_long_it_took(rig: Rig) -> None:
    def slow(inputs: Arrays) -> dict[str, Array]:
        rig.clock.advance(0.25)
        return double_plus_one(inputs)

    rig.devices[1].function = slow
    pending = rig.submit(1)
    (report,) = rig.reports(1)
    assert (report.gather_s, report.execute_s, report.failed) == (0.0, 0.25, False)
    assert pending.launched_at == 1000.0
    assert pending.finished_at == 1000.25


def test_every_time_in_a_trace_is_when_it_says(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def taking(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            rig.clock.advance(seconds)
            return function(*arguments)

        return slow

    monkeypatch.setattr(dispatcher, "gather", taking(1.0, dispatcher.gather))
    monkeypatch.setattr(pending_module, "copy_outputs", taking(8.0, pending_module.copy_outputs))
    rig.devices[1].function = taking(4.0, double_plus_one)
    pending = rig.submit(1)
    (report,) = rig.reports(1)
    assert (report.gather_s, report.execute_s, report.scatter_s) == (1.0, 4.0, 8.0)
    assert pending.gathering_at == 1000.0
    assert pending.launched_at == 1001.0
    assert pending.computed_at == 1005.0
    assert pending.finished_at == 1013.0


def test_a_split_request_computes_from_its_first_launch_to_its_last_end(
    make_rig: RigMaker,
) -> None:
    def slow(inputs: Arrays) -> dict[str, Array]:
        rig.clock.advance(1.0)
        return double_plus_one(inputs)

    rig = make_rig(slow, depth=1)
    pending = rig.submit(*range(8))
    assert_answers(pending, *range(8))
    assert [report.rows for report in rig.reports(2)] == [4, 4]
    assert (pending.launched_at, pending.computed_at) == (1000.0, 1002.0)


def test_a_batch_behind_another_is_timed_from_the_end_of_that_one(make_rig: RigMaker) -> None:
    rig = make_rig()
    rig.occupy(1)
    rig.submit(2)
    rig.pass_time(1.0)
    assert rig.launched(1) == [[1], [2]]
    rig.devices[1].proceed.release()
    rig.reports(1)
    rig.clock.advance(0.25)
    rig.free()
    assert [report.execute_s for report in rig.reports(2)] == [1.0, 0.25]


# --- batches that end at once --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quick", "thread"),
    [
        pytest.param(True, "brim-dispatcher-puppet", id="ended-at-once"),
        pytest.param(False, "brim-completion-puppet", id="on-the-device"),
    ],
)
def test_a_batch_that_has_ended_when_it_is_launched_wakes_no_other_thread(
    rig: Rig, quick: bool, thread: str
) -> None:
    names = rig.result_threads()
    rig.devices[1].quick = quick
    for value in range(3):
        assert_answers(rig.submit(value), value)
    assert [report.rows for report in rig.reports(3)] == [1, 1, 1]
    assert names == [thread] * 3


def test_a_batch_that_ends_at_once_does_not_overtake_one_that_does_not(rig: Rig) -> None:
    names = rig.result_threads()
    before = rig.occupy(0)
    rig.devices[2].quick = True
    rig.devices[2].held = False
    behind = [rig.submit(1), rig.submit(2)]
    rig.pass_time(1.0)
    assert rig.launched(2) == [[1, 2]]
    assert not any(pending.ready for pending in behind)
    rig.free()
    assert_answers(before, 0)
    for pending, value in zip(behind, (1, 2), strict=True):
        assert_answers(pending, value)
    assert [report.rows for report in rig.reports(2)] == [1, 2]
    assert names == ["brim-completion-puppet"] * 2


def test_when_the_completion_thread_has_caught_up_the_dispatcher_completes_again(rig: Rig) -> None:
    names = rig.result_threads()
    assert_answers(rig.submit(0), 0)
    rig.reports(1)
    rig.devices[2].quick = True
    # the completion thread counts a batch only when it has reported it
    for _ in range(1_000_000):
        if rig.threads._completion._taken:
            break
        os.sched_yield()
    assert_answers(rig.submit(1, 2), 1, 2)
    assert names == ["brim-completion-puppet", "brim-dispatcher-puppet"]


def test_an_error_while_the_dispatcher_completes_ends_the_dispatcher(rig: Rig) -> None:
    rig.devices[1].quick = True
    rig.devices[1].fail_result = Death("at the result")
    pending = rig.submit(1)
    assert rig.died.wait(PATIENCE_S)
    assert rig.deaths == ["brim-dispatcher-puppet died: Death('at the result')"]
    assert isinstance(error_of(pending), ModelFailed)
    assert rig.work.load() == LoadSnapshot()
    assert_threads_end(rig)


# --- a batch fails -------------------------------------------------------------------------------


def wrong_shape(inputs: Arrays) -> dict[str, Array]:
    return {"y": inputs["x"][1:] * 2 + 1}


def wrong_name(inputs: Arrays) -> dict[str, Array]:
    return {"z": inputs["x"]}


def fail_launch(puppet: PuppetExecutable) -> None:
    puppet.fail_launch = RuntimeError("boom")


def fail_result(puppet: PuppetExecutable) -> None:
    puppet.fail_result = RuntimeError("boom")


def give_wrong_shape(puppet: PuppetExecutable) -> None:
    puppet.function = wrong_shape


def give_wrong_name(puppet: PuppetExecutable) -> None:
    puppet.function = wrong_name


@pytest.mark.parametrize(
    ("break_it", "cause"),
    [
        pytest.param(fail_launch, RuntimeError, id="it-does-not-start"),
        pytest.param(fail_result, RuntimeError, id="it-does-not-finish"),
        pytest.param(give_wrong_shape, AssertionError, id="too-few-rows-come-back"),
        pytest.param(give_wrong_name, KeyError, id="another-tensor-comes-back"),
    ],
)
def test_a_batch_that_fails_fails_its_own_requests_each_with_its_own_error(
    make_rig: RigMaker, break_it: Callable[[PuppetExecutable], None], cause: type[Exception]
) -> None:
    rig = make_rig(depth=1)
    before = rig.occupy(0)
    together = [rig.submit(1), rig.submit(2)]
    rig.quiet()
    break_it(rig.devices[2])
    rig.free()
    errors = [error_of(pending) for pending in together]
    assert all(type(error) is ExecutionFailed for error in errors)
    assert all(type(error.__cause__) is cause for error in errors)
    assert errors[0] is not errors[1]
    assert_answers(before, 0)
    assert_answers(rig.submit(3), 3)
    assert [report.failed for report in rig.reports(3)] == [False, True, False]
    assert rig.work.load() == LoadSnapshot()
    assert rig.deaths == []


def test_a_listener_hears_of_all_requests_of_a_failed_batch_in_one_call(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=1)
    rig.occupy(0)
    calls: list[Sequence[PendingResult]] = []
    together = [rig.submit(1), rig.submit(2)]
    for pending in together:
        pending.on_ready(calls.append)
    rig.quiet()
    rig.devices[2].fail_result = RuntimeError("boom")
    rig.free()
    rig.reports(2)
    assert calls == [together]


def test_the_device_s_message_reaches_the_log_and_not_the_client(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.devices[1].fail_result = RuntimeError("out of memory")
    said = str(error_of(rig.submit(1)))
    rig.reports(1)
    what, _, reference = said.partition(" (")
    assert what == "a batch of model 'puppet' failed on the device"
    assert f"{reference.rstrip(')')}: {what}" in caplog.text
    assert "RuntimeError: out of memory" in caplog.text


def test_the_rest_of_a_request_whose_first_part_failed_never_runs(make_rig: RigMaker) -> None:
    rig = make_rig()
    rig.devices[4].fail_result = RuntimeError("boom")
    pending = rig.submit(1, 2, 3, 4, 5)
    assert isinstance(error_of(pending), ExecutionFailed)
    rig.reports(1)
    rig.quiet()
    assert rig.work.load() == LoadSnapshot()
    assert rig.launched(1) == []


# --- a row fails ---------------------------------------------------------------------------------


def unlucky(inputs: Arrays) -> dict[str, Array]:
    """Not a number for 13, and what the padding gives."""
    return {"y": np.where(inputs["x"] == UNLUCKY, np.nan, inputs["x"] * 2 + 1)}


def test_a_row_that_makes_nan_fails_alone(make_rig: RigMaker) -> None:
    rig = make_rig(unlucky, depth=1)
    rig.occupy()
    good, bad, fine = rig.submit(1), rig.submit(2, UNLUCKY), rig.submit(3)
    rig.quiet()
    rig.free()
    assert_answers(good, 1)
    assert_answers(fine, 3)
    error = error_of(bad)
    assert isinstance(error, NonFiniteOutput)
    assert str(error) == "the model made NaN or infinity in 'y' for this request's rows"
    assert not rig.reports(2)[1].failed


def test_a_model_may_say_that_nan_is_an_answer(make_rig: RigMaker) -> None:
    spec = TensorSpec("y", "FP32", (2,), nonfinite=True)
    rig = make_rig(unlucky, model=puppet_model(outputs=(spec,)))
    answer = rig.submit(UNLUCKY).result()["y"]
    assert np.isnan(answer[0, 0])
