"""Endpoints that are closed when their test ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.models.model import Model
from engine.testing import FakeClock, puppet_model
from tests.engine.serving.rig import PATIENCE_S, Life, LifeMaker


@pytest.fixture
def live(clock: FakeClock) -> Iterator[LifeMaker]:
    """`live(model, rows=(1, 2), ...)`: not brought up yet, and closed afterwards."""
    lives: list[Life] = []

    def make(model: Model | BaseException | None = None, **config: Any) -> Life:
        lives.append(Life(clock, puppet_model() if model is None else model, **config))
        return lives[-1]

    yield make
    for life in lives:
        life.free()
        life.endpoint.close(PATIENCE_S)


@pytest.fixture
def ready(live: LifeMaker) -> Life:
    """Brought up."""
    return live().bring_up()
