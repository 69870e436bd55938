"""What is on the device, until when, and whose turn it is.

May touch: nothing. Time is an argument; the lock that guards it is the batcher's.

Several models may share one device. It is shared by *device-seconds*: every model has a virtual
time that advances by what its batches cost, divided by its weight, and of those that want the
device the one that is furthest behind has its turn (start-time fair queueing: Goyal, Vin and Cheng,
1996). Who wants nothing saves nothing up: it rejoins where the others are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Share:
    weight: float
    time: float
    wants: bool = False


@dataclass(slots=True)
class Flight:
    """One batch on the device: `seconds` is what it should cost, `lands_at` when it should end."""

    model: str
    seconds: float
    launched_at: float
    lands_at: float


class Device:
    """Invariants: batches land in the order of their launch, or are forgotten; of those who want
    the device, at least one has its turn.

    `turns` changes whenever it may have become somebody else's turn, or the device free.
    """

    def __init__(self) -> None:
        self.turns = 0
        self.flights: list[Flight] = []
        self._shares: dict[str, _Share] = {}
        self._landed_at = float("-inf")

    def join(self, model: str, weight: float = 1.0) -> None:
        """A model will use it."""
        self._shares[model] = _Share(weight, self._now())

    def leave(self, model: str) -> None:
        """It will not any more."""
        self._shares.pop(model, None)
        self.turns += 1

    def free_at(self, now: float) -> float:
        """When what is on the device should be done: `now` if nothing is, or if it is overdue."""
        return max(now, self.flights[-1].lands_at) if self.flights else now

    def launch(self, model: str, seconds: float, now: float) -> Flight:
        """A batch that should cost `seconds` is launched behind what is there."""
        flight = Flight(model, seconds, now, self.free_at(now) + seconds)
        self.flights.append(flight)
        self.turns += 1
        self._shares[model].time += seconds / self._shares[model].weight
        return flight

    def land(self, flight: Flight, now: float) -> float:
        """It is done. Returns how long it had the device, waiting behind others not included."""
        # never below 0: another model's thread may be heard of first
        spent = max(0.0, now - max(flight.launched_at, self._landed_at))
        self._landed_at = max(self._landed_at, now)
        share = self._shares.get(flight.model)
        if share is not None:
            share.time += (spent - flight.seconds) / share.weight
        self.forget(flight, now)
        return spent

    def forget(self, flight: Flight, now: float) -> None:
        """Its place is free; what was launched behind it follows."""
        place = next(n for n, other in enumerate(self.flights) if other is flight)
        del self.flights[place]
        self.turns += 1
        at = max(now, self.flights[place - 1].lands_at) if place else now
        for other in self.flights[place:]:
            at = other.lands_at = at + other.seconds

    def _now(self) -> float:
        """The virtual time of those who use or want the device, or of the one ahead of all."""
        flying = {flight.model for flight in self.flights}
        times = [s.time for model, s in self._shares.items() if s.wants or model in flying]
        return min(times) if times else max((s.time for s in self._shares.values()), default=0.0)

    def rejoin(self, model: str) -> None:
        """It has rows again, after it had none, neither waiting nor on the device."""
        share = self._shares[model]
        share.wants = False
        if len(self._shares) > 1:
            share.time = max(share.time, self._now())

    def want(self, model: str, wants: bool) -> None:
        """Would it launch if it were its turn? Who does not, with rows that wait, keeps its time.

        Of one who has left nothing is remembered; a thread may hear of it late.
        """
        share = self._shares.get(model)
        if share is not None:
            self.turns += share.wants and not wants
            share.wants = wants

    def has_turn(self, model: str) -> bool:
        """May it launch next?"""
        if len(self._shares) == 1:
            return True
        mine = self._shares[model]
        return not any(s.wants and s.time < mine.time for s in self._shares.values())

    def share(self, model: str) -> float:
        """The part of the device that it may count on while those want it who want it now."""
        if len(self._shares) == 1:
            return 1.0
        mine = self._shares[model]
        wanting = sum(s.weight for s in self._shares.values() if s.wants and s is not mine)
        return mine.weight / (mine.weight + wanting)
