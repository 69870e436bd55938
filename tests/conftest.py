"""Traps for every test: a thread of ours that outlives its test fails it."""

from __future__ import annotations

import faulthandler
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from engine.testing import FakeClock

# how long an example takes is this machine's business, and no property of the code
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


if sys.version_info < (3, 12):
    # Python 3.11 loses count when two threads make syntax trees (python/cpython issue 106905). An
    # engine's thread that prints a traceback makes them for its carets, while Flask's routes do
    traceback._extract_caret_anchors_from_line_segment = (  # type: ignore[attr-defined]
        lambda _segment: None
    )

DEVICE_ROOMS: Final = ("engine/compilation", "engine/models/families")
"""Folders whose tests compile and run real programs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out by its folder."""
    for item in items:
        folder = item.path.parent.as_posix()
        if folder.endswith("tests/e2e"):
            item.add_marker(pytest.mark.e2e)
        elif folder.endswith(DEVICE_ROOMS):
            item.add_marker(pytest.mark.device)


def pytest_unconfigure() -> None:
    """A thread that a failed test has left must not keep the process for ever: it ends with 1."""
    faulthandler.dump_traceback_later(60, exit=True)


@pytest.fixture(autouse=True)
def no_thread_of_ours_outlives_its_test() -> Iterator[None]:
    """A test that starts an engine or a watcher closes it."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 30  # only a failing test waits so long
    left = []
    while time.monotonic() < deadline:
        left = [
            thread
            for thread in set(threading.enumerate()) - before
            if thread.name.startswith("brim-") and thread.is_alive()
        ]
        if not left:
            return
        left[0].join(0.1)
    pytest.fail(f"still running: {left}")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still until the test moves it."""
    return FakeClock()


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """The path of a program that make fetches. Without it the test is skipped; in CI it fails."""
    folders = (Path(__file__).parents[1] / ".tools" / "usr" / "bin", Path(sys.executable).parent)

    def find(name: str) -> Path:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        if found := shutil.which(name):
            return Path(found)
        missing = f"{name} is not here; `make setup tools` fetches it"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)

    return find
