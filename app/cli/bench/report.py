"""The samples of a run, and the report: frozen values made of them, and their JSON."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from enum import IntEnum
from importlib.metadata import version
from typing import Any, Final, Self

import msgspec
import numpy as np
from hdrh.histogram import HdrHistogram

from app.cli.bench.plan import Plan, Settings, Target
from engine.api import Array

BASE: Final = 1000
"""A sample's code is the index of its request times this, plus its outcome."""

FIRST_STATUS: Final = 100
"""Outcomes from here on are HTTP statuses; those below are failures."""

REFUSALS: Final = (429, 503)
"""Statuses with which a server refuses a request that may succeed later."""

FULL_CORE: Final = 0.9
LATE_SHARE: Final = 0.2

# of HDR histograms: 1 us to an hour, with three significant digits
_LOWEST_US: Final = 1
_HIGHEST_US: Final = 3_600_000_000
_DIGITS: Final = 3


class Failure(IntEnum):
    """How a request ends without a response."""

    REFUSED = 1  # the connection was refused
    UNREACHABLE = 2  # no connection, for another reason
    RESET = 3  # the connection broke
    CLOSED = 4  # the connection was closed before the end of the response
    GARBAGE = 5  # the response is not HTTP
    UNANSWERED = 6  # sent, and no response in time
    UNSENT = 7  # no connection was free in time


class Samples:
    """The outcome of every request, recorded cheaply (20 bytes) and summarized after the run.

    A request counts if its *intended* time is inside the window: requests of the warm-up do not
    count, requests answered after the end do. Times are on the load's clock, in seconds.
    `completed` and `failed` include the warm-up; the progress bar shows them. `core` is the share
    of a core that the generator used, set at the end.
    """

    def __init__(self, begin: float, end: float) -> None:
        self.begin = begin
        self.end = end
        self.latencies = array("d")
        self.finished = array("d")
        self.codes = array("i")
        self.lags = array("d")
        self.completed = 0
        self.failed = 0
        self.core = 0.0

    def record(self, request: int, outcome: int, intended: float, now: float) -> None:
        """A request has ended: with an HTTP status, or a `Failure`."""
        self.completed += 1
        if not 200 <= outcome < 300:  # noqa: PLR2004  # what HTTP calls success
            self.failed += 1
        if self.begin <= intended < self.end:
            self.latencies.append(now - intended)
            self.finished.append(now)
            self.codes.append(request * BASE + outcome)

    def record_lag(self, due: float, now: float) -> None:
        """The generator itself did at `now` what was due at `due`."""
        if self.begin <= due < self.end:
            self.lags.append(now - due)


class Progress(msgspec.Struct, frozen=True):
    """How far a run is. The counts include the warm-up."""

    elapsed_s: float
    completed: int
    failed: int


class Latency(msgspec.Struct, frozen=True):
    """The latencies of `count` responses; all 0 without one.

    `histogram` is in microseconds, in the encoding of the HdrHistogram libraries (V2, base64).
    """

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    histogram: str

    @classmethod
    def of(cls, seconds: Array) -> Self:
        """From every single latency, [count]."""
        histogram = _histogram(seconds)
        found = histogram.get_percentile_to_value_dict([50, 90, 99, 99.9])
        p50, p90, p99, p999 = (found.get(p, 0) / 1e3 for p in (50, 90, 99, 99.9))
        mean, slowest = (seconds.mean(), seconds.max()) if len(seconds) else (0.0, 0.0)
        mean_ms, max_ms = float(mean) * 1e3, float(slowest) * 1e3
        encoded = histogram.encode().decode()
        return cls(len(seconds), mean_ms, p50, p90, p99, p999, max_ms, encoded)

    def curve(self) -> Iterator[tuple[float, float]]:
        """For each recorded value, the share of responses up to it, and the value in ms."""
        if not self.count:
            return
        for item in HdrHistogram.decode(self.histogram).get_recorded_iterator():
            share = item.total_count_to_this_value / self.count
            yield share, item.value_iterated_to / 1e3


