"""The cells that `policies.py` compares (cases, arrivals, loads), and how one is run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from app.cli.planning import cost_tables
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.simulation.scenario import (
    BRIM,
    POLICIES,
    Scenario,
    capacity,
    closed_loop_bound,
    row_seconds,
)
from engine.simulation.traces import Arrival, Clients, bursty, poisson

HERE: Final = Path(__file__).parent

KINDS: Final = ("poisson", "bursty", "closed loop")
LOADS: Final = (0.3, 0.6, 0.9, 1.3)
SEEDS: Final = (1, 2, 3)
REQUESTS: Final = 50_000
WARMUP: Final = 0.1
NOISE: Final = 0.03
TURNAROUND_S: Final = 0.001
CLIENTS: Final = 2
"""Clients of a closed loop at load 1, in rows of the best bucket."""

BURSTS: Final = 0.1
"""The mean length of a burst, as a part of the deadline."""

OTHERS: Final = tuple(policy for policy in POLICIES if policy != BRIM)


@dataclass(frozen=True, slots=True)
class Case:
    """One device and model. `key` names the cost file of a measured one."""

    name: str
    deadline_s: float
    key: str | None = None

    @property
    def seconds(self) -> dict[Bucket, float]:
        """What every bucket costs."""
        if self.key is None:
            return {Bucket(rows): (5 + 0.05 * rows) / 1e3 for rows in (1, 2, 4, 8, 16, 32, 64)}
        return cost_tables.read(HERE / "costs" / f"{self.key}.json")


CASES: Final = (
    Case("MLP on a CPU", 0.020, "mlp-cpu"),
    Case("encoder on a CPU", 0.250, "encoder-cpu"),
    Case("GPU-like, 5 ms + 0.05 ms a row", 0.100),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One case under one kind of arrivals at one load."""

    case: Case
    kind: str
    load: float

    @property
    def closed(self) -> bool:
        """Do clients send again only after their answers?"""
        return self.kind == "closed loop"

    @property
    def by_p99(self) -> bool:
        """Is the p99 compared? Where all requests can be served; goodput is elsewhere."""
        return not self.closed and self.load < 1


@dataclass(frozen=True, slots=True)
class Seen:
    """One policy in one run: latencies in ms of answered requests, answers in time per second."""

    p50: float
    p99: float
    goodput: float


@dataclass(frozen=True, slots=True)
class Run:
    """One cell with one seed: every policy, and the bound that none of them exceeds."""

    seen: Mapping[str, Seen]
    bound: float

    def best(self, *, by_p99: bool) -> str:
        """The best of the other policies."""
        if by_p99:
            return min(OTHERS, key=lambda policy: self.seen[policy].p99)
        return max(OTHERS, key=lambda policy: self.seen[policy].goodput)

    def p99(self, other: str) -> float:
        """Brim's by the other's; below 1 is better."""
        return self.seen[BRIM].p99 / self.seen[other].p99

    def goodput(self, other: str) -> float:
        """Brim's by the other's; above 1 is better."""
        return self.seen[BRIM].goodput / max(self.seen[other].goodput, 1e-9)


def run(cell: Cell, seed: int) -> Run:
    """All policies on the same trace."""
    seconds = cell.case.seconds
    rate = cell.load * capacity(seconds)
    length = next(iter(seconds)).length
    scenario = Scenario(seconds, timeout_s=cell.case.deadline_s, noise=NOISE, seed=seed)
    seen: dict[str, Seen] = {}
    if cell.closed:
        best = CostTable(seconds).best(length)
        number = max(1, round(cell.load * CLIENTS * best.rows))
        clients = Clients(number, TURNAROUND_S, lengths=(length,))
        bound = closed_loop_bound(seconds, clients)
        lasts = REQUESTS / bound
    else:
        trace = list(arrivals(cell, rate, length, seed))
        lasts = trace[-1].at
        bound = min(rate, capacity(seconds))
        if cell.by_p99:
            bounds = lower_bound(iter(trace), row_seconds(seconds, length), min(seconds.values()))
            bound = sorted(bounds)[int(0.99 * len(bounds))] * 1e3
    for policy in POLICIES:
        server = replace(scenario, policy=policy, warmup_s=WARMUP * lasts)
        result = server.run_closed(clients, lasts) if cell.closed else server.run(trace)
        p50, p99 = result.percentiles(0.5, 0.99)
        seen[policy] = Seen(p50 * 1e3, p99 * 1e3, result.goodput)
    return Run(seen, bound)


def arrivals(cell: Cell, rate: float, length: int | None, seed: int) -> Iterator[Arrival]:
    """The open trace of a cell."""
    if cell.kind == "poisson":
        made = poisson(rate, REQUESTS, seed=seed)
    else:
        made = bursty(rate, REQUESTS, seed=seed, burst_s=BURSTS * cell.case.deadline_s)
    return (arrival._replace(length=length) for arrival in made)


def lower_bound(trace: Iterator[Arrival], row_s: float, least_s: float) -> list[float]:
    """Latencies that no first-come-first-served policy improves on: a device that executes every
    row at the best bucket's rate, `row_s` a row, without waiting for a batch, where no answer takes
    less than the cheapest execution, `least_s`.
    """
    latencies = []
    free_at = 0.0
    for arrival in trace:
        free_at = max(arrival.at, free_at) + arrival.rows * row_s
        latencies.append(max(free_at - arrival.at, least_s))
    return latencies


def million() -> float:
    """Seconds for a million requests of this server's policy, at 0.6 of the MLP's capacity."""
    seconds = CASES[0].seconds
    started = time.perf_counter()
    trace = poisson(0.6 * capacity(seconds), 1_000_000)
    Scenario(seconds, timeout_s=CASES[0].deadline_s, noise=NOISE).run(trace)
    return time.perf_counter() - started
