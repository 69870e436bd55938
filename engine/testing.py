"""Test doubles: a clock that a test moves, and a device that a test controls.

Their arithmetic can be checked by hand: the puppet model answers `y = 2 * x + 1`, and its padding
is NaN, so padding that leaks into an answer is visible.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from engine.compilation.interface import Execution, Memory, Weights
from engine.errors import BrimError
from engine.models.config import ModelConfig, Source
from engine.models.model import Model, ModelState
from engine.models.tensors import Array, Arrays, TensorSpec
from engine.runtime.pending import PendingResult
from engine.scheduling.buckets import Bucket
from engine.serving.client import InProcessClient
from engine.telemetry.events import BatchReport, Observer, RequestReport

PUPPET_SPEC_IN = TensorSpec("x", "FP32", (2,), pad=float("nan"))
PUPPET_SPEC_OUT = TensorSpec("y", "FP32", (2,))


class FakeClock:
    """Monotonic seconds that stand still until they are moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
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
    """The executable of one bucket, controlled by a test.

    Every launch releases `started`. After `hold()`, every call of an execution's `result` releases
    `entered` and waits for `proceed`, until `free()`. With `quick` it has finished when `launch`
    returns. `fail_launch` and `fail_result` are raised when set. `launched` keeps the staged inputs
    of every launch, `weights` the weights of the last.
    """

    def __init__(self, function: Callable[[Arrays], dict[str, Array]] = double_plus_one) -> None:
        self.function = function
        self.memory = Memory(inputs=0, outputs=0, temporary=0, code=0)
        self.self_contained = True
        self.started = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.proceed = threading.Semaphore(0)
        self.held = False
        self.quick = False
        self.fail_launch: BaseException | None = None
        self.fail_result: BaseException | None = None
        self.launched: list[Arrays] = []
        self.weights: Weights | None = None

    def hold(self) -> None:
        """From now on, executions wait for the test; those that have entered are forgotten."""
        while self.entered.acquire(blocking=False):
            pass
        self.held = True

    def free(self) -> None:
        """From now on, nothing waits; what waits goes on."""
        self.held = False
        self.proceed.release(1000)

    def launch(self, weights: Weights, inputs: Arrays) -> Execution:
        """Start; `result` computes the outputs."""
        if self.fail_launch is not None:
            raise self.fail_launch
        self.launched.append(inputs)
        self.weights = weights
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
    """Makes puppets, one per bucket, and keeps them.

    `gate`, when set, holds every compilation until the test releases it; `fail` is raised instead
    of compiling.
    """

    weights = Weights([], 0)

    def __init__(self, function: Callable[[Arrays], dict[str, Array]] = double_plus_one) -> None:
        self.function = function
        self.executables: dict[Bucket, PuppetExecutable] = {}
        self.gate: threading.Semaphore | None = None
        self.fail: BaseException | None = None
        self._lock = threading.Lock()  # a test frees it while the engine compiles

    def __call__(self, _model: Model) -> PuppetCompiler:
        """The engine calls it to get a compiler: itself."""
        return self

    def compile(self, bucket: Bucket) -> PuppetExecutable:
        """One puppet."""
        if self.gate is not None:
            self.gate.acquire()
        if self.fail is not None:
            raise self.fail
        executable = PuppetExecutable(self.function)
        with self._lock:
            self.executables[bucket] = executable
        return executable

    def made(self) -> list[PuppetExecutable]:
        """The puppets so far."""
        with self._lock:
            return list(self.executables.values())

    def hold(self) -> None:
        """From now on, all executables wait for the test; see `PuppetExecutable.hold`."""
        for executable in self.made():
            executable.hold()

    def free(self) -> None:
        """Let everything run from now on, compilations too."""
        if self.gate is not None:
            self.gate.release(1000)
        for executable in self.made():
            executable.free()


class RecordingObserver(Observer):
    """Keeps every event as a tuple, and lets a test wait for one without sleeping."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._changed = threading.Condition()

    def _note(self, *event: Any) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The events of one name, oldest first, without the name."""
        with self._changed:
            return [event[1:] for event in self.events if event[0] == name]

    def wait_for(self, name: str, count: int = 1, timeout_s: float = 30.0) -> list[tuple[Any, ...]]:
        """Wait until `count` events of that name are recorded. Raises AssertionError otherwise."""

        def enough() -> bool:
            return len([event for event in self.events if event[0] == name]) >= count

        with self._changed:
            if not self._changed.wait_for(enough, timeout_s):
                raise AssertionError(f"no {count} x {name!r} within {timeout_s} s: {self.events}")
        return self.named(name)

    @override
    def state_changed(self, model: str, state: ModelState, reason: str | None) -> None:
        self._note("state_changed", model, state, reason)

    @override
    def broken(self, model: str, reason: str) -> None:
        self._note("broken", model, reason)

    @override
    def startup_finished(self) -> None:
        self._note("startup_finished")

    @override
    def compiled(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._note("compiled", model, bucket)

    @override
    def verified(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._note("verified", model, bucket)

    @override
    def compiled_after_ready(self) -> None:
        self._note("compiled_after_ready")

    @override
    def queued(self, model: str, requests: int) -> None:
        for _ in range(requests):
            self._note("queued", model)

    @override
    def refused(self, model: str, rows: int, error: BrimError) -> None:
        self._note("refused", model, rows, error)

    @override
    def batch_done(self, model: str, report: BatchReport) -> None:
        self._note("batch_done", model, report)

    @override
    def requests_done(self, model: str, reports: Sequence[RequestReport]) -> None:
        for report in reports:
            self._note("request_done", model, report)


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


def submit(
    client: InProcessClient,
    name: str,
    inputs: Arrays,
    timeout_s: float | None = None,
    priority: int = 0,
) -> PendingResult:
    """Prepare and queue one request, as the HTTP side does."""
    endpoint = client.endpoint(name)
    request = endpoint.prepare(endpoint.admit(), inputs, timeout_s, priority)
    return endpoint.submit(request)
