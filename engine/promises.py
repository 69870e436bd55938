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
        return self._finish(self._waiting.ahead(request), request, now)

    def _finish(self, ahead: Mapping[int | None, int], request: Queued, now: float) -> float:
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

    def _excess(self, ahead: Mapping[int | None, int], request: Queued, now: float) -> float:
        """By how much it would miss its deadline, the margin included."""
        if not any(ahead.values()) and self._device.free_at(now) <= now:
            return now + self._costs.hope(request.lane, request.rows) - request.deadline
        margin = max(0.0, min(self._lateness.value, (request.deadline - now) / 2))
        return self._finish(ahead, request, now) + margin - request.deadline

    def excess(self, request: Queued, now: float) -> float:
        """By how many seconds a request that is not there yet would miss its deadline, or make
        somebody of its priority miss one who would meet it otherwise. What is not above 0 makes
        nobody of its priority the worse; a lower one may be.
        """
        before = dict(self._waiting.ahead(request))
        worst = self._excess(before, request, now)
        after = dict(before)
        after[request.lane] += request.rows
        for other in self._waiting.behind(request):
            delayed = self._excess(after, other, now)
            if delayed > 0 >= self._excess(before, other, now):
                worst = max(worst, delayed)
            for rows in (before, after):
                rows[other.lane] += self._waiting.left(other)
        return worst

    def give(self, request: R, now: float) -> None:
        """A request is about to wait: remember when its answer is expected, without the margin:
        what is late by that is what the margin has to be.
        """
        self._expected[request] = self.finish(request, now)

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
