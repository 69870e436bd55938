"""The state machine of one version: from LOADING to READY, and to its end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from engine.errors import BrimError, ModelFailed, NotReady, ShuttingDown
from engine.models.model import ModelState
from engine.telemetry.snapshots import Progress


class Stopped(Exception):
    """Start-up was interrupted by a shutdown."""


class Lifecycle:
    """State, reason and progress of one version. `_lock` guards the state and its reason.

    A second version of the same model has a life cycle of its own beside this one.
    """

    def __init__(
        self,
        name: str,
        buckets: int,
        clock: Callable[[], float],
        changed: Callable[[ModelState, str | None], object],
    ) -> None:
        """`changed(state, reason)` is called after each change, with the lock released."""
        self.name = name
        self._buckets = buckets
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        self._state = ModelState.LOADING
        self._reason: str | None = None
        self._steps = self._verified = 0
        self._started_at: float | None = None
        self._ended_at: float | None = None

    @property
    def state(self) -> ModelState:
        """The state of this moment."""
        return self._state

    def state_and_reason(self) -> tuple[ModelState, str | None]:
        """Both, from one moment."""
        with self._lock:
            return self._state, self._reason

    def become(self, state: ModelState, reason: str | None = None) -> bool:
        """Change the state, forward only. Returns False where that is not allowed."""
        with self._lock:
            if not self._state.may_become(state):
                return False
            self._state = state
            if reason is not None:
                self._reason = reason
            if state.startup_finished and self._ended_at is None:
                self._ended_at = self._clock()
        self._changed(state, reason)
        return True

    def abandon(self, reason: str) -> None:
        """FAILED, in a forked child. A thread of the parent may have held the replaced lock."""
        self._lock = threading.Lock()
        self._state, self._reason = ModelState.FAILED, reason

    def refusal(self) -> BrimError:
        """Why this version does not serve."""
        return refusal(self.name, *self.state_and_reason(), self.progress())

    def started(self) -> None:
        """Start-up begins now."""
        self._started_at = self._clock()

    def compiled_one(self) -> None:
        """A bucket is compiled."""
        self._steps += 1

    def verified_one(self) -> None:
        """A bucket is verified."""
        self._steps += 1
        self._verified += 1

    def raise_if_stopped(self) -> None:
        """Raise `Stopped` if a shutdown has begun."""
        if self._state in (ModelState.DRAINING, ModelState.CLOSED):
            raise Stopped

    def progress(self) -> Progress:
        """How far the start-up is."""
        now = self._clock() if self._ended_at is None else self._ended_at
        elapsed = 0.0 if self._started_at is None else now - self._started_at
        # compiling and verifying are taken as half of the way each: right within a factor of two,
        # which is enough for a progress bar and a Retry-After
        done = self._steps / (2 * self._buckets)
        expected = elapsed / done if done and math.isfinite(elapsed) else None
        return Progress(self._verified, self._buckets, elapsed, expected)


def refusal(name: str, state: ModelState, reason: str | None, progress: Progress) -> BrimError:
    """Why a model in this state does not serve."""
    if state is ModelState.FAILED:
        return ModelFailed(f"model {name!r} has failed: {reason}")
    if state in (ModelState.DRAINING, ModelState.CLOSED):
        return ShuttingDown("the server is shutting down", 1.0)
    left_s = 1.0
    if progress.expected_s is not None:
        left_s = max(1.0, progress.expected_s - progress.elapsed_s)
    done = f"{progress.buckets_done} of {progress.buckets_total} buckets are verified"
    why = f" ({reason})" if reason else ""
    return NotReady(f"model {name!r} is {state.value}: {done}{why}", left_s)
