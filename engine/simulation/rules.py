"""The batching rules of other servers, for comparison: `brim simulate --policy`.

Each follows its documentation or source, on the same buckets and with one advantage: requests past
their deadlines are dropped before they cost anything. They serve one model and one length, first
come, first served, with one batch on the device at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Final

from engine.scheduling.admission import Quote
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.fair_share import InFlightBatch
from engine.scheduling.request_queue import RequestQueue
from engine.scheduling.scheduler import Expire, Launch, Reason, Stop, Wait
from engine.simulation.traces import Request


class Rule:
    """First come, first served. A subclass decides how many rows to run, and when."""

    def __init__(
        self, costs: CostTable, length: int | None, max_wait_s: float, slo_s: float
    ) -> None:
        """The longest wait, and the objective for a latency, are the server's configuration."""
        self.costs = costs
        self.max_wait_s = max_wait_s
        self.slo_s = slo_s
        self.buckets = [Bucket(c.rows, length) for c in costs.lines() if c.length == length]
        self.largest = self.buckets[-1].rows
        self.queue: RequestQueue[Request] = RequestQueue((length,))
        self.wakes_on_arrival = True  # not while the device is busy

    def has_room(self, rows: int) -> bool:
        """There is no limit."""
        return rows > 0

    def quote(self, request: Request, now: float) -> Quote:
        """No request is refused before its deadline."""
        return Quote(now, now - request.deadline, waits=False)

    def close(self) -> None:
        """No more arrivals."""
        self.queue.closed = True

    def enqueue(self, request: Request, _quote: Quote, now: float) -> None:
        """Queue a request."""
        self.queue.add(request)
        self._arrived(now)

    def poll(self, now: float) -> Launch[Request] | Expire[Request] | Wait | Stop:
        """What to do now."""
        if not self.wakes_on_arrival:
            return Wait(None)
        late = tuple(takewhile(lambda request: request.deadline <= now, self.queue))
        for request in late:
            self.queue.discard(request)
        if late:
            return Expire(late)
        queued = self.queue.total_rows
        if not queued:
            return Stop() if self.queue.closed else Wait(None)
        rows, until = self._decide(min(queued, self.largest), now)
        if until > now and not self.queue.closed:
            return Wait(until)
        return self._launch(min(rows, queued), now)

    def _launch(self, rows: int, now: float) -> Launch[Request]:
        bucket = self.fit(rows)
        slices = self.queue.take((bucket.length,), rows)
        self.wakes_on_arrival = False
        seconds = self.costs.seconds(bucket)
        reason: Reason = "full" if rows == bucket.rows else "idle"
        batch = InFlightBatch("", seconds, now, now + seconds)
        return Launch(bucket, slices, reason, batch, rows)

    def complete(self, launch: Launch[Request], now: float) -> float:
        """A batch is done."""
        self.wakes_on_arrival = True
        spent = now - launch.in_flight_batch.launched_at
        self._learn(launch, spent)
        return spent

    def fit(self, rows: int) -> Bucket:
        """The smallest bucket that holds them."""
        return next(b for b in self.buckets if b.rows >= rows)

    def _decide(self, rows: int, now: float) -> tuple[int, float]:
        """How many rows to run and from when, where so many, at most a full bucket, are queued."""
        return rows, now

    def _arrived(self, now: float) -> None:
        """Learn from an arrival."""

    def _learn(self, launch: Launch[Request], spent: float) -> None:
        """Learn from a batch that took `spent` seconds."""


class Window(Rule):
    """Launch when a batch is full or its oldest row has waited (Triton, TorchServe: delay)."""

    def _decide(self, rows: int, now: float) -> tuple[int, float]:
        full = rows == self.largest
        return rows, now if full else self.queue.first().enqueued_at + self.max_wait_s


class Pad(Rule):
    """As soon as the device is free, launch all queued rows, padded up (Triton: no delay)."""


class Idle(Rule):
    """As soon as the device is free, launch the largest bucket that can be filled."""

    def _decide(self, rows: int, now: float) -> tuple[int, float]:
        return max((b.rows for b in self.buckets if b.rows <= rows), default=1), now


class Greedy(Rule):
    """TensorFlow Serving's rule for padding: launch a smaller full batch if padding up would cost
    more than that batch and the rest in their own buckets.
    """

    def _decide(self, rows: int, now: float) -> tuple[int, float]:
        up = self.fit(rows)
        down = max((b for b in self.buckets if b.rows <= rows), key=lambda b: b.rows, default=up)
        if down.rows < rows:
            rest = self.costs.seconds(self.fit(rows - down.rows))
            if self.costs.seconds(down) + rest < self.costs.seconds(up):
                return down.rows, now
        return rows, now


class Aimd(Rule):
    """Clipper's: additive increase, multiplicative decrease. The largest batch grows by one while
    batches meet half the objective, and shrinks by a tenth when one does not.
    """

    most: float = 1.0

    def _decide(self, rows: int, now: float) -> tuple[int, float]:
        return min(rows, int(self.most)), now

    def _learn(self, launch: Launch[Request], spent: float) -> None:
        if spent > self.slo_s / 2:
            self.most = max(1.0, self.most * 0.9)
        elif launch.rows >= int(self.most):
            self.most = min(float(self.largest), self.most + 1)


class Linear(Rule):
    """BentoML's: fit a line to the seconds of past batches of n rows; wait while another arrival is
    expected sooner than the wait would cost the queued rows.
    """

    FADE: Final = 0.05
    TINY: Final = 1e-12

    _sums: tuple[float, ...] = (0.0,) * 4  # of n, seconds, n * n, n * seconds
    _gap: float = 0.0
    _last: float = 0.0

    def _arrived(self, now: float) -> None:
        self._gap += self.FADE * ((now - self._last) - self._gap)
        self._last = now

    def _learn(self, launch: Launch[Request], spent: float) -> None:
        n = launch.rows
        values = zip(self._sums, (n, spent, n * n, n * spent), strict=True)
        self._sums = tuple(old + self.FADE * (new - old) for old, new in values)

    def _decide(self, rows: int, now: float) -> tuple[int, float]:
        mean, seconds, squares, products = self._sums
        spread = squares - mean * mean
        slope = (products - mean * seconds) / spread if spread > self.TINY else 0.0
        fixed = max(0.0, seconds - slope * mean)
        # one more row saves the fixed part once; waiting for it costs every queued row the gap
        pays = rows < self.largest and rows * self._gap < fixed
        limit = self.queue.first().enqueued_at + self.max_wait_s
        return rows, min(limit, self._last + self._gap) if pays else now


RULES: Final[Mapping[str, type[Rule]]] = {
    rule.__name__.lower(): rule for rule in (Window, Idle, Pad, Greedy, Aimd, Linear)
}
