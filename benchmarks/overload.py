"""Overload over HTTP: several times the capacity, every request with a deadline.

    python -m benchmarks.overload [--models null] [--times 3,10] [--connections 64,1024]

For each model and round: a real `brim serve` is started; its capacity is the throughput of 64
closed-loop clients without deadlines; then come Poisson arrivals at multiples of it, on so many
connections at most. Meanwhile a probe on a connection of its own asks /healthz every 50 ms. The
rounds show whether the same load ends well in one start and badly in another.

A request that found no connection in time is `unsent`: the server did not see it. Server, load and
probes share the machine.
"""

from __future__ import annotations

import argparse
import resource
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from app import settings
from app.cli.bench.plan import Settings
from app.cli.bench.report import Report
from benchmarks.engine import one_row
from benchmarks.servers import Server, run, served
from engine.models.model import Model
from engine.models.registry import load
from engine.models.tensors import Arrays

HERE: Final = Path(__file__).parent
CONFIGS: Final = {
    "null": HERE / "null" / "null.toml",
    "mlp": HERE / "mlp.toml",
    "minilm": HERE.parent / "configs" / "demo.toml",
}
CAPACITY_CLIENTS: Final = 64
PROBE_EVERY_S: Final = 0.05
QUIET_S: Final = 1.0
"""Between two loads."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one start of the server; ratios, and milliseconds. None: nothing was refused."""

    goodput: float
    in_time: float
    refusal_ms: float | None
    probe_ms: float
    unsent: float


class Probes:
    """Asks /healthz on a new connection each time, until the end of the block."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/healthz"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seconds: list[float] = []

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(PROBE_EVERY_S):
            began = time.perf_counter()
            with urllib.request.urlopen(self._url, timeout=60) as answer:
                answer.read()
            self.seconds.append(time.perf_counter() - began)

    @property
    def p99_ms(self) -> float:
        """The 99th percentile."""
        return float(np.percentile(self.seconds, 99)) * 1e3


def cell(report: Report, capacity: float, probes: Probes) -> Cell:
    """What one load has shown."""
    ended = sum(report.statuses.values()) + sum(report.failures.values())
    answered = report.statuses.get(200, 0)
    late = report.statuses.get(504, 0) + report.failures.get("unanswered", 0)
    in_time = report.goodput_per_s * report.settings.duration_s
    return Cell(
        goodput=report.goodput_per_s / capacity,
        in_time=in_time / max(1, answered + late),
        refusal_ms=report.refused.p50_ms if report.refused.count else None,
        probe_ms=probes.p99_ms,
        unsent=report.failures.get("unsent", 0) / max(1, ended),
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to load, and what is sent to it."""

    name: str
    model: Model
    request: Arrays

    @classmethod
    def of(cls, name: str) -> Subject:
        """The model of that name."""
        (config,) = settings.load(CONFIGS[name]).select(name, one=True)
        model = load(config)
        return cls(name, model, one_row(model, config.grid.bucket_lengths[0]))

    def run(self, how: Settings) -> Report:
        """Run one load."""
        return run(self.model, self.name, self.request, how)


def measure(
    subject: Subject, server: Server, options: argparse.Namespace
) -> tuple[float, dict[tuple[float, int], Cell]]:
    """The capacity, and each cell, on one start of the server."""
    url, seconds = server.url, options.seconds
    closed = Settings(url, clients=CAPACITY_CLIENTS, duration_s=seconds, warmup_s=2.0)
    capacity = subject.run(closed).ok_per_s
    cells = {}
    for times in options.times:
        for connections in options.connections:
            load = Settings(
                url,
                rate=times * capacity,
                connections=connections,
                duration_s=seconds,
                warmup_s=options.warmup,
                deadline_ms=options.deadline_ms,
            )
            with Probes(url) as probes:
                report = subject.run(load)
            cells[times, connections] = cell(report, capacity, probes)
            time.sleep(QUIET_S)
    return capacity, cells


def row(name: str, key: tuple[float, int], cells: Sequence[Cell]) -> str:
    """One line of the table: the median of the rounds, and the range where it matters."""
    goodputs = sorted(one.goodput for one in cells)
    refusals = [one.refusal_ms for one in cells if one.refusal_ms is not None]
    times, connections = key
    return (
        f"| {name} | {times:g} | {connections:,} "
        f"| {median(goodputs):.2f} ({goodputs[0]:.2f} to {goodputs[-1]:.2f}) "
        f"| {median(one.in_time for one in cells):.3f} "
        f"| {f'{median(refusals):.1f}' if refusals else '-'} "
        f"| {median(one.probe_ms for one in cells):.0f} ({max(one.probe_ms for one in cells):.0f}) "
        f"| {median(one.unsent for one in cells):.2f} |"
    )


def numbers(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    return tuple(float(part) for part in text.split(","))


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Measure, and print a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(CONFIGS))
    parser.add_argument("--times", type=numbers, default=(3.0, 10.0), help="of the capacity")
    parser.add_argument("--connections", type=counts, default=(64, 1024, 6000))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deadline-ms", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warmup", type=float, default=2.0)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(
        f"deadline {options.deadline_ms:g} ms, {options.rounds} rounds of {options.seconds:g} s\n"
    )
    print("| model | times | connections | goodput / capacity | in time | refusal p50, ms ", end="")
    print("| probe p99, ms (worst round) | unsent |\n|---|--:|--:|--:|--:|--:|--:|--:|")
    for name in options.models.split(","):
        subject = Subject.of(name)
        rounds, capacities = [], []
        for _ in range(options.rounds):
            with served(CONFIGS[name], name) as server:
                capacity, cells = measure(subject, server, options)
            capacities.append(f"{capacity:,.0f}")
            rounds.append(cells)
        for key in rounds[0]:
            print(row(name, key, [cells[key] for cells in rounds]), flush=True)
        print(f"| {name}, answers/s of {CAPACITY_CLIENTS} clients | | | {', '.join(capacities)} |")


if __name__ == "__main__":
    main()
