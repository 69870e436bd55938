"""From a configuration to a version that serves, and everything that may fail on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from engine.errors import ModelFailed, ShuttingDown
from engine.models.model import Model, ModelState
from engine.models.tensors import Arrays
from engine.runtime.worker_threads import WorkerThreads
from engine.scheduling.buckets import Bucket
from engine.serving.bring_up import BringUp, Toolchain
from engine.serving.lifecycle import Lifecycle
from engine.serving.version import LoadedVersion
from engine.telemetry.snapshots import Progress
from engine.testing import PuppetCompiler, RecordingObserver, puppet_model, rows
from tests.engine.serving.rig import (
    CLOSED,
    COMPILING,
    DRAINING,
    FAILED,
    IDS,
    PATIENCE_S,
    READY,
    WARMING,
    Life,
    LifeMaker,
    assert_answers,
    refusal,
)

BUCKETS = (Bucket(1), Bucket(2), Bucket(4))


def test_every_bucket_is_compiled_and_then_verified_and_observed(ready: Life) -> None:
    assert {bucket for _, bucket in ready.observer.named("compiled")} == set(BUCKETS)
    assert [bucket for _, bucket in ready.observer.named("verified")] == list(BUCKETS)
    assert set(ready.compiler.executables) == set(BUCKETS)


# --- what fails on the way up --------------------------------------------------------------------


def mixes_rows(inputs: Arrays) -> dict[str, Any]:
    return {"y": inputs["x"] - inputs["x"].mean(axis=0)}


def counts_padding(inputs: Arrays) -> dict[str, Any]:
    return {"y": inputs["x"] + np.isnan(inputs["x"]).sum()}


def gives_nan(inputs: Arrays) -> dict[str, Any]:
    return {"y": inputs["x"] * np.nan}


def no_weights(life: Life) -> None:
    life.loaded = FileNotFoundError("no weights")


def no_compiler(life: Life) -> None:
    life.compiler.fail = RuntimeError("no compiler")


@pytest.mark.parametrize(
    ("spoil", "reached", "reason"),
    [
        pytest.param(no_weights, [], "FileNotFoundError: no weights", id="load"),
        pytest.param(no_compiler, [COMPILING], "RuntimeError: no compiler", id="compile"),
        pytest.param(
            mixes_rows,
            [COMPILING, WARMING],
            "WarmupError: bucket 2, row 0: output 'y' is not finite for a golden row",
            id="rows-mix",
        ),
        pytest.param(
            counts_padding,
            [COMPILING, WARMING],
            "WarmupError: bucket 2, row 0: output 'y' is 2 away from what the row gives alone",
            id="padding-counts",
        ),
        pytest.param(
            gives_nan,
            [COMPILING, WARMING],
            "WarmupError: bucket 1, row 0: output 'y' is not finite for a golden row",
            id="nan",
        ),
    ],
)
def test_a_model_that_fails_to_start_gives_every_client_the_reason(
    live: LifeMaker,
    spoil: Callable[[Any], Any],
    reached: list[ModelState],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    life = live()
    if spoil in (no_weights, no_compiler):
        spoil(life)
    else:
        life.compiler.function = spoil
    life.bring_up()
    assert life.states == [*reached, FAILED]
    snapshot = life.snapshot()
    assert (snapshot.reason or "").startswith(reason)
    assert not snapshot.serving
    error = refusal(life)
    assert isinstance(error, ModelFailed)
    assert str(error) == f"model 'puppet' has failed: {snapshot.reason}"
    assert "model puppet failed to start" in caplog.text
    with pytest.raises(ModelFailed):
        _ = life.endpoint.interface


@pytest.mark.parametrize(
    ("model", "config", "reason"),
    [
        pytest.param(
            puppet_model(inputs=(IDS,)),
            {},
            "LoadError: input 'ids' has the shape (-1,), where -1 is LENGTH, a dynamic axis: the "
            "config needs lengths, as lengths = [32, 128]; if it is meant as the batch axis, leave "
            "it out: ()",
            id="a-dynamic-axis-and-no-lengths",
        ),
        pytest.param(
            puppet_model(),
            {"lengths": (8,)},
            "LoadError: the config gives lengths = [8], but no input has a dynamic axis: x (2,). "
            "Write LENGTH where the lengths belong",
            id="lengths-and-no-dynamic-axis",
        ),
        pytest.param(
            puppet_model(inputs=(IDS,), max_length=8),
            {"lengths": (8, 9)},
            "LoadError: lengths reach 9, but the model's own limit is 8",
            id="longer-than-the-model-can",
        ),
    ],
)
def test_axes_that_do_not_fit_the_config_fail_before_anything_is_compiled(
    live: LifeMaker, model: Model, config: dict[str, Any], reason: str
) -> None:
    life = live(model, **config).bring_up()
    assert life.states == [FAILED]
    assert life.snapshot().reason == reason
    assert life.compiler.executables == {}


# --- closed on the way up ------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["compiled", "verified"])
def test_start_up_ends_cleanly_when_it_is_closed(live: LifeMaker, hook: str) -> None:
    life = live(compile_threads=1)
    before = set(threading.enumerate())
    life.observer.reactions[hook] = lambda *_event: life.endpoint.close(0.0)
    life.bring_up()
    assert life.endpoint.lifecycle.state is CLOSED
    assert READY not in life.states
    assert FAILED not in life.states
    assert {t for t in set(threading.enumerate()) - before if "brim" in t.name} == set()


def test_what_is_not_compiled_yet_when_it_is_closed_never_is(
    live: LifeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = live(rows=tuple(range(1, 41)), compile_threads=1)
    life.compiler.gate = gate = threading.Semaphore(1)
    life.observer.reactions["compiled"] = lambda *_event: life.endpoint.close(0.0)
    shutdown = ThreadPoolExecutor.shutdown

    def open_the_gate_when_the_rest_is_cancelled(
        pool: ThreadPoolExecutor, *, wait: bool = True, cancel_futures: bool = False
    ) -> None:
        shutdown(pool, wait=False, cancel_futures=cancel_futures)
        gate.release(100)
        shutdown(pool, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", open_the_gate_when_the_rest_is_cancelled)
    life.bring_up()
    assert life.endpoint.lifecycle.state is CLOSED
    assert len(life.compiler.executables) <= 2


def test_closed_between_verification_and_ready_nothing_is_served(
    live: LifeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = live()
    start = WorkerThreads.start

    def start_late(threads: WorkerThreads) -> None:
        start(threads)
        life.endpoint.drain()

    monkeypatch.setattr(WorkerThreads, "start", start_late)
    life.bring_up()
    assert life.states == [COMPILING, WARMING, DRAINING]
    assert isinstance(refusal(life), ShuttingDown)


def test_failed_on_its_way_up_from_outside_nothing_is_left_running(live: LifeMaker) -> None:
    life = live()
    life.observer.reactions["verified"] = lambda *_event: life.endpoint.fail("forked")
    life.bring_up()
    assert life.snapshot().reason == "forked"
    for thread in threading.enumerate():
        if thread.name.startswith("brim-"):
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


# --- a second version beside the first -----------------------------------------------------------


class Second:
    """Brings up a second version of the model of a life, on a thread of its own."""

    def __init__(self, life: Life) -> None:
        self.states: list[tuple[ModelState, str | None]] = []
        self.compiler = PuppetCompiler()
        self.compiler.gate = threading.Semaphore(0)
        self.version: LoadedVersion | None = None
        self.error: BaseException | None = None
        config = life.endpoint.config
        self.lifecycle = Lifecycle(config.name, 3, life.clock, self._note)
        tools = Toolchain(lambda _config: puppet_model(), self.compiler)
        self._bring_up = BringUp(
            config, self.lifecycle, tools, life.group, RecordingObserver(), life.clock
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _note(self, state: ModelState, reason: str | None) -> None:
        self.states.append((state, reason))

    def _run(self) -> None:
        try:
            self.version = self._bring_up.run()
        except BaseException as error:
            self.error = error
            self.lifecycle.become(FAILED, str(error))

    def finish(self) -> None:
        """Let it compile, and wait until it has ended."""
        assert self.compiler.gate is not None
        self.compiler.gate.release(100)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


def test_a_second_version_comes_up_while_the_first_serves(ready: Life) -> None:
    first = ready.endpoint.interface
    second = Second(ready)
    assert_answers(ready.infer(rows(1)), 1)  # while the second compiles
    second.finish()
    assert second.version is not None
    assert second.states == [(COMPILING, None), (WARMING, None)]
    assert second.lifecycle.progress() == Progress(3, 3, 0.0, 0.0)
    staged = rows(3)
    outputs = second.version.replica.launch(Bucket(1), staged).result()
    assert_answers(outputs, 3)
    launched = [puppet.launched for puppet in ready.compiler.executables.values()]
    assert not any(batch is staged for batches in launched for batch in batches)
    assert ready.endpoint.interface is first
    assert ready.endpoint.lifecycle.state is READY
    assert_answers(ready.infer(rows(2)), 2)


@pytest.mark.parametrize("function", [None, mixes_rows], ids=["compile", "rows-mix"])
def test_a_second_version_that_fails_does_not_touch_the_first(
    ready: Life, function: Callable[[Arrays], dict[str, Any]] | None
) -> None:
    in_flight = ready.occupy()
    before = ready.snapshot()
    second = Second(ready)
    if function is None:
        second.compiler.fail = RuntimeError("no compiler")
    else:
        second.compiler.function = function
    second.finish()
    assert second.version is None
    assert second.error is not None
    assert second.lifecycle.state_and_reason() == (FAILED, str(second.error))
    # as text: it holds NaN, which from Python 3.13 on is unequal to itself in a dataclass too
    assert repr(ready.snapshot()) == repr(before)
    assert ready.states == [COMPILING, WARMING, READY]
    ready.free()
    assert_answers(in_flight.result(), 0)
    assert_answers(ready.infer(rows(1)), 1)
