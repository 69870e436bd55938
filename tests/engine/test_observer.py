"""Observers hear everything, and cannot hurt."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest

from engine.buckets import Bucket
from engine.errors import QueueFull
from engine.observer import BatchReport, Observer, Observers, TicketReport
from engine.state import ModelState
from engine.testing import RecordingObserver

BATCH = BatchReport(Bucket(2), 1, "idle", 0.0, 0.1, 0.0, failed=False)
TICKET = TicketReport(1, None, None, 0.1, None)
FULL = QueueFull("full", 1.0)

# hook -> (what it is called with, what a recording remembers of it)
HOOKS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "state_changed": (("m", ModelState.READY, None), ("m", ModelState.READY, None)),
    "compiled": (("m", Bucket(1), 0.5), ("m", Bucket(1))),
    "proved": (("m", Bucket(1), 0.5), ("m", Bucket(1))),
    "settled": ((), ()),
    "compiled_after_ready": ((), ()),
    "queued": (("m", 3), ("m", 3)),
    "refused": (("m", 3, FULL), ("m", 3, FULL)),
    "batch_done": (("m", BATCH), ("m", BATCH)),
    "ticket_done": (("m", TICKET), ("m", TICKET)),
}


def test_the_table_has_every_hook() -> None:
    hooks = {name for name, _ in inspect.getmembers(Observer, inspect.isfunction)}
    assert {name for name in hooks if not name.startswith("_")} == set(HOOKS)


class Broken(Observer):
    """Raises in every hook."""

    def __getattribute__(self, name: str) -> Any:
        if name in HOOKS:
            raise ZeroDivisionError(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_broken_observer_is_logged_and_the_others_hear_all_the_same(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = RecordingObserver(), RecordingObserver()
    arguments, remembered = HOOKS[hook]
    with caplog.at_level(logging.ERROR, "brim.engine"):
        getattr(Observers([before, Broken(), after]), hook)(*arguments)
    assert before.named(hook) == after.named(hook) == [remembered]
    assert "an observer failed: <" in caplog.text
    assert f"ZeroDivisionError: {hook}" in caplog.text


@pytest.mark.parametrize("hook", HOOKS)
def test_an_observer_need_not_care(hook: str) -> None:
    getattr(Observer(), hook)(*HOOKS[hook][0])


def test_nobody_may_be_listening() -> None:
    Observers([]).queued("m", 1)
