"""An engine with puppets behind shared memory, both ends in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.shared_memory import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    """Make rigs; they are closed when the test ends."""
    rigs: list[Rig] = []

    def make(*models: object, **options: object) -> Rig:
        rigs.append(Rig(*models, **options))  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """One puppet, ready."""
    return make_rig()
