"""All models of one process, from start to close."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engine.config import ModelConfig
from engine.engine import Engine
from engine.errors import ConfigError, ModelFailed, NotReady, QueueFull, ShuttingDown, UnknownModel
from engine.model import Model
from engine.served_model import STALL_S
from engine.state import ModelState
from engine.testing import (
    FakeClock,
    PuppetCompiler,
    PuppetExecutable,
    RecordingObserver,
    expected_rows,
    puppet_config,
    puppet_model,
    rows,
)

PATIENCE_S = 30.0

A = puppet_config(name="a", rows=(4,))
B = puppet_config(name="b", rows=(4,))


class Rig:
    """An engine of puppets, and everything that a test wants to see of it."""

    def __init__(self, clock: FakeClock, *configs: ModelConfig) -> None:
        self.observer = RecordingObserver()
        self.compilers: dict[str, PuppetCompiler] = {c.name: PuppetCompiler() for c in configs}
        self.load: Callable[[ModelConfig], Model] = lambda _config: puppet_model()
        self.alarm: Callable[[], None] | None = None
        self.watching = False
        self._next = iter(self.compilers.values())
        self.engine = Engine(
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
        self.engine.start()
        assert self.engine.wait_settled(PATIENCE_S)
        return self

    def puppets(self) -> list[PuppetExecutable]:
        return [p for c in self.compilers.values() for p in c.executables.values()]

    def free(self) -> None:
        """Let everything go that is held."""
        for compiler in self.compilers.values():
            if compiler.gate is not None:
                compiler.gate.release(100)
        for puppet in self.puppets():
            puppet.held = False
            puppet.proceed.release(100)


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
        rig.engine.close(PATIENCE_S)


# --- life ---------------------------------------------------------------------------------------


def test_models_come_up_one_after_the_other_in_the_order_of_the_config(make_rig: RigMaker) -> None:
    rig = make_rig(A, B).start()
    heard = [(name, state.value) for name, state, _ in rig.observer.named("state_changed")]
    steps = ["compiling", "warming", "ready"]
    assert heard == [(name, step) for name in "ab" for step in steps]
    assert rig.engine.names == ("a", "b")
    assert rig.engine.ready


def test_nothing_happens_before_start(make_rig: RigMaker) -> None:
    rig = make_rig(A)
    assert rig.alarm is None
    assert rig.observer.events == []
    assert not rig.engine.wait_settled(0)
    assert not rig.engine.ready
    with pytest.raises(NotReady):
        rig.engine.submit("a", rows(1))


def test_a_model_that_is_up_serves_while_another_still_compiles(make_rig: RigMaker) -> None:
    rig = make_rig(A, B)
    rig.compilers["b"].gate = threading.Semaphore(0)
    rig.engine.start()
    rig.observer.wait_for("state_changed", 4)  # a is ready, b compiles
    assert np.array_equal(rig.engine.infer("a", rows(1))["y"], expected_rows(1))
    with pytest.raises(NotReady, match="model 'b' is compiling"):
        rig.engine.submit("b", rows(1))
    assert not rig.engine.wait_settled(0)
    rig.free()
    assert rig.engine.wait_settled(PATIENCE_S)
    assert np.array_equal(rig.engine.infer("b", rows(2))["y"], expected_rows(2))


def test_one_model_that_fails_does_not_keep_the_next_from_coming_up(make_rig: RigMaker) -> None:
    rig = make_rig(A, B)
    rig.compilers["a"].fail = RuntimeError("no compiler")
    rig.start()
    assert rig.engine.stats("a").state is ModelState.FAILED
    assert rig.engine.stats("b").state is ModelState.READY


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 'a', expected a name that no other model has"):
        Engine([A, B, A])


class Fatal(BaseException):
    """No `Exception`: nothing that a start-up could survive."""


def test_when_the_engines_own_thread_dies_every_model_has_failed(
    make_rig: RigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(A, B)
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)

    def watch(_alarm: Callable[[], None]) -> Callable[[], None]:
        raise Fatal("no JAX here")

    monkeypatch.setattr(rig.engine, "_watch_compiles", watch)
    rig.start()
    for name in "ab":
        with pytest.raises(ModelFailed, match=r"the engine's thread died: Fatal\('no JAX here'\)"):
            rig.engine.submit(name, rows(1))
    rig.engine.close(PATIENCE_S)
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
        rig.engine.submit("a", rows(1))
    assert np.array_equal(rig.engine.infer("b", rows(1))["y"], expected_rows(1))


def test_an_abandoned_engine_serves_nobody_and_takes_no_lock(make_rig: RigMaker) -> None:
    """As in a forked child, where whoever held the lock has stayed behind."""
    rig = make_rig(A, B)
    served = rig.engine._models["a"]
    served._lock.acquire()
    rig.engine.abandon("forked after the start")
    assert not rig.engine.ready
    for name in "ab":
        assert rig.engine.stats(name).state is ModelState.FAILED
        with pytest.raises(ModelFailed, match="has failed: forked after the start"):
            rig.engine.submit(name, rows(1))


# --- requests -----------------------------------------------------------------------------------


def test_a_request_goes_to_the_model_it_names(make_rig: RigMaker) -> None:
    rig = make_rig(A, B).start()
    ticket = rig.engine.submit("b", rows(3), timeout_s=5.0)
    assert np.array_equal(rig.engine.result("b", ticket)["y"], expected_rows(3))
    assert ticket.deadline == ticket.enqueued_at + 5.0
    assert rig.engine.stats("a").counts.accepted == 0
    assert rig.engine.stats("b").counts.accepted == 1
    assert rig.engine.config("b") is B
    assert rig.engine.model("b").inputs == puppet_model().inputs


def test_the_requests_of_a_turn_are_answered_at_its_end_where_that_is_soon_done(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(A).start()
    for puppet in rig.puppets():
        puppet.quick = True
    with rig.engine.turn(0.0):
        tickets = [rig.engine.submit("a", rows(value)) for value in (1, 2)]
        assert not any(ticket.done for ticket in tickets)
    for value, ticket in zip((1, 2), tickets, strict=True):
        assert ticket.done
        assert np.array_equal(rig.engine.result("a", ticket)["y"], expected_rows(value))


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda e: e.submit("c", rows(1)), id="submit"),
        pytest.param(lambda e: e.infer("c", rows(1)), id="infer"),
        pytest.param(lambda e: e.stats("c"), id="stats"),
        pytest.param(lambda e: e.config("c"), id="config"),
        pytest.param(lambda e: e.model("c"), id="model"),
        pytest.param(lambda e: e.admit("c"), id="admit"),
    ],
)
def test_a_model_that_is_not_there_is_unknown(
    make_rig: RigMaker, ask: Callable[[Engine], object]
) -> None:
    with pytest.raises(UnknownModel, match="unknown model 'c'; this server has a, b"):
        ask(make_rig(A, B).engine)


def test_who_stands_in_front_of_the_engine_asks_first_and_counts_its_own_refusals(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(A)
    with pytest.raises(NotReady):
        rig.engine.admit("a")
    assert rig.engine.stats("a").counts.refused == 1
    rig.start()
    assert rig.engine.admit("a") is rig.engine.model("a")
    error = QueueFull("too many wait", 1.0)
    rig.engine.count_refusal("a", error)
    assert rig.engine.stats("a").counts.refused == 2
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
    assert rig.start().engine.ready is ready


def test_a_stalled_device_is_not_ready_until_it_answers(
    make_rig: RigMaker, clock: FakeClock
) -> None:
    rig = make_rig(A).start()
    (puppet,) = rig.puppets()
    while puppet.entered.acquire(blocking=False):
        pass  # what the proof has run
    puppet.hold()
    ticket = rig.engine.submit("a", rows(1))
    assert puppet.entered.acquire(timeout=PATIENCE_S)
    clock.advance(STALL_S - 1)
    assert rig.engine.ready
    clock.advance(2)
    assert not rig.engine.ready
    rig.free()
    assert ticket.wait(PATIENCE_S)
    assert rig.engine.ready


def test_a_draining_engine_is_not_ready_and_refuses(make_rig: RigMaker) -> None:
    rig = make_rig(A).start()
    rig.engine.drain()
    assert not rig.engine.ready
    with pytest.raises(ShuttingDown):
        rig.engine.submit("a", rows(1))


# --- nothing compiles after ready ---------------------------------------------------------------


def test_an_unexpected_compile_is_counted_from_the_first_ready_model_on(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(A, B)
    counted: list[int] = []

    def load(_config: ModelConfig) -> Model:
        assert rig.alarm is not None
        rig.alarm()
        counted.append(rig.engine.compiles_after_ready)
        return puppet_model()

    rig.load = load
    rig.start()
    assert counted == [0, 1]
    assert rig.alarm is not None
    rig.alarm()
    assert rig.engine.compiles_after_ready == 2
    assert len(rig.observer.named("compiled_after_ready")) == 2


# --- close --------------------------------------------------------------------------------------


def test_close_while_a_model_compiles_ends_cleanly(make_rig: RigMaker) -> None:
    rig = make_rig(A, B)
    rig.compilers["a"].gate = threading.Semaphore(0)
    rig.engine.start()
    rig.observer.wait_for("state_changed")
    rig.engine.drain()
    rig.free()
    rig.engine.close(PATIENCE_S)
    assert rig.engine.wait_settled(0)
    assert rig.engine.stats("a").state is ModelState.CLOSED
    assert rig.engine.stats("b").state is ModelState.CLOSED
    assert rig.compilers["b"].executables == {}
    assert not rig.watching


def test_close_while_a_model_hangs_in_its_compiler_does_not_hang(make_rig: RigMaker) -> None:
    rig = make_rig(A)
    rig.compilers["a"].gate = threading.Semaphore(0)
    rig.engine.start()
    rig.observer.wait_for("state_changed")
    rig.engine.close(0.0)
    assert rig.engine.stats("a").state is ModelState.CLOSED
    rig.free()
    assert rig.engine.wait_settled(PATIENCE_S)
    assert rig.engine.stats("a").state is ModelState.CLOSED


def test_close_answers_what_waits_and_joins(make_rig: RigMaker) -> None:
    rig = make_rig(A, B).start()
    tickets = [(name, rig.engine.submit(name, rows(1))) for name in "ab"]
    rig.engine.close(PATIENCE_S)
    for name, ticket in tickets:
        assert np.array_equal(rig.engine.result(name, ticket)["y"], expected_rows(1))
    assert [t.name for t in threading.enumerate() if t.name.startswith("brim-")] == []
    assert not rig.watching


def test_close_is_idempotent(make_rig: RigMaker) -> None:
    rig = make_rig(A).start()
    for _ in range(3):
        rig.engine.close(PATIENCE_S)
    heard = [state for _, state, _ in rig.observer.named("state_changed")]
    assert heard[-2:] == [ModelState.DRAINING, ModelState.CLOSED]


def test_close_before_start(make_rig: RigMaker) -> None:
    rig = make_rig(A)
    rig.engine.close(0.0)
    assert rig.engine.stats("a").state is ModelState.CLOSED
    assert rig.alarm is None


def test_started_after_the_close_nothing_comes_up(make_rig: RigMaker) -> None:
    rig = make_rig(A)
    rig.engine.close(0.0)
    rig.start()
    assert rig.compilers["a"].executables == {}
    assert rig.engine.stats("a").state is ModelState.CLOSED
    rig.engine._thread.join(PATIENCE_S)
    assert not rig.watching


# --- what a test replaces -----------------------------------------------------------------------


def test_an_engine_may_have_no_observer(clock: FakeClock) -> None:
    engine = Engine(
        [A],
        clock=clock,
        load=lambda _config: puppet_model(),
        compiler=PuppetCompiler(),
        watch_compiles=lambda _alarm: lambda: None,
    )
    engine.start()
    assert engine.wait_settled(PATIENCE_S)
    assert np.array_equal(engine.infer("a", rows(1))["y"], expected_rows(1))
    engine.close(PATIENCE_S)


def test_the_end_of_the_start_up_is_told_once_whether_models_came_up_or_failed(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(A, B)
    rig.compilers["a"].fail = ValueError("no")
    rig.start()
    assert len(rig.observer.wait_for("settled")) == 1
