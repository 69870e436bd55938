"""Rigs that are closed when their test ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.models.model import Model
from engine.models.tensors import Array, Arrays
from engine.testing import FakeClock, double_plus_one
from tests.engine.runtime.rig import PATIENCE_S, Rig, RigMaker, Setup


@pytest.fixture
def make_rig(clock: FakeClock) -> Iterator[RigMaker]:
    """`make_rig(function, depth=1, ...)`: started, and closed afterwards."""
    rigs: list[Rig] = []
    default_clock = clock

    def make(
        function: Callable[[Arrays], dict[str, Array]] = double_plus_one,
        *,
        start: bool = True,
        clock: FakeClock | None = None,
        model: Model | None = None,
        seconds: float = 1.0,
        self_contained: bool = True,
        **options: Any,
    ) -> Rig:
        setup = Setup(clock or default_clock, function, model, seconds, self_contained)
        rigs.append(Rig(setup, options))
        if start:
            rigs[-1].threads.start()
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.free()
        rig.threads.close(PATIENCE_S)


@pytest.fixture
def rig(make_rig: RigMaker) -> Rig:
    """At most two batches in flight; each takes about a second, as far as the scheduler knows."""
    return make_rig()


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    """What fails on purpose is logged where a test can read it."""
    caplog.set_level(logging.ERROR, "brim.engine")
