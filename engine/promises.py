"""When will a request that arrives now be answered, and may that be promised?

May touch: nothing. Time is an argument.

A promise is arithmetic: what is on the device, plus the cheapest cut of all that is taken before
it, plus how late such promises have been kept of late. Who cannot be promised an answer before the
deadline is better told so at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic

from engine.costs import CostTable
from engine.device import Device
from engine.estimates import Expectation
from engine.waiting import R, WaitingRoom


class Promises(Generic[R]):
    """What was promised to those who wait, and how well it is kept."""

    def __init__(
        self, name: str, costs: CostTable, waiting: WaitingRoom[R], device: Device
    ) -> None:
        self._name = name
        self._costs = costs
        self._waiting = waiting
        self._device = device
        self._given: dict[R, float] = {}
        self._lateness = Expectation()

    def finish(self, request: R, now: float) -> float:
        """When a request that is not there yet would be answered."""
        return self._finish(self._waiting.ahead(request), request, now) + self._margin_s

    @property
    def _margin_s(self) -> float:
        return max(0.0, self._lateness.upper(0.0))

    def _finish(self, ahead: Mapping[int | None, int], request: R, now: float) -> float:
        rows = dict(ahead)
        rows[request.lane] += request.rows
        free_at = self._device.free_at(now)
        if rows[request.lane] > request.rows or free_at > now:
            # while it waits its batch will be filled by those who come after it: it takes as long
            # as a full one, and `formation` sees to it that it does not take longer
            full = self._costs.best(request.lane).rows
            rows[request.lane] = -(-rows[request.lane] // full) * full
        work = sum(self._costs.work(lane, n) for lane, n in rows.items() if n)
        return free_at + work / self._device.share(self._name)

    def excess(self, request: R, now: float) -> float:
        """By how many seconds a request that is not there yet would miss its deadline, or make
        somebody of its priority miss one who would meet it otherwise. What is not above 0 makes
        nobody of its priority the worse; a lower one may be.
        """
        before, margin = dict(self._waiting.ahead(request)), self._margin_s
        worst = self._finish(before, request, now) + margin - request.deadline
        after = dict(before)
        after[request.lane] += request.rows
        for other in self._waiting.behind(request):
            delayed = self._finish(after, other, now) + margin - other.deadline
            if delayed > 0 >= self._finish(before, other, now) + margin - other.deadline:
                worst = max(worst, delayed)
            for rows in (before, after):
                rows[other.lane] += self._waiting.left(other)
        return worst

    def give(self, request: R, now: float) -> None:
        """A request that is about to wait is promised its answer.

        Remembered without the margin: what is late by that is what the margin has to be.
        """
        self._given[request] = self._finish(self._waiting.ahead(request), request, now)

    def keep(self, request: R, now: float) -> None:
        """It has it."""
        promised = self._given.pop(request, None)
        if promised is not None:
            self._lateness.add(now - promised)

    def forget(self, request: R) -> None:
        """It does not want it any more."""
        self._given.pop(request, None)
