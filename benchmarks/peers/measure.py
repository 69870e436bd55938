"""Checks the answers of a running server and measures its speed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.cli.bench import process
from app.cli.bench.plan import BenchError, Plan, Settings
from app.cli.bench.report import Progress, Report
from benchmarks.peers import bodies
from benchmarks.peers.bodies import Encoding
from benchmarks.peers.functions import MODELS, Function
from benchmarks.peers.running import Running, Skipped, ask
from benchmarks.peers.servers import Server
from engine.models.model import Model
from engine.models.tensors import Array

KINDS: Final = 16
"""Number of different rows: sent concurrently by the check, and in turn by the load."""

TOLERANCE: Final = 1e-4
"""Times max(1, |value|): buckets differ by 1e-6."""


class Job:
    """One model: rows to send, and the expected answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model: Model = MODELS[name]()
        function = Function(name, buckets=(1,))
        rng = np.random.default_rng(1)
        shape = (KINDS, *function.shape)
        self.rows: Array = (
            rng.standard_normal(shape).astype(function.dtype)
            if np.issubdtype(function.dtype, np.floating)
            else rng.integers(1000, 30000, shape).astype(function.dtype)
        )
        self.answers = [function(row[np.newaxis])[0] for row in self.rows]

    def plan(self, server: Server, encoding: Encoding, settings: Settings) -> Plan:
        """Return a load of one request per row, in equal parts."""
        path = server.path(encoding)
        return Plan(
            settings,
            tuple(bodies.request(path, settings, self.name, self.model, row) for row in self.rows),
        )


def settings_of(url: str, encoding: Encoding, clients: int = 1, seconds: float = 1.0) -> Settings:
    """Settings of a closed loop, with a warm-up of a fifth of its time, at least half a second."""
    return Settings(
        url,
        clients=clients,
        duration_s=seconds,
        warmup_s=max(0.5, seconds / 5),
        binary=encoding == "binary",
    )


def check(server: Server, job: Job, encoding: Encoding, at: Running) -> None:
    """Send all rows at once; each must get its own answer. Raises `Skipped`."""
    requests = job.plan(server, encoding, settings_of(at.url, encoding)).requests
    with ThreadPoolExecutor(KINDS) as pool:
        responses = list(pool.map(lambda request: ask(at.port, request.message), requests))
    for expected, (status, head, body) in zip(job.answers, responses, strict=True):
        if status != 200:
            raise Skipped(f"it answered {status} {body[:200]!r}")
        try:
            got = bodies.answer(server.path(encoding), job.model, head, body)
        except (ValueError, LookupError, TypeError) as error:
            raise Skipped(f"it answered {head} {body[:200]!r}: {error!r}") from None
        off = np.abs(got - expected) / np.maximum(1, np.abs(expected))
        if not off.max() <= TOLERANCE:
            raise Skipped(f"it answered wrongly: {got.tolist()[:4]}, not {expected.tolist()[:4]}")


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of one load. `cpu_us` is the CPU time of the server's processes per request.

    A `doubtful` result may be limited by the generator and not by the server.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    doubtful: bool = False


def load(
    server: Server, job: Job, encoding: Encoding, at: Running, clients: int, seconds: float
) -> Seen:
    """Run one load. Raises `Skipped` unless every status is 200."""
    settings = settings_of(at.url, encoding, clients, seconds)
    samples: list[tuple[float, int, float]] = []

    def watch(progress: Progress) -> None:
        samples.append((progress.elapsed_s, progress.completed, at.cpu_seconds()))

    try:
        report: Report = process.run(job.plan(server, encoding, settings), watch)
    except BenchError as error:
        raise Skipped(str(error)) from None
    if set(report.statuses) != {200} or report.failures:
        raise Skipped(f"statuses {report.statuses}, failures {report.failures}")
    inside = [
        (settled, cpu)
        for elapsed, settled, cpu in samples
        if settings.warmup_s <= elapsed <= settings.warmup_s + seconds
    ]
    return Seen(
        report.ok_per_s,
        report.ok.p50_ms,
        report.ok.p99_ms,
        cpu_us(inside),
        report.doubt is not None,
    )


def cpu_us(samples: Sequence[tuple[int, float]]) -> float:
    """Return CPU microseconds per request, from cumulative (requests, CPU seconds)."""
    if len(samples) < 2 or samples[-1][0] == samples[0][0]:
        return math.nan
    (before, used_before), (after, used_after) = samples[0], samples[-1]
    return (used_after - used_before) / (after - before) * 1e6


def middle(seen: Sequence[Seen]) -> Seen:
    """Return the median of each number; doubtful if most results are."""
    return Seen(
        statistics.median(one.rate for one in seen),
        statistics.median(one.p50_ms for one in seen),
        statistics.median(one.p99_ms for one in seen),
        statistics.median(one.cpu_us for one in seen),
        statistics.median(one.doubtful for one in seen) > 0.5,
    )
