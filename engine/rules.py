"""The rules that other servers batch by, for comparison: `brim simulate --policy`.

May touch: nothing.

Each is what its documentation or its source says, on the same buckets and with one favour: who
waits past the deadline is dropped before it costs anything. They know one model and one length,
first come, first served, one batch on the device at a time.

- `window`: until a batch is full or its oldest row has waited (Triton's and TorchServe's delay).
- `idle`: as soon as the device is free, the largest bucket that can be filled.
- `pad`: as soon as the device is free, all that waits, padded up (Triton with a delay of 0).
- `greedy`: TensorFlow Serving's rule for padding: take a smaller batch that is full if padding up
  would cost more than that batch and the rest in theirs.
- `aimd`: Clipper's: the largest batch grows by one while batches meet the objective, and shrinks by
  a tenth when one does not.
- `linear`: BentoML's: a straight line through what batches took; wait while another arrival is
  expected sooner than it would cost those who wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from engine.batching import Expire, Launch, Reason, Stop, Wait
from engine.buckets import Bucket
from engine.costs import CostTable
from engine.device import Flight
from engine.simulate import Request
from engine.waiting import Piece


@dataclass(frozen=True, slots=True)
class Setting:
    """What these servers are told: the longest wait, and the objective for a request."""

    max_wait_s: float
    slo_s: float


class Rule:
    """First come, first served; a subclass says how many rows to run now, or until when to wait."""

    def __init__(self, costs: CostTable, length: int | None, setting: Setting) -> None:
        self.costs = costs
        self.setting = setting
        lines = [line for line in costs.lines() if line.length == length]
        self.buckets = [Bucket(line.rows, length) for line in lines]
        self.largest = self.buckets[-1].rows
        self.waiting: deque[Request] = deque()
        self.rows = 0
        self.busy = False
        self.closed = False
        self._cut = 0  # rows of the first one that have gone already

    def has_room(self, rows: int) -> bool:
        """There is no limit."""
        return rows > 0

    @property
    def heeds_arrivals(self) -> bool:
        """Not while the device is busy."""
        return not self.busy

    def excess(self, request: Request, now: float) -> float:
        """Nobody is refused before the deadline."""
        return now - request.deadline

    def close(self) -> None:
        """No more arrivals."""
        self.closed = True

    def offer(self, request: Request, now: float) -> None:
        """Let it wait."""
        self.waiting.append(request)
        self.rows += request.rows
        self.arrived(request.rows, now)

    def poll(self, now: float) -> Launch[Request] | Expire[Request] | Wait | Stop:
        """What to do now."""
        if self.busy:
            return Wait(None)
        late = []
        while self.waiting and self.waiting[0].deadline <= now:
            late.append(self.waiting.popleft())
            self.rows -= late[-1].rows - self._cut
            self._cut = 0
        if late:
            return Expire(tuple(late))
        if not self.waiting:
            return Stop() if self.closed else Wait(None)
        rows, until = self.decide(now)
        if until > now and not self.closed:
            return Wait(until)
        return self._launch(min(rows, self.rows), now)

    def _launch(self, rows: int, now: float) -> Launch[Request]:
        bucket = self.fit(rows)
        pieces = []
        left = min(rows, bucket.rows)
        while left:
            request = self.waiting[0]
            count = min(left, request.rows - self._cut)
            pieces.append(Piece(request, self._cut, count))
            left -= count
            self._cut += count
            if self._cut == request.rows:
                self.waiting.popleft()
                self._cut = 0
        self.rows -= min(rows, bucket.rows)
        self.busy = True
        seconds = self.costs.seconds(bucket)
        reason: Reason = "full" if rows == bucket.rows else "idle"
        return Launch(bucket, tuple(pieces), reason, Flight("", seconds, now, now + seconds))

    def landed(self, launch: Launch[Request], now: float) -> float:
        """A batch has come back."""
        self.busy = False
        spent = now - launch.flight.launched_at
        self.learn(launch, spent, now)
        return spent

    def correct(self) -> None:
        """The table stays as it is."""

    def fit(self, rows: int) -> Bucket:
        """The smallest bucket that holds them."""
        return next((b for b in self.buckets if b.rows >= rows), self.buckets[-1])

    def decide(self, now: float) -> tuple[int, float]:
        """How many rows to run, and not before when."""
        return min(self.rows, self.largest), now

    def arrived(self, rows: int, now: float) -> None:
        """Hear of an arrival."""

    def learn(self, launch: Launch[Request], spent: float, now: float) -> None:
        """Hear of a batch that took `spent` seconds."""


class Window(Rule):
    """Full, or the oldest has waited for `max_wait_s`."""

    def decide(self, now: float) -> tuple[int, float]:
        rows = min(self.rows, self.largest)
        if rows == self.largest:
            return rows, now
        return rows, self.waiting[0].enqueued_at + self.setting.max_wait_s


class Pad(Rule):
    """Whatever waits, padded up."""


class Idle(Rule):
    """Whatever waits, without padding while a bucket can be filled."""

    def decide(self, now: float) -> tuple[int, float]:
        return max((b.rows for b in self.buckets if b.rows <= self.rows), default=1), now


class Greedy(Rule):
    """A full smaller bucket instead of padding, where that and the rest cost less."""

    def decide(self, now: float) -> tuple[int, float]:
        rows = min(self.rows, self.largest)
        up = self.fit(rows)
        down = max((b for b in self.buckets if b.rows <= rows), key=lambda b: b.rows, default=up)
        if down.rows < rows:
            rest = self.costs.seconds(self.fit(rows - down.rows))
            if self.costs.seconds(down) + rest < self.costs.seconds(up):
                return down.rows, now
        return rows, now


class Aimd(Rule):
    """Additive increase, multiplicative decrease of the largest batch, by half the objective."""

    def __init__(self, costs: CostTable, length: int | None, setting: Setting) -> None:
        super().__init__(costs, length, setting)
        self.most = 1.0

    def decide(self, now: float) -> tuple[int, float]:
        return min(self.rows, int(self.most)), now

    def learn(self, launch: Launch[Request], spent: float, now: float) -> None:
        if spent > self.setting.slo_s / 2:
            self.most = max(1.0, self.most * 0.9)
        elif launch.rows >= int(self.most):
            self.most = min(float(self.largest), self.most + 1)


class Linear(Rule):
    """A line through what batches of n rows took, and the mean gap between arrivals."""

    FADE: Final = 0.05
    TINY: Final = 1e-12

    def __init__(self, costs: CostTable, length: int | None, setting: Setting) -> None:
        super().__init__(costs, length, setting)
        self._sums = [0.0] * 4  # of n, seconds, n * n, n * seconds
        self._gap = 0.0
        self._last = 0.0

    def arrived(self, rows: int, now: float) -> None:
        self._gap += self.FADE * ((now - self._last) - self._gap)
        self._last = now

    def learn(self, launch: Launch[Request], spent: float, now: float) -> None:
        n = launch.rows
        for place, value in enumerate((n, spent, n * n, n * spent)):
            self._sums[place] += self.FADE * (value - self._sums[place])

    def decide(self, now: float) -> tuple[int, float]:
        rows = min(self.rows, self.largest)
        oldest = self.waiting[0].enqueued_at
        mean, seconds, squares, products = self._sums
        spread = squares - mean * mean
        slope = (products - mean * seconds) / spread if spread > self.TINY else 0.0
        fixed = max(0.0, seconds - slope * mean)
        # one more now saves the fixed part once; waiting for it costs every row that waits the gap
        pays = rows < self.largest and rows * self._gap < fixed
        limit = oldest + self.setting.max_wait_s
        return rows, min(limit, self._last + self._gap) if pays else now


RULES: Final[Mapping[str, Callable[[CostTable, int | None, Setting], Rule]]] = {
    "window": Window,
    "idle": Idle,
    "pad": Pad,
    "greedy": Greedy,
    "aimd": Aimd,
    "linear": Linear,
}
"""By name."""
