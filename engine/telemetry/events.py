"""The engine's events: hooks with empty bodies, and the values that they are called with.

Hooks are called from the engine's threads, never under a lock, with frozen values. `Observers` logs
and drops what an observer raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from engine.errors import BrimError
from engine.models.model import ModelState
from engine.scheduling.buckets import Bucket
from engine.scheduling.scheduler import Reason

log = logging.getLogger("brim.engine")


class BatchReport(NamedTuple):
    """One batch that has completed or failed. `rows` are the real ones.

    `execute_s` is the time on the device: it counts from the launch, or from the end of the
    previous batch if that was later.
    """

    bucket: Bucket
    rows: int
    reason: Reason
    gather_s: float
    execute_s: float
    scatter_s: float
    failed: bool


class Phases(NamedTuple):
    """The seconds of one request by phase; they add up to its latency.

    Queue (preprocessing included); input: copying its rows into a bucket; infer: on the device,
    from the launch of its first batch to the end of its last; output: copying its outputs.
    """

    queue_s: float
    input_s: float
    infer_s: float
    output_s: float


class RequestReport(NamedTuple):
    """One request that has its outcome.

    `queue_s` is None if it was not dispatched, `phases` if it did not complete on the device.
    `own_deadline`: the client allowed less time than the model promises.
    """

    rows: int
    queue_s: float | None
    phases: Phases | None
    latency_s: float
    error: BrimError | None
    own_deadline: bool = False


class Observer:
    """Override the hooks of the events that you need."""

    def state_changed(self, model: str, state: ModelState, reason: str | None) -> None:
        """A model is in another state; `reason` is why it failed, or None."""

    def broken(self, model: str, reason: str) -> None:
        """A thread that serves the model has died: only a new process can serve it."""

    def startup_finished(self) -> None:
        """Start-up is over: every model is READY or FAILED. Called once."""

    def compiled(self, model: str, bucket: Bucket, seconds: float) -> None:
        """A bucket was compiled, `seconds` after compilation began."""

    def verified(self, model: str, bucket: Bucket, seconds: float) -> None:
        """A bucket's outputs agree with the one-row bucket's; `seconds` is its cost."""

    def compiled_after_ready(self) -> None:
        """A compilation outside of start-up. It must never happen."""

    def queued(self, model: str, requests: int) -> None:
        """So many requests, which came together, were accepted."""

    def refused(self, model: str, rows: int, error: BrimError) -> None:
        """A request was refused."""

    def batch_done(self, model: str, report: BatchReport) -> None:
        """A batch has completed or failed."""

    def requests_done(self, model: str, reports: Sequence[RequestReport]) -> None:
        """Requests have their outcomes: those of one batch in one call."""


HOOKS: Final = {name: hook for name, hook in vars(Observer).items() if not name.startswith("_")}


class Observers(Observer):
    """Forwards every event to several observers, also when one of them raises."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.all: tuple[Observer, ...] = tuple(
            one for o in observers for one in (o.all if isinstance(o, Observers) else (o,))
        )
        # some hooks are called for every request: only observers that override a hook are called
        for name, empty in HOOKS.items():
            calls = tuple(getattr(o, name) for o in self.all if getattr(type(o), name) is not empty)
            setattr(self, name, partial(_call_each, calls))


def _call_each(calls: Sequence[Callable[..., None]], *arguments: object) -> None:
    for call in calls:
        try:
            call(*arguments)
        except Exception:
            log.exception("an observer failed: %r", call)
