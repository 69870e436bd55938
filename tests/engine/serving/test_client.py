"""All models of one process, from start to close."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engine.errors import (
    ConfigError,
    ModelFailed,
    NotReady,
    QueueFull,
    ShuttingDown,
    UnknownModel,
    UnknownVersion,
)
from engine.models.config import ModelConfig
from engine.models.model import Model, ModelState
from engine.models.tensors import Arrays
from engine.runtime.pending import PendingResult
from engine.serving.client import InProcessClient
from engine.serving.endpoint import STALL_S
from engine.telemetry.snapshots import Counts, ModelSnapshot
from engine.testing import (
    FakeClock,
    PuppetCompiler,
    PuppetExecutable,
    RecordingObserver,
    expected_rows,
    puppet_config,
    puppet_model,
    rows,
    submit,
)

PATIENCE_S = 30.0

A = puppet_config(name="a", rows=(4,))
B = puppet_config(name="b", rows=(4,))


class Rig:
    """A client of puppets, and everything that a test wants to see of it."""

    def __init__(self, clock: FakeClock, *configs: ModelConfig) -> None:
        self.observer = RecordingObserver()
        self.compilers: dict[str, PuppetCompiler] = {c.name: PuppetCompiler() for c in configs}
        self.load: Callable[[ModelConfig], Model] = lambda _config: puppet_model()
        self.alarm: Callable[[], None] | None = None
        self.watching = False
        self._next = iter(self.compilers.values())
        self.client = InProcessClient(
            configs,
            self.observer,
            clock=clock,
            load=self._load,
            compiler=lambda _model: next(self._next),
            watch_compiles=self._watch,
        )

    def _load(self, config: ModelConfig) -> Model:
        return self.load(config)

    def _watch(self, alarm: Callable[[], None]) -> Callable[[], None]:
        self.alarm = alarm
        self.watching = True

        def unwatch() -> None:
            self.watching = False

        return unwatch

    def start(self) -> Rig:
        self.client.start()
        assert self.client.wait_startup_finished(PATIENCE_S)
        return self

    def submit(self, name: str, inputs: Arrays, timeout_s: float | None = None) -> PendingResult:
        return submit(self.client, name, inputs, timeout_s)

    def snapshot(self, name: str) -> ModelSnapshot:
        return self.client.endpoint(name).snapshot()

    def counts(self, name: str) -> Counts:
        return self.snapshot(name).activity.counts

    def puppets(self) -> list[PuppetExecutable]:
        return [puppet for compiler in self.compilers.values() for puppet in compiler.made()]

    def free(self) -> None:
        """Let everything go that is held."""
        for compiler in self.compilers.values():
            compiler.free()


RigMaker = Callable[..., Rig]


@pytest.fixture
def make_rig(clock: FakeClock) -> Iterator[RigMaker]:
    """`make_rig(config, ...)`: not started yet, and closed afterwards."""
    rigs: list[Rig] = []

    def make(*configs: ModelConfig) -> Rig:
        rigs.append(Rig(clock, *configs))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.free()
        rig.client.close(PATIENCE_S)


# --- life ---------------------------------------------------------------------------------------


def test_models_come_up_one_after_the_other_in_the_order_of_the_config(make_rig: RigMaker) -> None:
    rig = make_rig(A, B).start()
    changes = [(name, state.value) for name, state, _ in rig.observer.named("state_changed")]
    steps = ["compiling", "warming", "ready"]
    assert changes == [(name, step) for name in "ab" for step in steps]
    assert rig.client.names == ("a", "b")
    assert rig.client.ready


def test_nothing_happens_before_start(make_rig: RigMaker) -> None:
    rig = make_rig(A)
    assert rig.alarm is None
    assert rig.observer.events == []
    assert not rig.client.wait_startup_finished(0)
    assert not rig.client.ready
    with pytest.raises(NotReady):
        rig.submit("a", rows(1))


def test_a_model_that_is_up_serves_while_another_still_compiles(make_rig: RigMaker) -> None:
    rig = make_rig(A, B)
    rig.compilers["b"].gate = threading.Semaphore(0)
    rig.client.start()
    rig.observer.wait_for("state_changed", 4)  # a is ready, b compiles
    assert np.array_equal(rig.client.infer("a", rows(1))["y"], expected_rows(1))
    with pytest.raises(NotReady, match="model 'b' is compiling"):
        rig.submit("b", rows(1))
    assert not rig.client.wait_startup_finished(0)
    rig.free()
    assert rig.client.wait_startup_finished(PATIENCE_S)
    assert np.array_equal(rig.client.infer("b", rows(2))["y"], expected_rows(2))


def test_one_model_that_fails_does_not_keep_the_next_from_coming_up(make_rig: RigMaker) -> None:
    rig = make_rig(A, B)
    rig.compilers["a"].fail = RuntimeError("no compiler")
    rig.start()
    assert rig.snapshot("a").state is ModelState.FAILED
    assert rig.snapshot("b").state is ModelState.READY


def test_an_endpoint_serves_one_version_and_knows_no_other(make_rig: RigMaker) -> None:
    client = make_rig(A).client
    assert client.endpoint("a", "1") is client.endpoint("a")
    with pytest.raises(UnknownVersion):
        client.endpoint("a", "2")


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 'a', expected a name that no other model has"):
        InProcessClient([A, B, A])


class Fatal(BaseException):
    """Not an `Exception`: start-up does not survive it."""


def test_when_the_start_up_thread_dies_every_model_has_failed(
    make_rig: RigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(A, B)
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)

    def watch(_alarm: Callable[[], None]) -> Callable[[], None]:
        raise Fatal("no JAX here")

    monkeypatch.setattr(rig.client, "_watch_compiles", watch)
    rig.start()
    for name in "ab":
        with pytest.raises(ModelFailed, match=r"the engine's thread died: Fatal\('no JAX here'\)"):
            rig.submit(name, rows(1))
    rig.client.close(PATIENCE_S)
    assert [arguments.exc_type for arguments in died] == [Fatal]


def test_whatever_a_factory_raises_fails_its_own_model_and_no_other(make_rig: RigMaker) -> None:
    rig = make_rig(A, B)

    def load(config: ModelConfig) -> Model:
        if config is A:
            raise SystemExit("in a factory")
        return puppet_model()

    rig.load = load
    rig.start()
    with pytest.raises(ModelFailed, match="SystemExit: in a factory"):
        rig.submit("a", rows(1))
    assert np.array_equal(rig.client.infer("b", rows(1))["y"], expected_rows(1))


def test_an_abandoned_client_refuses_every_request_and_takes_no_lock(make_rig: RigMaker) -> None:
    """As in a forked child, where the threads that held the locks do not exist."""
    rig = make_rig(A, B)
    endpoint = rig.client.endpoint("a")
    for lock in (endpoint.lifecycle._lock, endpoint._recorder._lock, rig.client._group.lock):
        lock.acquire()
    rig.client.abandon("forked after the start")
    with rig.client.coalesce():
        pass
    assert not rig.client.ready
    for name in "ab":
        assert rig.snapshot(name).state is ModelState.FAILED
        with pytest.raises(ModelFailed, match="has failed: forked after the start"):
            rig.submit(name, rows(1))


# --- requests -----------------------------------------------------------------------------------


def test_a_request_goes_to_the_model_it_names(make_rig: RigMaker) -> None:
    rig = make_rig(A, B).start()
    pending = rig.submit("b", rows(3), timeout_s=5.0)
    assert np.array_equal(pending.result()["y"], expected_rows(3))
    assert pending.deadline == pending.request.enqueued_at + 5.0
    assert rig.counts("a").accepted == 0
    assert rig.counts("b").accepted == 1
    assert rig.client.endpoint("b").config is B
    assert rig.client.endpoint("b").interface.signature == puppet_model().signature


def test_coalesced_requests_are_answered_at_the_end_where_batches_are_cheap(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(A).start()
    for puppet in rig.puppets():
        puppet.quick = True
    with rig.client.coalesce():
        results = [rig.submit("a", rows(value)) for value in (1, 2)]
        assert not any(pending.ready for pending in results)
    for value, pending in zip((1, 2), results, strict=True):
        assert pending.ready
        assert np.array_equal(pending.result()["y"], expected_rows(value))


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda client: client.endpoint("c"), id="endpoint"),
        pytest.param(lambda client: client.infer("c", rows(1)), id="infer"),
    ],
)
def test_a_model_that_is_not_there_is_unknown(
    make_rig: RigMaker, ask: Callable[[InProcessClient], object]
) -> None:
    with pytest.raises(UnknownModel, match="unknown model 'c'; this server has a, b"):
        ask(make_rig(A, B).client)


def test_the_http_side_asks_for_admission_and_counts_its_own_refusals(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(A)
    endpoint = rig.client.endpoint("a")
    with pytest.raises(NotReady):
        endpoint.admit()
    assert rig.counts("a").refused == 1
    rig.start()
    assert endpoint.admit() is endpoint.interface
    error = QueueFull("too many wait", 1.0)
    endpoint.count_refusal(error)
    assert rig.counts("a").refused == 2
    assert rig.observer.named("refused")[-1] == ("a", 0, error)


# --- readiness ----------------------------------------------------------------------------------

REQUIRED = puppet_config(name="required", rows=(4,))
REQUIRED_TOO = puppet_config(name="required-too", rows=(4,))
OPTIONAL = puppet_config(name="optional", rows=(4,), required=False)


@pytest.mark.parametrize(
    ("configs", "failing", "ready"),
    [
        pytest.param([], [], False, id="no-model-at-all"),
        pytest.param([REQUIRED, REQUIRED_TOO], [], True, id="all-serve"),
        pytest.param([REQUIRED, REQUIRED_TOO], ["required"], False, id="a-required-one-failed"),
        pytest.param([REQUIRED, OPTIONAL], ["optional"], True, id="an-optional-one-failed"),
        pytest.param([REQUIRED, OPTIONAL], ["required"], False, id="only-an-optional-one-serves"),
        pytest.param([OPTIONAL], [], True, id="nothing-is-required-and-something-serves"),
        pytest.param([OPTIONAL], ["optional"], False, id="nothing-is-required-and-nothing-serves"),
    ],
)
def test_ready_means_that_all_the_required_models_serve_and_one_at_least(
    make_rig: RigMaker, configs: list[ModelConfig], failing: list[str], ready: bool
) -> None:
    rig = make_rig(*configs)
    for name in failing:
        rig.compilers[name].fail = RuntimeError("no compiler")
    assert rig.start().client.ready is ready


def test_a_stalled_device_is_not_ready_until_it_answers(
    make_rig: RigMaker, clock: FakeClock
) -> None:
    rig = make_rig(A).start()
    (puppet,) = rig.puppets()
    while puppet.entered.acquire(blocking=False):
        pass  # what verification has run
    puppet.hold()
    pending = rig.submit("a", rows(1))
    assert puppet.entered.acquire(timeout=PATIENCE_S)
    clock.advance(STALL_S - 1)
    assert rig.client.ready
    clock.advance(2)
    assert not rig.client.ready
    rig.free()
    assert pending.wait(PATIENCE_S)
    assert rig.client.ready


def test_a_draining_client_is_not_ready_and_refuses(make_rig: RigMaker) -> None:
    rig = make_rig(A).start()
    rig.client.drain()
    assert not rig.client.ready
    with pytest.raises(ShuttingDown):
        rig.submit("a", rows(1))


# --- nothing compiles after ready ---------------------------------------------------------------


def test_an_unexpected_compile_is_counted_from_the_first_ready_model_on(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(A, B)
    counted: list[int] = []

    def load(_config: ModelConfig) -> Model:
        assert rig.alarm is not None
        rig.alarm()
        counted.append(rig.client.snapshot().compiles_after_ready)
        return puppet_model()

    rig.load = load
    rig.start()
    assert counted == [0, 1]
    assert rig.alarm is not None
    rig.alarm()
    assert rig.client.snapshot().compiles_after_ready == 2
    assert len(rig.observer.named("compiled_after_ready")) == 2


# --- close --------------------------------------------------------------------------------------


def test_close_while_a_model_compiles_ends_cleanly(make_rig: RigMaker) -> None:
    rig = make_rig(A, B)
    rig.compilers["a"].gate = threading.Semaphore(0)
    rig.client.start()
    rig.observer.wait_for("state_changed")
    rig.client.drain()
    rig.free()
    rig.client.close(PATIENCE_S)
    assert rig.client.wait_startup_finished(0)
    assert rig.snapshot("a").state is ModelState.CLOSED
    assert rig.snapshot("b").state is ModelState.CLOSED
    assert rig.compilers["b"].executables == {}
    assert not rig.watching


def test_close_while_a_model_hangs_in_its_compiler_does_not_hang(make_rig: RigMaker) -> None:
    rig = make_rig(A)
    rig.compilers["a"].gate = threading.Semaphore(0)
    rig.client.start()
    rig.observer.wait_for("state_changed")
    rig.client.close(0.0)
    assert rig.snapshot("a").state is ModelState.CLOSED
    rig.free()
    assert rig.client.wait_startup_finished(PATIENCE_S)
    assert rig.snapshot("a").state is ModelState.CLOSED


def test_close_answers_what_waits_and_joins(make_rig: RigMaker) -> None:
    rig = make_rig(A, B).start()
    results = [(name, rig.submit(name, rows(1))) for name in "ab"]
    rig.client.close(PATIENCE_S)
    for _, pending in results:
        assert np.array_equal(pending.result()["y"], expected_rows(1))
    assert [t.name for t in threading.enumerate() if t.name.startswith("brim-")] == []
    assert not rig.watching


def test_close_is_idempotent(make_rig: RigMaker) -> None:
    rig = make_rig(A).start()
    for _ in range(3):
        rig.client.close(PATIENCE_S)
    changes = [state for _, state, _ in rig.observer.named("state_changed")]
    assert changes[-2:] == [ModelState.DRAINING, ModelState.CLOSED]


def test_close_before_start(make_rig: RigMaker) -> None:
    rig = make_rig(A)
    rig.client.close(0.0)
    assert rig.snapshot("a").state is ModelState.CLOSED
    assert rig.alarm is None


def test_started_after_the_close_nothing_comes_up(make_rig: RigMaker) -> None:
    rig = make_rig(A)
    rig.client.close(0.0)
    rig.start()
    assert rig.compilers["a"].executables == {}
    assert rig.snapshot("a").state is ModelState.CLOSED
    rig.client._thread.join(PATIENCE_S)
    assert not rig.watching


# --- what a test replaces -----------------------------------------------------------------------


def test_a_client_may_have_no_observer(clock: FakeClock) -> None:
    client = InProcessClient(
        [A],
        clock=clock,
        load=lambda _config: puppet_model(),
        compiler=PuppetCompiler(),
        watch_compiles=lambda _alarm: lambda: None,
    )
    client.start()
    assert client.wait_startup_finished(PATIENCE_S)
    assert np.array_equal(client.infer("a", rows(1))["y"], expected_rows(1))
    client.close(PATIENCE_S)


def test_the_end_of_the_start_up_is_reported_once_whether_models_came_up_or_failed(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(A, B)
    rig.compilers["a"].fail = ValueError("no")
    rig.start()
    assert len(rig.observer.wait_for("startup_finished")) == 1
