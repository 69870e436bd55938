"""What would happen? The policy itself, on a simulated clock and a simulated device.

May touch: nothing but random (seeded), for a device that is not perfectly regular.

The queue that decides here is the one that decides in the server (`batching.BatchQueue`), or one of
the rules that other servers use (`rules.py`); only the threads and the clock are replaced.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, Protocol

from engine.batching import Expire, Launch, Stop, Wait
from engine.buckets import Bucket
from engine.costs import CORRECT_EVERY_S
from engine.traces import Arrival, Clients

NEVER: Final = float("inf")


class Request:
    """What a policy sees of a simulated request."""

    __slots__ = ("client", "deadline", "enqueued_at", "lane", "priority", "rows")

    def __init__(
        self, at: float, deadline: float, rows: int, lane: int | None, client: int | None
    ) -> None:
        self.enqueued_at = at
        self.deadline = deadline
        self.rows = rows
        self.lane = lane
        self.client = client
        self.priority = 1

    def __lt__(self, other: Request) -> bool:
        return self.enqueued_at < other.enqueued_at


class Scheduler(Protocol):
    """What decides: `BatchQueue`, or another rule."""

    def has_room(self, rows: int) -> bool: ...
    @property
    def heeds_arrivals(self) -> bool: ...
    def excess(self, request: Request, now: float) -> float: ...
    def offer(self, request: Request, now: float) -> None: ...
    def poll(self, now: float) -> Launch[Request] | Expire[Request] | Wait | Stop: ...
    def landed(self, launch: Launch[Request], now: float) -> float: ...
    def correct(self) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Result:
    """What a run saw. Latencies are seconds from arrival to answer, of those who were answered."""

    latencies: array[float] = field(default_factory=lambda: array("d"))
    good: int = 0
    refused: int = 0
    expired: int = 0
    rows: int = 0
    bucket_rows: int = 0
    batches: int = 0
    busy_s: float = 0.0
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        """Requests with an answer, in time or not."""
        return len(self.latencies)

    @property
    def goodput(self) -> float:
        """Answers per second that met their deadline."""
        return self.good / self.seconds if self.seconds else 0.0

    @property
    def fill(self) -> float:
        """Real rows per bucket row."""
        return self.rows / self.bucket_rows if self.bucket_rows else 0.0

    @property
    def utilisation(self) -> float:
        """The part of the time in which the device was busy."""
        return self.busy_s / self.seconds if self.seconds else 0.0

    def percentiles(self, *shares: float) -> list[float]:
        """Latencies at these shares, in seconds; infinite where nobody was answered."""
        ordered = sorted(self.latencies)
        if not ordered:
            return [float("inf")] * len(shares)
        return [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in shares]


class Simulation:
    """One device, one model, one trace."""

    def __init__(
        self,
        scheduler: Scheduler,
        seconds: Callable[[Bucket], float],
        *,
        timeout_s: float,
        fit: Callable[[int | None], int | None] = lambda length: length,
        noise: float = 0.0,
        warmup_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`seconds(bucket)` is what an execution takes, varied evenly by `noise` of it to both
        sides. Every request has a deadline `timeout_s` after its arrival. `fit(length)` is the
        bucket length of a row. What arrives before `warmup_s` is simulated and not counted.
        """
        self._scheduler = scheduler
        self._seconds = seconds
        self._timeout_s = timeout_s
        self._fit = fit
        self._noise = noise
        self._warmup_s = warmup_s
        self._rng = random.Random(seed)  # noqa: S311
        self._result = Result()
        self._flights: list[tuple[float, Launch[Request]]] = []  # when each lands, in order
        self._left: dict[Request, int] = {}  # rows that are not answered, of requests that were cut
        self._returning: list[tuple[float, int]] = []  # closed loop: when which client sends again
        self._clients: Clients | None = None
        self._free_at = 0.0
        self._correct_at = 0.0
        self._now = 0.0

    def run(self, trace: Iterable[Arrival]) -> Result:
        """An open trace to its end, and until everybody has an answer."""
        arrivals = iter(trace)
        upcoming = next(arrivals, None)

        def arrive() -> float:
            nonlocal upcoming
            if upcoming is None:
                raise AssertionError("an arrival after the last; this is a bug")
            self._arrive(upcoming.rows, upcoming.length, None)
            upcoming = next(arrivals, None)
            if upcoming is None:
                self._scheduler.close()
            return NEVER if upcoming is None else upcoming.at

        self._play(NEVER if upcoming is None else upcoming.at, arrive)
        return self._finish()

    def run_closed(self, clients: Clients, seconds: float) -> Result:
        """A closed loop for so many seconds."""
        self._clients = clients
        for client in range(clients.number):
            heappush(self._returning, (self._turnaround(clients), client))

        def arrive() -> float:
            client = heappop(self._returning)[1]
            self._arrive(clients.rows, clients.lengths[client % len(clients.lengths)], client)
            return NEVER

        self._play(NEVER, arrive, seconds)
        self._now = seconds
        return self._finish()

    def _play(self, arriving: float, arrive: Callable[[], float], until: float = NEVER) -> None:
        """What happens, in its order: arrivals, landings, and what the scheduler waits for.

        `arrive()` lets the next request come, and says when the one after it does; clients who are
        to return come besides.
        """
        timer: float | None = None
        while True:
            landing = self._flights[0][0] if self._flights else NEVER
            coming = self._returning[0][0] if self._returning else arriving
            now = min(coming, landing, NEVER if timer is None else timer)
            if now > until or now == NEVER:
                return
            self._now = now
            if coming <= now:
                arriving = arrive()
                ended = self._clients is None and arriving == NEVER
                if not ended and not self._scheduler.heeds_arrivals:
                    continue  # nor does the batcher ask again
            elif landing <= now:
                self._land()
            timer = self._decide()

    def _finish(self) -> Result:
        self._result.seconds = max(self._now - self._warmup_s, 1e-9)
        return self._result

    def _turnaround(self, clients: Clients) -> float:
        return clients.turnaround_s * (1 + clients.jitter * self._rng.uniform(-1, 1))

    def _arrive(self, rows: int, length: int | None, client: int | None) -> None:
        now, scheduler = self._now, self._scheduler
        request = Request(now, now + self._timeout_s, rows, self._fit(length), client)
        if not scheduler.has_room(rows) or scheduler.excess(request, now) > 0:
            if now >= self._warmup_s:
                self._result.refused += 1
            self._return(request, now + self._timeout_s)
        else:
            scheduler.offer(request, now)

    def _return(self, request: Request, at: float) -> None:
        """A closed loop's client sends again, a turnaround later."""
        if self._clients is not None and request.client is not None:
            heappush(self._returning, (at + self._turnaround(self._clients), request.client))

    def _decide(self) -> float | None:
        """Do what the scheduler says until it waits; until when?"""
        while True:
            decision = self._scheduler.poll(self._now)
            if isinstance(decision, Wait):
                return decision.until
            if isinstance(decision, Launch):
                self._launch(decision)
            elif isinstance(decision, Expire):
                for request in decision.requests:
                    self._left.pop(request, None)
                    if request.enqueued_at >= self._warmup_s:
                        self._result.expired += 1
                    self._return(request, self._now)
            else:
                return None

    def _launch(self, launch: Launch[Request]) -> None:
        seconds = self._seconds(launch.bucket)
        if self._noise:
            seconds *= 1 + self._noise * self._rng.uniform(-1, 1)
        self._free_at = max(self._now, self._free_at) + seconds
        self._flights.append((self._free_at, launch))
        if self._now >= self._warmup_s:
            result = self._result
            result.busy_s += seconds
            result.batches += 1
            result.rows += launch.rows
            result.bucket_rows += launch.bucket.rows

    def _land(self) -> None:
        _, launch = self._flights.pop(0)
        self._scheduler.landed(launch, self._now)
        if self._now >= self._correct_at:
            self._correct_at = self._now + CORRECT_EVERY_S
            self._scheduler.correct()
        for piece in launch.pieces:
            request = piece.request
            if piece.count != request.rows:
                left = self._left.get(request, request.rows) - piece.count
                self._left[request] = left
                if left:
                    continue
                del self._left[request]
            self._answer(request)

    def _answer(self, request: Request) -> None:
        if request.enqueued_at >= self._warmup_s:
            self._result.latencies.append(self._now - request.enqueued_at)
            self._result.good += self._now <= request.deadline
        self._return(request, self._now)


def replicas_needed(
    run: Callable[[int], Result], slo_s: float, share: float = 0.99, most: int = 1024
) -> int | None:
    """The least number of replicas with which `share` of all requests meet `slo_s`; None above
    `most`.

    `run(replicas)` simulates one of so many. Doubles, then halves the interval: more replicas are
    taken to be no worse.
    """

    def meets(replicas: int) -> bool:
        result = run(replicas)
        total = result.answered + result.refused + result.expired
        in_time = sum(latency <= slo_s for latency in result.latencies)
        return total > 0 and in_time >= share * total

    high = 1
    while not meets(high):
        high *= 2
        if high > most:
            return None
    low = high // 2  # too few, or none
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def lower_bound(trace: Iterator[Arrival], row_s: float, least_s: float) -> list[float]:
    """Latencies that no first-come-first-served policy beats: a device that takes every row at the
    best bucket's rate, `row_s` a row, without any batch to wait for; but nobody is answered in less
    than the cheapest execution, `least_s`.
    """
    latencies = []
    free_at = 0.0
    for arrival in trace:
        free_at = max(arrival.at, free_at) + arrival.rows * row_s
        latencies.append(max(free_at - arrival.at, least_s))
    return latencies
