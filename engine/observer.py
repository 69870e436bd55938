"""What the engine tells whoever wants to know: hooks with empty bodies.

May touch: nothing. Called from the engine's threads, never under a lock, with frozen values. An
observer cannot hurt the engine: what it raises is logged and forgotten (`Observers`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from engine.batching import Reason
from engine.buckets import Bucket
from engine.errors import BrimError
from engine.state import ModelState

log = logging.getLogger("brim.engine")


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch that has come back. `rows` are the real ones.

    `execute_s` counts from its launch, or from the end of the batch before it if that was later:
    the time that it had the device, not the time that it waited for it.
    """

    bucket: Bucket
    rows: int
    reason: Reason
    gather_s: float
    execute_s: float
    scatter_s: float
    failed: bool


class Phases(NamedTuple):
    """Where the seconds of one request went; they add up to its latency.

    Waiting (a preprocess included); copying its rows into a bucket; on the device, from its first
    batch's launch to its last batch's end; copying its outputs out.
    """

    queue_s: float
    input_s: float
    infer_s: float
    output_s: float


class TicketReport(NamedTuple):
    """One request that has its outcome. `phases` is None if it never came back from the device."""

    rows: int
    queue_s: float | None
    phases: Phases | None
    latency_s: float
    error: BrimError | None


class Observer:
    """Override what you want to hear about."""

    def state_changed(self, model: str, state: ModelState, reason: str | None) -> None:
        """The model's life went on; `reason` says why it failed."""

    def settled(self) -> None:
        """The start-up is over: every model has come up or failed. Heard once."""

    def compiled(self, model: str, bucket: Bucket, seconds: float) -> None:
        """A bucket has an executable."""

    def proved(self, model: str, bucket: Bucket, seconds: float) -> None:
        """A bucket agreed with the one-row bucket; `seconds` is its cost."""

    def compiled_after_ready(self) -> None:
        """Something compiled outside of start-up. It must never happen."""

    def queued(self, model: str, rows: int) -> None:
        """A request was accepted."""

    def refused(self, model: str, rows: int, error: BrimError) -> None:
        """A request was turned away at the door."""

    def batch_done(self, model: str, report: BatchReport) -> None:
        """A batch has come back, well or badly."""

    def tickets_done(self, model: str, reports: Sequence[TicketReport]) -> None:
        """Requests have their outcomes: those of one batch at once."""


HOOKS: Final = tuple(name for name in vars(Observer) if not name.startswith("_"))


def _overrides(observer: Observer, hook: str) -> bool:
    return getattr(type(observer), hook) is not getattr(Observer, hook)


class Observers(Observer):
    """Tells several observers, whatever one of them does."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.all: tuple[Observer, ...] = tuple(
            one for o in observers for one in (o.all if isinstance(o, Observers) else (o,))
        )
        # some hooks are called for every request: only those are told who want to hear
        self._hearing = {hook: tuple(o for o in self.all if _overrides(o, hook)) for hook in HOOKS}

    def _tell(self, hook: str, *heard: object) -> None:
        for observer in self._hearing[hook]:
            try:
                getattr(observer, hook)(*heard)
            except Exception:
                log.exception("an observer failed: %r", observer)

    def state_changed(self, model: str, state: ModelState, reason: str | None) -> None:
        self._tell("state_changed", model, state, reason)

    def settled(self) -> None:
        self._tell("settled")

    def compiled(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._tell("compiled", model, bucket, seconds)

    def proved(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._tell("proved", model, bucket, seconds)

    def compiled_after_ready(self) -> None:
        self._tell("compiled_after_ready")

    def queued(self, model: str, rows: int) -> None:
        self._tell("queued", model, rows)

    def refused(self, model: str, rows: int, error: BrimError) -> None:
        self._tell("refused", model, rows, error)

    def batch_done(self, model: str, report: BatchReport) -> None:
        self._tell("batch_done", model, report)

    def tickets_done(self, model: str, reports: Sequence[TicketReport]) -> None:
        self._tell("tickets_done", model, reports)
