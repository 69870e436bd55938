"""One closed loop from several generator processes, so that the generator is not the limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Self, TypeVar

from hdrh.histogram import HdrHistogram

from app.cli.bench import process
from app.cli.bench.plan import EncodedRequest, Plan, Settings
from app.cli.bench.report import Progress, Report

BEFORE_END_S: Final = 2 * process.PROGRESS_S
"""The second look is so long before the end: generators tell their progress four times a second."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """What all generators saw together, in `sent_s` seconds.

    `cores` is their CPU, the share of a core of each.
    """

    sent_s: float
    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    cores: tuple[float, ...]
    doubts: tuple[str, ...]

    @classmethod
    def of(cls, reports: Sequence[Report]) -> Self:
        """Rates and failures are added, and so are the histograms of the latencies."""
        latencies = HdrHistogram.decode(reports[0].ok.histogram)
        for report in reports[1:]:
            latencies.add(HdrHistogram.decode(report.ok.histogram))
        p50, p99 = (latencies.get_value_at_percentile(percent) / 1e3 for percent in (50, 99))
        return cls(
            sent_s=reports[0].settings.duration_s,
            per_s=sum(report.ok_per_s for report in reports),
            p50_ms=p50,
            p99_ms=p99,
            failed=sum(map(_failed, reports)),
            cores=tuple(report.generator.core for report in reports),
            doubts=tuple(report.doubt for report in reports if report.doubt is not None),
        )


def _failed(report: Report) -> int:
    refused = sum(count for status, count in report.statuses.items() if status != 200)
    return refused + sum(report.failures.values())


def run(
    request: EncodedRequest, how: Settings, processes: int, look: Callable[[], T]
) -> tuple[Load, T, T]:
    """Run it with `how.clients` divided among the processes. Raises `BenchError`.

    `look` is called twice while all clients send: when the last generator has warmed up, and
    shortly before the first one ends. Both results are returned.
    """
    shares = _shares(how.clients or 1, processes)
    elapsed = [0.0] * len(shares)

    def one(place: int) -> Report:
        def note(progress: Progress) -> None:
            elapsed[place] = progress.elapsed_s

        return process.run(Plan(replace(how, clients=shares[place]), (request,)), note)

    with ThreadPoolExecutor(len(shares)) as pool:
        running = [pool.submit(one, place) for place in range(len(shares))]
        _wait(running, lambda: min(elapsed) >= how.warmup_s)
        first = look()
        _wait(running, lambda: max(elapsed) >= how.warmup_s + how.duration_s - BEFORE_END_S)
        second = look()
        return Load.of([future.result() for future in running]), first, second


def _shares(clients: int, processes: int) -> list[int]:
    processes = min(clients, processes)
    return [(clients + place) // processes for place in range(processes)]


def _wait(running: Sequence[Future[Report]], reached: Callable[[], bool]) -> None:
    """Return when it is reached, or when a generator has ended."""
    while not reached() and not any(future.done() for future in running):
        time.sleep(0.01)