def _histogram(seconds: Array) -> Any:
    histogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
    microseconds = np.clip(np.rint(seconds * 1e6), _LOWEST_US, _HIGHEST_US).astype(np.int64)
    values, counts = np.unique(microseconds, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram


def percentile_ms(seconds: Sequence[float] | Array, percent: float) -> float:
    """The exact percentile of a few latencies; 0 without one."""
    return float(np.percentile(seconds, percent)) * 1e3 if len(seconds) else 0.0


class Second(msgspec.Struct, frozen=True):
    """What ended in one second after the window began; the last ones are after its end."""

    ok: int
    refused: int
    failed: int
    p50_ms: float
    p99_ms: float


class TargetReport(msgspec.Struct, frozen=True):
    """The requests to one model with one number of rows; `ok` are the successful ones."""

    target: Target
    request_bytes: int
    requests: int
    ok: Latency


class GeneratorReport(msgspec.Struct, frozen=True):
    """How far the generator was from its own limit: its share of a core, and how late it was."""

    core: float
    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float


class Totals(msgspec.Struct, frozen=True):
    """Rates and outcomes. A request counts if it was intended inside the window.

    Rates are per second of the window: `offered` counts what was intended, `ok` counts 2xx,
    `goodput` counts 2xx within the deadline (all 2xx, without one). Each request ends in exactly
    one of `statuses` and `failures`.
    """

    version: str
    settings: Settings
    offered_per_s: float
    ok_per_s: float
    rows_per_s: float
    goodput_per_s: float
    statuses: dict[int, int]
    failures: dict[str, int]


class Report(Totals, frozen=True):
    """Everything that a run measured. `ok` are 2xx responses, `refused` are 429 and 503."""

    ok: Latency
    refused: Latency
    targets: tuple[TargetReport, ...]
    generator: GeneratorReport
    timeline: tuple[Second, ...]

    @property
    def doubt(self) -> str | None:
        """Why the generator, not the server, may have limited the numbers; None if it did not."""
        generator = self.generator
        if generator.core >= FULL_CORE:
            return (
                f"the load generator used {generator.core:.0%} of its core: "
                "it was at its own limit, and the server may be faster"
            )
        if self.ok.count and generator.lag_p99_ms > LATE_SHARE * self.ok.p99_ms:
            return (
                f"the load generator itself was {generator.lag_p99_ms:,.2f} ms late at p99, "
                "more than a fifth of the latency that it measured"
            )
        return None

    def to_json(self) -> bytes:
        """Indented JSON, which `msgspec.json.decode(..., type=Report)` reads."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def make(plan: Plan, samples: Samples) -> Report:
    """The report of a run."""
    table = _Table(plan, samples)
    outcomes = table.outcomes.items()
    lags = [percentile_ms(samples.lags, percent) for percent in (50, 99, 100)]
    return Report(
        version=version("brim"),
        settings=plan.settings,
        offered_per_s=table.per_second(np.ones_like(table.ok)),
        ok_per_s=table.per_second(table.ok),
        rows_per_s=table.per_second(table.rows * table.ok),
        goodput_per_s=table.per_second(table.ok & table.in_time),
        statuses={code: n for code, n in outcomes if code >= FIRST_STATUS},
        failures={Failure(code).name.lower(): n for code, n in outcomes if code < FIRST_STATUS},
        ok=Latency.of(table.latencies[table.ok]),
        refused=Latency.of(table.latencies[table.refused]),
        targets=table.targets(),
        generator=GeneratorReport(samples.core, *lags),
        timeline=table.timeline(),
    )


class _Table:
    """The samples as columns: one element for each request, in the order of their ends."""

    def __init__(self, plan: Plan, samples: Samples) -> None:
        self._plan = plan
        self._ended = np.asarray(samples.finished) - samples.begin
        self._request, outcome = np.divmod(np.asarray(samples.codes), BASE)
        self.latencies = np.asarray(samples.latencies)
        self.ok = (outcome >= 200) & (outcome < 300)  # noqa: PLR2004  # what HTTP calls success
        self.refused = np.isin(outcome, REFUSALS)
        self.rows = np.array([each.target.rows for each in plan.requests])[self._request]
        self.in_time = self.latencies <= (plan.settings.deadline_ms or math.inf) / 1e3
        codes, counts = np.unique(outcome, return_counts=True)
        self.outcomes = dict(zip(codes.tolist(), counts.tolist(), strict=True))

    def per_second(self, column: Array) -> float:
        return int(column.sum()) / self._plan.settings.duration_s

    def targets(self) -> tuple[TargetReport, ...]:
        reports = []
        for index, each in enumerate(self._plan.requests):
            chosen = self._request == index
            ok = Latency.of(self.latencies[self.ok & chosen])
            reports.append(TargetReport(each.target, len(each.message), int(chosen.sum()), ok))
        return tuple(reports)

    def timeline(self) -> tuple[Second, ...]:
        last = int(self._ended[-1]) + 1 if len(self._ended) else 0
        edges = np.searchsorted(self._ended, np.arange(last + 1)).tolist()
        return tuple(self._second(slice(*pair)) for pair in itertools.pairwise(edges))

    def _second(self, part: slice) -> Second:
        ok, refused = self.ok[part], self.refused[part]
        latencies = self.latencies[part][ok]
        return Second(
            ok=len(latencies),
            refused=int(refused.sum()),
            failed=int((~ok & ~refused).sum()),
            p50_ms=percentile_ms(latencies, 50),
            p99_ms=percentile_ms(latencies, 99),
        )
