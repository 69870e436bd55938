"""Hooks beside the engine that hang: what they hold, and what they do not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine.errors import BrimError, Cancelled, DeadlineExceeded, Shed
from engine.models.model import Model
from engine.models.processor import Prepared
from engine.models.tensors import Arrays, TensorSpec
from engine.serving.preparation import RequestPreparer
from engine.serving.version import ModelInterface
from engine.testing import (
    PUPPET_SPEC_IN,
    PUPPET_SPEC_OUT,
    FakeClock,
    puppet_config,
    puppet_model,
    rows,
    texts,
)
from engine.transport.client import link as links
from engine.transport.client.result import RemoteResult
from tests.engine.transport.conftest import MakeRig
from tests.shared_memory import PATIENCE_S, Rig

SLAB = 1 << links.SLAB_ORDER
TEXT = TensorSpec("text", "BYTES")


def error_of(result: RemoteResult) -> BrimError:
    with pytest.raises(BrimError) as raised:
        result.result()
    result.release()
    return raised.value


class HangingHooks:
    """Hooks that tell when they begin, and wait for the test."""

    def __init__(self) -> None:
        self.entered, self.gate = threading.Semaphore(0), threading.Event()
        self.hangs = ""

    def wait(self, hook: str) -> None:
        if self.hangs == hook:
            self.entered.release()
            assert self.gate.wait(PATIENCE_S)

    def preprocess(self, inputs: Arrays) -> Prepared:
        self.wait("preprocess")
        return Prepared({"x": np.ones((len(inputs["text"]), 2), np.float32)})

    def postprocess(self, outputs: Arrays) -> Arrays:
        self.wait("postprocess")
        return outputs

    def model(self) -> Model:
        return puppet_model(
            inputs=(TEXT,),
            device_inputs=(PUPPET_SPEC_IN,),
            device_outputs=(PUPPET_SPEC_OUT,),
            preprocess=self.preprocess,
            postprocess=self.postprocess,
        )

    def begin(self, rig: Rig, hook: str, **options: Any) -> RemoteResult:
        """Submit a request and wait until its hook hangs."""
        self.hangs = hook
        result = rig.submit(inputs=texts("a"), **options)
        assert self.entered.acquire(timeout=PATIENCE_S)
        self.hangs = ""
        return result


@pytest.fixture
def hooks() -> Iterator[HangingHooks]:
    hooks = HangingHooks()
    yield hooks
    hooks.gate.set()


def launches(rig: Rig) -> int:
    return sum(len(executable.launched) for executable in rig.compiler.made())


@pytest.mark.parametrize("hook", ["preprocess", "postprocess"])
@pytest.mark.parametrize("error", [Cancelled, DeadlineExceeded])
def test_a_hook_that_hangs_when_its_request_is_given_up_keeps_its_thread_and_nothing_else(
    make_rig: MakeRig, hooks: HangingHooks, hook: str, error: type[BrimError]
) -> None:
    rig = make_rig(load=lambda _config: hooks.model())
    result = hooks.begin(rig, hook)
    if error is Cancelled:
        result.cancel()
    else:
        result.expire()
    assert type(error_of(result)) is error
    rig.until(lambda: rig.free_bytes() == SLAB)  # while it still hangs
    executed = launches(rig)
    answered = rig.submit(inputs=texts("b"))
    answered.result()
    answered.release()
    load = rig.client.snapshot().models[0].load
    assert (load.hooks.stuck, load.hooks.blocked) == (1, False)
    hooks.gate.set()
    rig.until(lambda: rig.client.snapshot().models[0].load.hooks.stuck == 0)
    assert rig.client.snapshot().models[0].activity.counts.refused == (error is DeadlineExceeded)
    assert launches(rig) == executed + 1
    rig.until(lambda: rig.free_bytes() == SLAB)


def test_one_models_hanging_hooks_do_not_hold_the_threads_of_another(
    make_rig: MakeRig, hooks: HangingHooks
) -> None:
    models = {"hangs": hooks, "quick": HangingHooks()}
    rig = make_rig(
        puppet_config(name="hangs"),
        puppet_config(name="quick"),
        load=lambda config: models[config.name].model(),
    )
    hanging = [hooks.begin(rig, "preprocess", model="hangs") for _ in range(2)]
    waiting = [rig.submit(inputs=texts("a"), model="hangs") for _ in range(8)]
    rig.ask(inputs=texts("a"), model="quick")
    assert not any(result.ready for result in waiting)
    hooks.gate.set()
    for result in (*hanging, *waiting):
        result.result()
        result.release()


def test_a_hook_that_cannot_be_made_in_time_is_refused_at_once(
    make_rig: MakeRig, hooks: HangingHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(load=lambda _config: hooks.model())
    late = Shed("too late", 7.0)
    monkeypatch.setattr(rig.threads, "make", lambda *_arguments, **_named: late)
    error = error_of(rig.submit(inputs=texts("a")))
    assert (type(error), str(error)) == (Shed, "too late")
    assert error.retry_after_s == 7.0  # type: ignore[attr-defined]
    assert rig.client.snapshot().models[0].activity.refusals == {"Shed": 1}
    monkeypatch.undo()


def test_a_preprocess_that_takes_all_the_time_is_no_request_for_the_device() -> None:
    clock = FakeClock()

    def preprocess(inputs: Arrays) -> Prepared:
        clock.advance(2.0)
        return Prepared(inputs)

    config = puppet_config(timeout_s=2.0)
    preparer = RequestPreparer(config, clock, lambda _probe: None, lambda _error, _rows: None)
    model = puppet_model(preprocess=preprocess, device_inputs=(PUPPET_SPEC_IN,))
    interface = ModelInterface("1", model.signature, model.processor)
    with pytest.raises(DeadlineExceeded, match="no answer within 2 s: preprocess took longer"):
        preparer.prepare(interface, rows(1.0), None, 0, arrived_at=clock.now)
