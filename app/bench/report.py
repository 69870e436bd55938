"""What a run has shown: frozen values, made of the tally, to JSON and back.

May touch: numpy, msgspec.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from app.bench.histogram import Latency, percentile_ms
from app.bench.plan import BenchError, Plan, Settings, Target
from app.bench.runner import Seen
from app.bench.tally import BASE, FIRST_STATUS, Failure
from app.services import VERSION

REFUSALS: Final = (429, 503)
"""Statuses by which a server says that it will not, now."""

FULL_CORE: Final = 0.9
LATE_SHARE: Final = 0.2

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Second:
    """What came back in one second after the window began; the last ones are after its end."""

    ok: int
    refused: int
    failed: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class TargetReport:
    """Successes of one model and number of rows."""

    target: Target
    request_bytes: int
    requests: int
    ok: Latency


@dataclass(frozen=True, slots=True)
class Generator:
    """How good the measurement is: the share of a core it took, and how late it was itself."""

    core: float
    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything. A request counts if it was intended inside the window, whenever it ended.

    Rates are per second of the window: `offered` of what was intended, `ok` of 2xx, `goodput` of
    2xx within the deadline (all, without one). `refused` are the answers 429 and 503. Each request
    ends in exactly one of `statuses` and `failures`.
    """

    version: str
    settings: Settings
    offered_per_s: float
    ok_per_s: float
    rows_per_s: float
    goodput_per_s: float
    statuses: dict[int, int]
    failures: dict[str, int]
    ok: Latency
    refused: Latency
    targets: tuple[TargetReport, ...]
    generator: Generator
    timeline: tuple[Second, ...]

    @property
    def doubt(self) -> str | None:
        """Why this may say more of the generator than of the server, if it may."""
        generator = self.generator
        if generator.core >= FULL_CORE:
            return (
                f"the load generator took {generator.core:.0%} of its core: "
                "it was at its own limit, and the server may be faster"
            )
        if self.ok.count and generator.lag_p99_ms > LATE_SHARE * self.ok.p99_ms:
            return (
                f"the load generator was itself {generator.lag_p99_ms:,.2f} ms late at p99, "
                "more than a fifth of the latency it measured"
            )
        return None

    def to_json(self) -> bytes:
        """Indented, for people too."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read(text: bytes) -> Report:
    """What `to_json` wrote. Raises `BenchError`."""
    try:
        return msgspec.json.decode(text, type=Report)
    except msgspec.MsgspecError as error:
        raise BenchError(f"this is no report of `brim bench`: {error}") from None


def make(plan: Plan, seen: Seen) -> Report:
    """Of the tally of a run."""
    settings, tally = plan.settings, seen.tally
    latencies, finished, codes = (
        np.asarray(column) for column in (tally.latencies, tally.finished, tally.codes)
    )
    shot, outcome = np.divmod(codes, BASE)
    ok = (outcome >= 200) & (outcome < 300)  # noqa: PLR2004  # what HTTP calls success
    refused = np.isin(outcome, REFUSALS)
    rows = np.array([shot.target.rows for shot in plan.shots])
    in_time = latencies <= (settings.deadline_ms or math.inf) / 1e3
    ended = {
        int(code): int(n) for code, n in zip(*np.unique(outcome, return_counts=True), strict=True)
    }
    return Report(
        version=VERSION,
        settings=settings,
        offered_per_s=len(codes) / settings.duration_s,
        ok_per_s=int(ok.sum()) / settings.duration_s,
        rows_per_s=int(rows[shot[ok]].sum()) / settings.duration_s,
        goodput_per_s=int((ok & in_time).sum()) / settings.duration_s,
        statuses={code: n for code, n in ended.items() if code >= FIRST_STATUS},
        failures={
            Failure(code).name.lower(): n for code, n in ended.items() if code < FIRST_STATUS
        },
        ok=Latency.of(latencies[ok]),
        refused=Latency.of(latencies[refused]),
        targets=tuple(
            TargetReport(
                each.target,
                len(each.request),
                int((shot == number).sum()),
                Latency.of(latencies[ok & (shot == number)]),
            )
            for number, each in enumerate(plan.shots)
        ),
        generator=Generator(
            core=seen.core,
            lag_p50_ms=percentile_ms(tally.lags, 50),
            lag_p99_ms=percentile_ms(tally.lags, 99),
            lag_max_ms=percentile_ms(tally.lags, 100),
        ),
        timeline=_timeline(finished - tally.begin, latencies, ok, refused),
    )


def _timeline(at: Array, latencies: Array, ok: Array, refused: Array) -> tuple[Second, ...]:
    """`at` is ascending: requests were put down as they ended."""
    last = int(at[-1]) + 1 if len(at) else 0
    edges = np.searchsorted(at, np.arange(last + 1)).tolist()
    line = []
    for begin, end in itertools.pairwise(edges):
        here = slice(begin, end)
        took = latencies[here][ok[here]]
        line.append(
            Second(
                ok=len(took),
                refused=int(refused[here].sum()),
                failed=int((~ok[here] & ~refused[here]).sum()),
                p50_ms=percentile_ms(took, 50),
                p99_ms=percentile_ms(took, 99),
            )
        )
    return tuple(line)
