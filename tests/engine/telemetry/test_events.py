"""Observers hear everything, and cannot hurt."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest

from engine.errors import QueueFull
from engine.models.model import ModelState
from engine.scheduling.buckets import Bucket
from engine.telemetry.events import BatchReport, Observer, Observers, RequestReport
from engine.testing import RecordingObserver

BATCH = BatchReport(Bucket(2), 1, "idle", 0.0, 0.1, 0.0, failed=False)
REQUEST = RequestReport(1, None, None, 0.1, None)
FULL = QueueFull("full", 1.0)

# hook -> (what it is called with, what a recording remembers of it)
HOOKS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "state_changed": (("m", ModelState.READY, None), ("m", ModelState.READY, None)),
    "compiled": (("m", Bucket(1), 0.5), ("m", Bucket(1))),
    "verified": (("m", Bucket(1), 0.5), ("m", Bucket(1))),
    "broken": (("m", "a thread died"), ("m", "a thread died")),
    "startup_finished": ((), ()),
    "compiled_after_ready": ((), ()),
    "queued": (("m", 1), ("m",)),
    "refused": (("m", 3, FULL), ("m", 3, FULL)),
    "batch_done": (("m", BATCH), ("m", BATCH)),
    "requests_done": (("m", [REQUEST]), ("m", REQUEST)),
}


def test_the_table_has_every_hook() -> None:
    hooks = {name for name, _ in inspect.getmembers(Observer, inspect.isfunction)}
    assert {name for name in hooks if not name.startswith("_")} == set(HOOKS)


def broken(hook: str) -> Observer:
    """An observer that raises in this hook."""

    def fail(_self: Observer, *_arguments: object) -> None:
        raise ZeroDivisionError(hook)

    return type("Broken", (Observer,), {hook: fail})()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_broken_observer_is_logged_and_the_others_hear_all_the_same(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = RecordingObserver(), RecordingObserver()
    arguments, remembered = HOOKS[hook]
    with caplog.at_level(logging.ERROR, "brim.engine"):
        getattr(Observers([before, broken(hook), after]), hook)(*arguments)
    named = hook.replace("requests", "request")  # remembered one by one
    assert before.named(named) == after.named(named) == [remembered]
    assert "an observer failed: <" in caplog.text
    assert f"ZeroDivisionError: {hook}" in caplog.text


@pytest.mark.parametrize("hook", HOOKS)
def test_an_observer_need_not_care(hook: str) -> None:
    getattr(Observer(), hook)(*HOOKS[hook][0])


def test_nobody_may_be_listening() -> None:
    Observers([]).queued("m", 1)


def test_those_who_are_told_by_one_who_is_told_hear_once() -> None:
    inner, outer = RecordingObserver(), RecordingObserver()
    both = Observers([outer, Observers([Observers([inner])])])
    both.queued("m", 1)
    assert both.all == (outer, inner)
    assert inner.events == outer.events == [("queued", "m")]


def test_who_does_not_override_a_hook_is_not_called() -> None:
    calls: list[tuple[object, ...]] = []
    deaf = Observer()
    deaf.queued = lambda *heard: calls.append(heard)  # type: ignore[method-assign]
    Observers([deaf]).queued("m", 1)
    assert calls == []
