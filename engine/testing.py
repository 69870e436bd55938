"""Honest doubles, shipped: a clock that is moved by hand, a device that is led by hand.

May touch: threading, numpy. Their arithmetic can be checked by hand: the puppet model answers
`y = 2 * x + 1`, and its padding is NaN, so padding that leaks is seen at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.buckets import Bucket
from engine.config import ModelConfig, Source
from engine.errors import BrimError
from engine.model import Model
from engine.observer import BatchReport, Observer, TicketReport
from engine.runnable import Memory, Running
from engine.spec import Array, Arrays, TensorSpec
from engine.state import ModelState

PUPPET_SPEC_IN = TensorSpec("x", "FP32", (2,), pad=float("nan"))
PUPPET_SPEC_OUT = TensorSpec("y", "FP32", (2,))


class FakeClock:
    """Monotonic seconds that stand still until they are moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def double_plus_one(inputs: Arrays) -> dict[str, Array]:
    """`x` [rows, 2] -> `y = 2 * x + 1`, on numpy and on JAX arrays alike."""
    return {"y": inputs["x"] * 2 + 1}


def puppet_model(**changes: Any) -> Model:
    """A model without weights that answers `y = 2 * x + 1`; its padding is NaN."""
    fields: dict[str, Any] = {
        "apply": lambda _params, inputs: double_plus_one(inputs),
        "params": {},
        "inputs": (PUPPET_SPEC_IN,),
        "outputs": (PUPPET_SPEC_OUT,),
    }
    return Model(**(fields | changes))


def puppet_config(**changes: Any) -> ModelConfig:
    """A config named `puppet`, buckets of 1, 2 and 4 rows."""
    fields: dict[str, Any] = {
        "name": "puppet",
        "source": Source(factory="nowhere:nothing"),
        "rows": (1, 2, 4),
    }
    return ModelConfig(**(fields | changes))


class PuppetExecutable:
    """The executable of one bucket, led by a test.

    Every launch says `started`. Free-running until `hold()`; then every execution says `entered`
    when the completer waits for it, and ends when the test says `proceed.release()`. With `quick`
    it is over when it has been launched. `fail_launch` and `fail_result` are raised when set.
    `launched` keeps the staged inputs of every launch.
    """

    calls_python = False

    def __init__(self, function: Callable[[Arrays], dict[str, Array]] = double_plus_one) -> None:
        self.function = function
        self.memory = Memory(inputs=0, outputs=0, temporary=0, code=0)
        self.started = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.proceed = threading.Semaphore(0)
        self.held = False
        self.quick = False
        self.fail_launch: BaseException | None = None
        self.fail_result: BaseException | None = None
        self.launched: list[Arrays] = []

    def hold(self) -> None:
        """From now on, wait for the test."""
        self.held = True

    def launch(self, inputs: Arrays) -> Running:
        """Start: the answer is computed when it is asked for, as a device would."""
        if self.fail_launch is not None:
            raise self.fail_launch
        self.launched.append(inputs)
        self.started.release()
        return _PuppetExecution(self, inputs)


class _PuppetExecution:
    def __init__(self, puppet: PuppetExecutable, inputs: Arrays) -> None:
        self.ready = puppet.quick
        self._puppet = puppet
        self._inputs = inputs

    def result(self) -> Arrays:
        self._puppet.entered.release()
        if self._puppet.held:
            self._puppet.proceed.acquire()
        if self._puppet.fail_result is not None:
            raise self._puppet.fail_result
        return self._puppet.function(self._inputs)


class PuppetCompiler:
    """Gives out puppets, one per bucket, and remembers them.

    `gate`, when set, holds every compilation until the test releases it; `fail` is raised instead
    of compiling.
    """

    weights_bytes = 0

    def __init__(self, function: Callable[[Arrays], dict[str, Array]] = double_plus_one) -> None:
        self.function = function
        self.executables: dict[Bucket, PuppetExecutable] = {}
        self.gate: threading.Semaphore | None = None
        self.fail: BaseException | None = None

    def __call__(self, _model: Model) -> PuppetCompiler:
        return self

    def compile(self, bucket: Bucket) -> PuppetExecutable:
        """One puppet."""
        if self.gate is not None:
            self.gate.acquire()
        if self.fail is not None:
            raise self.fail
        self.executables[bucket] = PuppetExecutable(self.function)
        return self.executables[bucket]

    def hold(self) -> None:
        """Let every executable wait for the test from now on."""
        for executable in self.executables.values():
            executable.hold()


class RecordingObserver(Observer):
    """Keeps what it hears as tuples, and lets a test wait for an event without sleeping."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._heard = threading.Condition()

    def _note(self, *event: Any) -> None:
        with self._heard:
            self.events.append(event)
            self._heard.notify_all()

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The events of one name, oldest first, without the name."""
        with self._heard:
            return [event[1:] for event in self.events if event[0] == name]

    def wait_for(self, name: str, count: int = 1, timeout_s: float = 30.0) -> list[tuple[Any, ...]]:
        """Wait until `count` events of that name were heard. Raises AssertionError otherwise."""

        def enough() -> bool:
            return len([event for event in self.events if event[0] == name]) >= count

        with self._heard:
            if not self._heard.wait_for(enough, timeout_s):
                raise AssertionError(f"no {count} x {name!r} within {timeout_s} s: {self.events}")
        return self.named(name)

    def state_changed(self, model: str, state: ModelState, reason: str | None) -> None:
        self._note("state_changed", model, state, reason)

    def settled(self) -> None:
        self._note("settled")

    def compiled(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._note("compiled", model, bucket)

    def proved(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._note("proved", model, bucket)

    def compiled_after_ready(self) -> None:
        self._note("compiled_after_ready")

    def queued(self, model: str, rows: int) -> None:
        self._note("queued", model, rows)

    def refused(self, model: str, rows: int, error: BrimError) -> None:
        self._note("refused", model, rows, error)

    def batch_done(self, model: str, report: BatchReport) -> None:
        self._note("batch_done", model, report)

    def tickets_done(self, model: str, reports: Sequence[TicketReport]) -> None:
        for report in reports:
            self._note("ticket_done", model, report)


def rows(*values: float) -> dict[str, Array]:
    """Puppet input: one row `[v, -v]` per value."""
    return {"x": np.array([[v, -v] for v in values], np.float32)}


def expected_rows(*values: float) -> Array:
    """What the puppet model answers to `rows(*values)`."""
    return np.array([[2 * v + 1, 1 - 2 * v] for v in values], np.float32)


def texts(*sentences: str | bytes) -> dict[str, Array]:
    """A BYTES input `text`: one row per sentence."""
    encoded = np.empty(len(sentences), np.object_)
    encoded[:] = [s.encode() if isinstance(s, str) else s for s in sentences]
    return {"text": encoded}
