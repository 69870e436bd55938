"""Small requests beside large ones, simulated: how long they wait, and what it costs the large.

    python -m benchmarks.fairness        # writes benchmarks/fairness.md

Single rows arrive independently, and now and then a request of 1,000 rows. The same trace is run in
order of arrival, which earliest deadline first is where all requests have the same timeout, and by
the order of the server.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from typing import Final

from typing_extensions import override

from benchmarks.policy_cells import CASES, HERE, Case
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.request_queue import Order
from engine.scheduling.scheduler import Scheduler, SchedulerOptions
from engine.simulation.scenario import DEPTH, HOLD_S, UNLIMITED, Scenario, row_seconds
from engine.simulation.simulator import Simulation
from engine.simulation.traces import Arrival, Request, poisson

ROWS: Final = 1000
LARGE: Final = 40
"""Large requests in a run."""
LARGE_LOAD: Final = 0.1
LOADS: Final = (0.2, 0.5, 0.8)
TIMEOUT_S: Final = 30.0
TIGHT: Final = 3.0
"""The tight timeout, in the time that a large request takes alone."""
NOISE: Final = 0.03
THOUSANDS: Final = 999.5
SEED: Final = 1


class InOrderOfArrival(Scheduler[Request]):
    """The server's scheduler without its rule for small requests."""

    @override
    def _order(self, now: float, start_at: float) -> Order:
        return Order.PRIORITY


@dataclass(slots=True)
class Seen:
    """What clients saw, in seconds. Of `all` small requests `small` are those that came soon after
    a large one.
    """

    small: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    large: list[float] = field(default_factory=list)
    late: int = 0

    def share(self, share: float) -> float:
        """A percentile of the small requests' latencies."""
        return sorted(self.small)[int(len(self.small) * share)]


class Watched(Simulation):
    """Keeps each latency."""

    def watch(self, seen: Seen, every_s: float, window_s: float) -> None:
        """A large request comes every so many seconds."""
        self._seen, self._every_s, self._window_s = seen, every_s, window_s

    @override
    def _answer(self, request: Request) -> None:
        latency, seen = self._now - request.enqueued_at, self._seen
        seen.late += self._now > request.deadline
        if request.rows == ROWS:
            seen.large.append(latency)
        else:
            seen.all.append(latency)
            if request.enqueued_at % self._every_s < self._window_s:
                seen.small.append(latency)
        super()._answer(request)


def run(case: Case, load: float, timeout_s: float, kind: type[Scheduler[Request]]) -> Seen:
    """One trace in one order."""
    seconds = case.seconds
    lengths = Scenario(seconds).bucket_lengths
    alone_s = ROWS * row_seconds(seconds, lengths[-1])
    every_s = alone_s / LARGE_LOAD
    costs = CostTable(seconds)
    options = SchedulerOptions(HOLD_S, UNLIMITED, DEPTH)
    simulation = Watched(
        kind(options, costs, lengths),
        seconds.__getitem__,
        timeout_s=timeout_s,
        fit=lambda _length: lengths[-1],
        noise=NOISE,
        seed=SEED,
    )
    seen = Seen()
    simulation.watch(seen, every_s, alone_s)
    result = simulation.run(trace(load * ROWS / alone_s, every_s))
    if result.refused:
        raise AssertionError(f"{result.refused} requests were refused: the orders do not compare")
    seen.late += result.expired
    return seen


def trace(rate: float, every_s: float) -> Iterator[Arrival]:
    """Single rows, and a large request every so many seconds."""
    large = (Arrival(number * every_s, ROWS) for number in range(1, LARGE + 1))
    return merge(poisson(rate, int(rate * every_s * (LARGE + 1)), seed=SEED), large)


def milliseconds(seconds: float) -> str:
    """With three digits or more."""
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= THOUSANDS else f"{value:.3g}"


def table(case: Case) -> Iterator[str]:
    """The lines about one case."""
    seconds: Mapping[Bucket, float] = case.seconds
    alone_s = ROWS * row_seconds(seconds, Scenario(seconds).bucket_lengths[-1])
    yield f"\n## {case.name}\n"
    yield f"A large request takes {milliseconds(alone_s)} ms of the device alone.\n"
    yield "| timeout | load | order | small p50 ms | p99 | all p99.9 | large mean | most | late |"
    yield "|--:|--:|---|--:|--:|--:|--:|--:|--:|"
    for timeout_s in (TIMEOUT_S, TIGHT * alone_s):
        for load in LOADS:
            for name, kind in ORDERS.items():
                seen = run(case, load, timeout_s, kind)
                times = (
                    seen.share(0.5),
                    seen.share(0.99),
                    sorted(seen.all)[int(len(seen.all) * 0.999)],
                    statistics.mean(seen.large),
                    max(seen.large),
                )
                cells = " | ".join(map(milliseconds, times))
                yield (f"| {timeout_s:.3g} s | {load:g} | {name} | {cells} | {seen.late} |")


ORDERS: Final[Mapping[str, type[Scheduler[Request]]]] = {
    "arrival": InOrderOfArrival,
    "Brim": Scheduler,
}

HEAD: Final = f"""# Small requests beside large ones, simulated

    python -m benchmarks.fairness

Single rows arrive independently at a load of {LOADS[0]:g} to {LOADS[-1]:g} of the capacity, and
{LARGE} times a request of {ROWS:,} rows, at a load of {LARGE_LOAD:g} together. All have the same
timeout, so that the order of deadlines is that of arrival: once the usual one, and once {TIGHT:g}
times what a large request takes alone. Costs vary evenly by {NOISE:.0%} to both sides. The table
has milliseconds: p50 and p99 of the small requests that came, after a large one, within the time
that this takes alone, the same requests for both orders; p99.9 of all small requests; mean and most
of the large ones. *Late* are requests that were admitted and missed their deadline. None is
refused.

A large request finishes later by the device time of what overtakes it, and fills the batches of the
small ones: the device computes as many rows as before. With the tight timeout it is taken in time,
and small requests then wait as long as its deadline leaves no other choice.
"""


def main() -> None:
    """Write the table."""
    lines = [HEAD]
    for case in CASES:
        for line in table(case):
            print(line, flush=True)
            lines.append(line)
    (HERE / "fairness.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
