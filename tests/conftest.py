"""Traps for every test: a thread of ours that outlives its test fails it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from engine.testing import FakeClock


@pytest.fixture(autouse=True)
def no_thread_of_ours_outlives_its_test() -> Iterator[None]:
    """Whoever starts an engine or a watcher closes it."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
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
