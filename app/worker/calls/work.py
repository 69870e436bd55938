"""Where the steps of one connection's requests run."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

from app.worker.calls.job import Job
from app.worker.calls.refusal import Refusal
from app.worker.loop import Loop
from app.worker.protocol.cycle import RequestResponseCycle
from app.worker.suspension import Exchange, Place


class Submits(Protocol):
    """A pool."""

    def submit(self, lane: str, job: Job, *, first: bool = False) -> Refusal | None:
        """See `Lane.submit`."""


class Work:
    """Runs one step after the other, on the loop's thread or in the lane of the request's place."""

    __slots__ = ("_job", "_loop", "_pool", "inline", "lane")

    def __init__(self, loop: Loop, pool: Submits) -> None:
        self._loop = loop
        self._pool = pool
        self._job: Job | None = None
        self.inline = True
        self.lane = ""

    def begin(self, exchange: Exchange, place: Place, on_limit: Callable[[], object]) -> None:
        """The next steps are those of this request. Where they run in a lane, `on_limit` is called
        on the loop's thread when the application has set an earlier deadline.
        """
        self.inline, self.lane = place.inline, place.lane
        exchange.on_overdue = self._loop.overdue
        if not place.inline:
            exchange.limit(exchange.read_at + place.timeout_s)
            exchange.on_limit = partial(self._loop.call_soon, (on_limit,))

    def run(
        self,
        cycle: RequestResponseCycle,
        step: Callable[[], object],
        then: Callable[[], object],
        *,
        first: bool = True,
    ) -> Refusal | None:
        """Make a step of the cycle, then call `then` on the loop's thread; or return why not, which
        happens to no step that is the `first` to be made.
        """
        cycle.exchange.job = self._job = None
        if self.inline:
            step()
            then()
            return None
        # an answer that has begun cannot become another one
        deadline = math.inf if cycle.begun else cycle.exchange.deadline
        self._job = Job(step, deadline, lambda: self._loop.call_soon((then,)), lost=cycle.abandon)
        cycle.exchange.job = self._job
        return self._pool.submit(self.lane, self._job, first=first)

    @property
    def deadline(self) -> float:
        """That of the step in the lane; infinity without one."""
        return math.inf if self._job is None else self._job.deadline

    def give_up(self) -> bool:
        """The deadline of the step in the lane has passed. Returns False if it has an answer."""
        job, self._job = self._job, None
        return job is not None and job.give_up()
