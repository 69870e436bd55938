"""When will a request that arrives now be answered, and may that be promised?

May touch: nothing. Time is an argument.

A promise is arithmetic: what is on the device, plus the cheapest cut of all that is taken before
it, plus the most that such promises were late by of late. Who cannot be promised an answer before
the deadline is better told so at once.

Under overload everybody who is admitted is close to the deadline, so what a promise is worth is
decided by its margin. A generous one costs little: it makes the queue shorter, and not the device
idle. So it takes up to half of what a request may take. On a free device whoever has any hope is
let in: what was learned in bad times, costs and margin, is only unlearned by running something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic

from engine.costs import CostTable
from engine.device import Device
from engine.estimates import Worst
from engine.waiting import Queued, R, WaitingRoom


class Promises(Generic[R]):
    """What was expected for those who wait, and how wrong that was."""

    def __init__(
        self, name: str, costs: CostTable, waiting: WaitingRoom[R], device: Device
    ) -> None:
        self._name = name
        self._costs = costs
        self._waiting = waiting
        self._device = device
        self._expected: dict[R, float] = {}
        self._lateness = Worst()

    def finish(self, request: Queued, now: float) -> float:
        """When a request that is not there yet is expected to be answered."""
        return self._finish(self._waiting.ahead(request), request, self._device.free_at(now), now)

    def _finish(
        self, ahead: Mapping[int | None, int], request: Queued, free_at: float, now: float
    ) -> float:
        lane, costs = request.lane, self._costs
        rows = ahead[lane] + request.rows
        if rows > request.rows or free_at > now:
            # while it waits its batch will be filled by those who come after it: it takes as long
            # as a full one, and `formation` sees to it that it does not take longer
            full = costs.best(lane).rows
            rows = -(-rows // full) * full
        work = costs.work(lane, rows)
        if len(ahead) > 1:
            for other, waiting in ahead.items():
                if waiting and other != lane:
                    work += costs.work(other, waiting)
        return free_at + work / self._device.share(self._name)

    def _excess(
        self, ahead: Mapping[int | None, int], request: Queued, free_at: float, now: float
    ) -> float:
        """By how much it would miss its deadline, the margin included."""
        margin = max(0.0, min(self._lateness.value, (request.deadline - now) / 2))
        return self._finish(ahead, request, free_at, now) + margin - request.deadline

    def excess(self, request: Queued, now: float) -> float:
        """By how many seconds a request that is not there yet would miss its deadline, or make
        somebody of its priority miss one who would meet it otherwise. What is not above 0 makes
        nobody of its priority the worse; a lower one may be.
        """
        ahead, free_at = self._waiting.ahead(request), self._device.free_at(now)
        if free_at <= now and not any(ahead.values()):
            worst = now + self._costs.hope(request.lane, request.rows) - request.deadline
        else:
            worst = self._excess(ahead, request, free_at, now)
        if ahead is self._waiting.rows:
            return worst  # nobody is behind it
        before, after = dict(ahead), dict(ahead)
        after[request.lane] += request.rows
        for other in self._waiting.behind(request):
            delayed = self._excess(after, other, free_at, now)
            if delayed > 0 >= self._excess(before, other, free_at, now):
                worst = max(worst, delayed)
            for rows in (before, after):
                rows[other.lane] += self._waiting.left(other)
        return worst

    def give(self, request: R, now: float) -> None:
        """A request is about to wait: remember when its answer is expected, without the margin:
        what is late by that is what the margin has to be. Who comes to a free device teaches
        nothing of that.
        """
        ahead, free_at = self._waiting.ahead(request), self._device.free_at(now)
        if free_at > now or any(ahead.values()):
            self._expected[request] = self._finish(ahead, request, free_at, now)

    def answered(self, request: R, at: float) -> None:
        """It has its answer, or would have had it at this moment if that had not been too late: to
        count only the promises that were kept would be to trust them too much.
        """
        expected = self._expected.pop(request, None)
        if expected is not None:
            self._lateness.add(at - expected)

    def forget(self, request: R) -> None:
        """It does not want it any more."""
        self._expected.pop(request, None)
