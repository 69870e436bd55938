"""All threads for calls that may block."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from app.worker.calls.job import Job
from app.worker.calls.lane import Lane, LaneLoad
from app.worker.calls.refusal import Refusal

OWN: Final = "own"
"""The lane of what never runs an application's users' code, such as metrics."""
OWN_THREADS: Final = 2


class Pool:
    """A lane for each kind of call: one kind does not wait for another's threads.

    Lanes are made by the thread that submits; there are as many as the application names.
    """

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Each lane has at most `threads`, and as many again in the place of those that hang."""
        self._threads = threads
        self._clock = clock
        self._lanes: dict[str, Lane] = {}

    def submit(self, lane: str, job: Job, *, first: bool = False) -> Refusal | None:
        """See `Lane.submit`."""
        return self._lane(lane).submit(job, first=first)

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            threads = OWN_THREADS if name == OWN else self._threads
            lane = self._lanes[name] = Lane(name, threads, self._clock)
        return lane

    def prepare(self, lane: str) -> None:
        """Start one thread now: later the system may start none."""
        self._lane(lane).grow(idle=1)

    def load(self) -> Mapping[str, LaneLoad]:
        """What each lane does at this moment. Any thread may call it."""
        return {name: lane.load() for name, lane in list(self._lanes.items())}

    def close(self) -> None:
        """End the threads after what was submitted. Returns at once."""
        for lane in self._lanes.values():
            lane.close()
