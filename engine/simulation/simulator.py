"""Runs a scheduler on a simulated clock and a simulated device.

The scheduler is the server's own (`engine.scheduling.scheduler.Scheduler`) or one of the rules of
other servers (`rules.py`); only the threads, the clock and the device are replaced.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from engine.scheduling.admission import NEVER
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CORRECT_EVERY_S
from engine.scheduling.scheduler import Launch, Scheduler, Stop, Wait
from engine.simulation.rules import Rule
from engine.simulation.traces import Arrival, Clients, Request

Seconds = Callable[[Bucket], float]


@dataclass(slots=True)
class Result:
    """What a run measured. Latencies are seconds from arrival to answer, of answered requests."""

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
        """Latencies at these shares, in seconds; infinite if no request was answered."""
        ordered = sorted(self.latencies)
        if not ordered:
            return [float("inf")] * len(shares)
        return [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in shares]


class SimulatedDevice:
    """Executes batches one after the other."""

    def __init__(self, seconds: Seconds, noise: float, rng: random.Random) -> None:
        """An execution takes `seconds(bucket)`, more or less by up to the part `noise`."""
        self._seconds = seconds
        self._noise = noise
        self.rng = rng
        self._free_at = 0.0
        self.in_flight: list[tuple[float, Launch[Request]]] = []  # by end, in order

    def launch(self, launch: Launch[Request], now: float) -> float:
        """Execute a batch behind those in flight. Returns its seconds."""
        seconds = self._seconds(launch.bucket)
        if self._noise:
            seconds *= 1 + self._noise * self.rng.uniform(-1, 1)
        self._free_at = max(now, self._free_at) + seconds
        self.in_flight.append((self._free_at, launch))
        return seconds


class Simulation:
    """One device, one model, one run."""

    def __init__(
        self,
        scheduler: Scheduler[Request] | Rule,
        seconds: Seconds,
        *,
        timeout_s: float,
        fit: Callable[[int | None], int | None] = lambda length: length,
        noise: float = 0.0,
        warmup_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`seconds` and `noise` are those of `SimulatedDevice`, the others those of `Scenario`."""
        self._scheduler = scheduler
        self._device = SimulatedDevice(seconds, noise, random.Random(seed))  # noqa: S311
        # a heap of times, clients, rows and lengths: the next of a trace, or of each client
        self._arrivals: list[tuple[float, int | None, int, int | None]] = []
        self._trace: Iterator[Arrival] = iter(())
        self._clients: Clients | None = None
        self._timeout_s = timeout_s
        self._fit = fit
        self._warmup_s = warmup_s
        self._result = Result()
        self._correct_at = 0.0
        self._now = 0.0

    def run(self, trace: Iterable[Arrival]) -> Result:
        """An open trace to its end, and until every request has its outcome."""
        self._trace = iter(trace)
        self._read_trace()
        self._play(NEVER)
        return self._finish()

    def run_closed(self, clients: Clients, seconds: float) -> Result:
        """A closed loop for so many seconds."""
        self._clients = clients
        for client in range(clients.number):
            self._send_again(client, 0.0)
        self._play(seconds)
        self._now = seconds
        return self._finish()

    def _read_trace(self) -> bool:
        arrival = next(self._trace, None)
        if arrival is not None:
            self._arrivals.append((arrival.at, None, arrival.rows, arrival.length))
        return arrival is not None

    def _send_again(self, client: int | None, at: float) -> None:
        """A closed loop's client, which has its outcome `at`, sends again a turnaround later."""
        if self._clients is not None and client is not None:
            clients, jitter = self._clients, self._device.rng.uniform(-1, 1)
            at += clients.turnaround_s * (1 + clients.jitter * jitter)
            length = clients.lengths[client % len(clients.lengths)]
            heappush(self._arrivals, (at, client, clients.rows, length))

    def _play(self, until: float) -> None:
        """Handle arrivals, completions and the scheduler's timer in the order of their times."""
        timer = NEVER
        while True:
            arriving = self._arrivals[0][0] if self._arrivals else NEVER
            ending = self._device.in_flight[0][0] if self._device.in_flight else NEVER
            now = min(arriving, ending, timer)
            if now > until or now == NEVER:
                return
            self._now = now
            if arriving <= now:
                _, client, rows, length = heappop(self._arrivals)
                self._arrive(rows, length, client)
                if client is None and not self._read_trace():
                    self._scheduler.close()
                elif not self._scheduler.wakes_on_arrival:
                    continue  # the dispatcher does not poll again either
            elif ending <= now:
                self._complete()
            timer = self._decide()

    def _finish(self) -> Result:
        self._result.seconds = max(self._now - self._warmup_s, 1e-9)
        return self._result

    def _arrive(self, rows: int, length: int | None, client: int | None) -> None:
        now, scheduler = self._now, self._scheduler
        request = Request(now, now + self._timeout_s, rows, self._fit(length), client)
        if scheduler.has_room(rows):
            quote = scheduler.quote(request, now)
            if not quote.lateness_s > 0:
                scheduler.enqueue(request, quote, now)
                return
        if now >= self._warmup_s:
            self._result.refused += 1
        self._send_again(client, now + self._timeout_s)

    def _decide(self) -> float:
        """Carry out the scheduler's decisions until it waits. Returns until when."""
        while not isinstance(decision := self._scheduler.poll(self._now), Wait | Stop):
            if isinstance(decision, Launch):
                self._launch(decision)
            else:
                for request in decision.requests:
                    self._expire(request)
        return NEVER if isinstance(decision, Stop) or decision.until is None else decision.until

    def _launch(self, launch: Launch[Request]) -> None:
        seconds = self._device.launch(launch, self._now)
        if self._now >= self._warmup_s:
            result = self._result
            result.busy_s += seconds
            result.batches += 1
            result.rows += launch.rows
            result.bucket_rows += launch.bucket.rows

    def _expire(self, request: Request) -> None:
        if request.enqueued_at >= self._warmup_s:
            self._result.expired += 1
        self._send_again(request.client, self._now)

    def _complete(self) -> None:
        _, launch = self._device.in_flight.pop(0)
        self._scheduler.complete(launch, self._now)
        if self._now >= self._correct_at:
            self._correct_at = self._now + CORRECT_EVERY_S
            self._scheduler.costs.correct(self._scheduler.costs.samples())
        for row_slice in launch.slices:
            # a request is answered with its last row: batches complete in launch order
            if row_slice.start + row_slice.count == row_slice.request.rows:
                self._answer(row_slice.request)

    def _answer(self, request: Request) -> None:
        if request.enqueued_at >= self._warmup_s:
            self._result.latencies.append(self._now - request.enqueued_at)
            self._result.good += self._now <= request.deadline
        self._send_again(request.client, self._now)


def replicas_needed(run: Callable[[int], Result], slo_s: float, most: int = 1024) -> int | None:
    """The least number of replicas with which 99 % of requests meet `slo_s`; None above `most`.

    `run(replicas)` simulates one of so many. The number is doubled, then the interval bisected: it
    is assumed that more replicas are no worse.
    """

    def meets(replicas: int) -> bool:
        result = run(replicas)
        total = result.answered + result.refused + result.expired
        in_time = sum(latency <= slo_s for latency in result.latencies)
        return total > 0 and in_time >= 0.99 * total

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
