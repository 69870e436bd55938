"""One call in a lane, and which of two threads decides its outcome."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Final, Protocol


class Phase(enum.Enum):
    """How far a call is."""

    WAITING = "for a thread"
    RUNNING = "on a thread"
    ANSWERING = "on a thread, and its answer has begun"
    DONE = "it has returned"
    GIVEN_UP = "its outcome is not wanted any more; it may still run"


class Lane(Protocol):
    """What a job needs of the lane that it was submitted to."""

    def keep(self, job: Job) -> bool:
        """See `Job.keep`."""

    def give_up(self, job: Job) -> bool:
        """See `Job.give_up`."""


def _nothing() -> None:
    pass


class Job:
    """`call` runs on a thread of the lane. Then that thread calls `done`; or `lost`, if the call
    was given up meanwhile or before.

    A call cannot be interrupted. One that is given up keeps its thread until it returns.
    """

    __slots__ = ("begun_at", "call", "deadline", "done", "lane", "lost", "phase")

    def __init__(
        self,
        call: Callable[[], object],
        deadline: float = math.inf,
        done: Callable[[], object] = _nothing,
        lost: Callable[[], object] = _nothing,
    ) -> None:
        """After `deadline`, on the monotonic clock, its outcome is worth nothing."""
        self.call = call
        self.deadline: Final = deadline
        self.done = done
        self.lost = lost
        self.phase = Phase.WAITING
        self.begun_at = math.inf
        self.lane: Lane | None = None  # until it is submitted

    @property
    def given_up(self) -> bool:
        """Whether its outcome is not wanted any more."""
        return self.phase is Phase.GIVEN_UP

    def keep(self) -> bool:
        """Begin the answer. Returns False if the call was given up: then there must be none.
        Called by the call itself.
        """
        return self.lane is None or self.lane.keep(self)

    def give_up(self) -> bool:
        """The outcome is not wanted any more. Returns False if it is too late for that: the answer
        has begun, or the call has returned.
        """
        return self.lane is not None and self.lane.give_up(self)

    def forget(self) -> None:
        """It is over. The calls lead back here: a cycle for the garbage collector."""
        self.call = self.done = self.lost = _nothing
