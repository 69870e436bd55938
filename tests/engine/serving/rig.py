"""One endpoint that is served by puppets, on the test's own thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
from typing_extensions import override

from engine.errors import BrimError
from engine.models.config import ModelConfig
from engine.models.model import Model, ModelState
from engine.models.tensors import LENGTH, Array, Arrays, TensorSpec
from engine.runtime.device_group import DeviceGroup
from engine.runtime.pending import PendingResult
from engine.serving.bring_up import Toolchain
from engine.serving.endpoint import Endpoint
from engine.telemetry.snapshots import Counts, ModelSnapshot
from engine.testing import (
    FakeClock,
    PuppetCompiler,
    PuppetExecutable,
    RecordingObserver,
    expected_rows,
    puppet_config,
    rows,
)

LOADING, COMPILING, WARMING, READY, DRAINING, CLOSED, FAILED = ModelState

PATIENCE_S: Final = 30.0

IDS: Final = TensorSpec("ids", "INT64", (LENGTH,))


class ReactingObserver(RecordingObserver):
    """Calls `reactions[event]`, if there is one, with what it has recorded of the event."""

    def __init__(self) -> None:
        super().__init__()
        self.reactions: dict[str, Callable[..., object]] = {}

    @override
    def _note(self, *event: Any) -> None:
        super()._note(*event)
        reaction = self.reactions.get(event[0])
        if reaction is not None:
            reaction(*event[1:])


class Life:
    """An endpoint and everything around it."""

    def __init__(self, clock: FakeClock, model: Model | BaseException, **config: Any) -> None:
        self.clock = clock
        self.observer = ReactingObserver()
        self.compiler = PuppetCompiler()
        self.loaded: Model | BaseException = model
        self.group = DeviceGroup()
        self.tools = Toolchain(self._load, self.compiler)
        self.endpoint = Endpoint(
            puppet_config(**config), self.tools, self.observer, clock, self.group
        )

    def _load(self, _config: ModelConfig) -> Model:
        if isinstance(self.loaded, BaseException):
            raise self.loaded
        return self.loaded

    def bring_up(self) -> Life:
        """Bring it up in this thread."""
        self.endpoint.bring_up()
        return self

    def submit(
        self, inputs: Arrays, timeout_s: float | None = None, priority: int = 0
    ) -> PendingResult:
        """Admit, prepare and submit one request."""
        interface = self.endpoint.admit()
        return self.endpoint.submit(self.endpoint.prepare(interface, inputs, timeout_s, priority))

    def infer(self, inputs: Arrays) -> Arrays:
        """Submit one request and wait."""
        return self.submit(inputs).result()

    def snapshot(self) -> ModelSnapshot:
        """State and statistics."""
        return self.endpoint.snapshot()

    @property
    def states(self) -> list[ModelState]:
        """In the order in which the observer heard of them."""
        return [state for _, state, _ in self.observer.named("state_changed")]

    @property
    def device(self) -> PuppetExecutable:
        """The largest bucket. It gets every batch: on a clock that stands still all cost the same,
        and of equals the larger is chosen.
        """
        return self.compiler.executables[self.endpoint.config.grid.buckets[-1]]

    @property
    def counts(self) -> Counts:
        """The totals."""
        return self.snapshot().activity.counts

    def hold(self) -> None:
        """Let the device wait for the test; what it reported during verification is forgotten."""
        self.device.hold()

    def occupy(self) -> PendingResult:
        """One row is on the device and does not come back before `free`."""
        self.hold()
        pending = self.submit(rows(0))
        assert self.device.entered.acquire(timeout=PATIENCE_S)
        return pending

    def free(self) -> None:
        """Let every batch end that is held now or later."""
        self.compiler.free()


LifeMaker = Callable[..., Life]


def refusal(life: Life, inputs: Arrays | None = None) -> BrimError:
    """The error that a request gets."""
    with pytest.raises(BrimError) as caught:
        life.submit(rows(1) if inputs is None else inputs)
    return caught.value


def raises(error: BaseException) -> Callable[..., Any]:
    """A hook that raises."""

    def hook(*_arguments: Any) -> Any:
        raise error

    return hook


def assert_answers(outputs: Arrays, *values: float) -> None:
    """The outputs are those of these rows."""
    expected: Array = expected_rows(*values)
    assert np.array_equal(outputs["y"], expected)
