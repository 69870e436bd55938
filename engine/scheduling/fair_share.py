"""What is on the device and until when, and which model may launch next.

Several models may share one device. It is shared by *device-seconds*: every model has a virtual
time that advances by the cost of its batches divided by its weight, and of the models with a batch
to launch the one with the least virtual time is next (start-time fair queueing: Goyal, Vin and
Cheng, 1996). An idle model accumulates no credit: its virtual time is advanced when it returns.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Share:
    weight: float
    time: float
    runnable: bool = False


@dataclass(slots=True)
class InFlightBatch:
    """One batch on the device: its expected cost in `seconds`, and when it should end."""

    model: str
    seconds: float
    launched_at: float
    ends_at: float


class FairShareTimeline:
    """The batches in flight on one device, in launch order, and every model's virtual time.

    Invariants: batches complete in launch order, or are aborted; of the runnable models at least
    one is next. `version` changes whenever another model may have become next, or the device free.
    """

    def __init__(self) -> None:
        self.version = 0
        self.in_flight: list[InFlightBatch] = []
        self._shares: dict[str, _Share] = {}
        self._last_completion = float("-inf")

    def join(self, model: str, weight: float = 1.0) -> None:
        """Add a model."""
        self._shares[model] = _Share(weight, self._virtual_time())

    def leave(self, model: str) -> None:
        """Remove a model. Idempotent."""
        self._shares.pop(model, None)
        self.version += 1

    def free_at(self, now: float) -> float:
        """When the batches in flight should be done: `now` if there are none or they are late."""
        return max(now, self.in_flight[-1].ends_at) if self.in_flight else now

    def launch(self, model: str, seconds: float, now: float) -> InFlightBatch:
        """Append a batch that should cost `seconds`, behind those in flight."""
        batch = InFlightBatch(model, seconds, now, self.free_at(now) + seconds)
        self.in_flight.append(batch)
        self.version += 1
        self._shares[model].time += seconds / self._shares[model].weight
        return batch

    def complete(self, batch: InFlightBatch, now: float) -> float:
        """Remove a batch that is done. Returns its device-seconds, without time queued on it."""
        # never below 0: completions of two models may be reported out of order
        spent = max(0.0, now - max(batch.launched_at, self._last_completion))
        self._last_completion = max(self._last_completion, now)
        share = self._shares.get(batch.model)
        if share is not None:
            share.time += (spent - batch.seconds) / share.weight
        self.abort(batch, now)
        return spent

    def abort(self, batch: InFlightBatch, now: float) -> None:
        """Remove a batch; the batches behind it move forward."""
        place = next(n for n, other in enumerate(self.in_flight) if other is batch)
        del self.in_flight[place]
        self.version += 1
        at = max(now, self.in_flight[place - 1].ends_at) if place else now
        for other in self.in_flight[place:]:
            at = other.ends_at = at + other.seconds

    def _virtual_time(self) -> float:
        """The least of the active models, those runnable or in flight; else the largest of all."""
        active = {batch.model for batch in self.in_flight}
        times = [s.time for model, s in self._shares.items() if s.runnable or model in active]
        return min(times) if times else max((s.time for s in self._shares.values()), default=0.0)

    def reactivate(self, model: str) -> None:
        """A model has rows again, after it had none, neither queued nor in flight."""
        share = self._shares[model]
        share.runnable = False
        if len(self._shares) > 1:
            share.time = max(share.time, self._virtual_time())

    def set_runnable(self, model: str, runnable: bool) -> None:
        """Set whether the model would launch if it were next. One that would not, but has rows
        queued, keeps its virtual time. Ignored after `leave`: another thread may have called it.
        """
        share = self._shares.get(model)
        if share is not None:
            self.version += share.runnable and not runnable
            share.runnable = runnable

    def is_next(self, model: str) -> bool:
        """Whether the model may launch before all others."""
        if len(self._shares) == 1:
            return True
        mine = self._shares[model]
        return not any(s.runnable and s.time < mine.time for s in self._shares.values())

    def share(self, model: str) -> float:
        """The part of the device, 0 to 1, that the model gets beside those runnable now."""
        if len(self._shares) == 1:
            return 1.0
        mine = self._shares[model]
        others = sum(s.weight for s in self._shares.values() if s.runnable and s is not mine)
        return mine.weight / (mine.weight + others)
