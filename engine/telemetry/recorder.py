"""One recorder per model: totals, histograms and the last minute, under one lock.

Reports are kept and counted some hundred at a time: counting the requests of each batch when it
completes took 25 us of a batch of one, a tenth of what the engine needs for it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import add
from typing import Final, TypeAlias

from typing_extensions import override

from engine.errors import BrimError, Cancelled, DeadlineExceeded, NonFiniteOutput, Shed
from engine.telemetry.aggregates import ROWS, SECONDS, Histogram, SlidingWindow, slot_of
from engine.telemetry.events import BatchReport, Observer, RequestReport
from engine.telemetry.snapshots import (
    OUTCOMES,
    Activity,
    BatchStats,
    Counts,
    Duration,
    Durations,
    Histograms,
)

Clock: TypeAlias = Callable[[], float]

_EDGES: Final = dict.fromkeys(Histograms.__dataclass_fields__, SECONDS) | {"batch_rows": ROWS}
_OUTCOMES: Final[Mapping[type[BrimError], str]] = {
    Cancelled: "cancelled",
    DeadlineExceeded: "expired",
    NonFiniteOutput: "nonfinite",
}
_SERVERS: Final = ("failed", "expired")
"""The outcomes that are errors of the server."""
_PHASES: Final = ("queue", "compute_input", "compute_infer", "compute_output")
"""The fields of `Durations` for those of `Phases`."""
COUNT_AT: Final = 256
"""Reports that are kept, at most, before they are counted."""
_UNSUCCESSFUL: Final = (*(name for name in OUTCOMES if name != "succeeded"), "refused")


class _Kept:
    """Reports that are not counted yet, all of one slot of the window; the last came at `at`."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.requests: list[RequestReport] = []
        self.batches: list[BatchReport] = []


class ModelRecorder(Observer):
    """Records what one model does.

    Any thread may call any method. A batch takes the lock twice, whatever its number of requests.
    """

    def __init__(self, clock: Clock, wall_clock: Clock = time.time) -> None:
        """`clock` is monotonic seconds; `wall_clock` is seconds since 1970."""
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._refusals: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._batches: dict[int, tuple[int, tuple[float, ...]]] = {}
        self._histograms = {name: Histogram(edges) for name, edges in _EDGES.items()}
        self._clock = clock
        self._window = SlidingWindow(clock())
        self._kept = _Kept(clock())
        self._last_inference_ms = 0

    def abandon(self) -> None:
        """Replace the lock, in a forked child: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def activity(self) -> Activity:
        """Everything that was recorded, consistent at one moment."""
        with self._lock:
            now, counts = self._clock(), self._counts
            self._count(now)
            return Activity(
                counts=Counts(**{key: counts[key] for key in Counts.__dataclass_fields__}),
                durations=self._durations(),
                batches=self._batch_stats(),
                last_inference_ms=self._last_inference_ms,
                refusals=dict(self._refusals),
                reasons=dict(self._reasons),
                rows_completed=counts["rows_completed"],
                padded_rows_completed=counts["padded_rows_completed"],
                histograms=Histograms(**{n: h.snapshot() for n, h in self._histograms.items()}),
                recent=self._window.recent(now),
            )

    def _durations(self) -> Durations:
        counts = dict.fromkeys(Durations.__dataclass_fields__, self._counts["succeeded"])
        counts["fail"] = sum(self._counts[key] for key in _UNSUCCESSFUL)
        return Durations(**{key: Duration(n, self._seconds[key]) for key, n in counts.items()})

    def _batch_stats(self) -> tuple[BatchStats, ...]:
        return tuple(
            BatchStats(rows, *(Duration(n, seconds) for seconds in totals))
            for rows, (n, totals) in sorted(self._batches.items())
        )

    @override
    def queued(self, model: str, requests: int) -> None:
        with self._lock:
            self._counts["accepted"] += requests

    @override
    def refused(self, model: str, rows: int, error: BrimError) -> None:
        with self._lock:
            self._counts["refused"] += 1
            self._counts["shed"] += isinstance(error, Shed)
            self._refusals[type(error).__name__] += 1

    @override
    def requests_done(self, model: str, reports: Sequence[RequestReport]) -> None:
        with self._lock:
            self._keep().requests.extend(reports)
            if any(report.error is None for report in reports):
                self._last_inference_ms = int(self._wall_clock() * 1e3)

    @override
    def batch_done(self, model: str, report: BatchReport) -> None:
        with self._lock:
            self._keep().batches.append(report)

    def _keep(self) -> _Kept:
        """Where a report of this moment is kept. Counts what is there if that is much or older."""
        now, kept = self._clock(), self._kept
        if (
            len(kept.requests) >= COUNT_AT
            or len(kept.batches) >= COUNT_AT
            or slot_of(kept.at) != slot_of(now)
        ):
            self._count(now)
        self._kept.at = now
        return self._kept

    def _count(self, now: float) -> None:
        kept, self._kept = self._kept, _Kept(now)
        if kept.requests:
            self._count_requests(kept.requests, kept.at)
        for report in kept.batches:
            self._count_batch(report, kept.at)

    def _count_requests(self, reports: Sequence[RequestReport], at: float) -> None:
        self._histograms["request_latency_s"].observe([report.latency_s for report in reports])
        waits = [report.queue_s for report in reports if report.queue_s is not None]
        self._histograms["queue_wait_s"].observe(waits)
        succeeded = [report for report in reports if report.error is None]
        if succeeded:
            self._count_succeeded(succeeded, at)
        if len(succeeded) < len(reports):
            for report in reports:
                if report.error is not None:
                    self._count_unsuccessful(report, report.error, at)

    def _count_succeeded(self, reports: Sequence[RequestReport], at: float) -> None:
        self._counts["succeeded"] += len(reports)
        self._counts["rows_answered"] += sum([report.rows for report in reports])
        latencies = [report.latency_s for report in reports]
        self._window.succeeded(latencies, at)
        self._seconds["success"] += sum(latencies)
        phases = (report.phases for report in reports if report.phases is not None)
        for key, seconds in zip(_PHASES, zip(*phases, strict=True), strict=False):
            self._seconds[key] += sum(seconds)

    def _count_unsuccessful(self, report: RequestReport, error: BrimError, at: float) -> None:
        outcome = _OUTCOMES.get(type(error), "failed")
        if outcome == "expired" and report.own_deadline:
            outcome = "own_deadline"
        self._counts[outcome] += 1
        self._seconds["fail"] += report.latency_s
        if outcome in _SERVERS:
            self._window.failed(at)

    def _count_batch(self, report: BatchReport, at: float) -> None:
        rows, padding = report.rows, report.bucket.rows - report.rows
        counts = self._counts
        counts["batches"] += 1
        counts["rows"] += rows
        counts["padded_rows"] += padding
        self._reasons[report.reason] += 1
        if report.failed:
            counts["batches_failed"] += 1
            return
        counts["rows_completed"] += rows
        counts["padded_rows_completed"] += padding
        self._histograms["execution_s"].observe((report.execute_s,))
        self._histograms["batch_rows"].observe((rows,))
        self._window.batch(rows, report.bucket.rows, at)
        n, totals = self._batches.get(rows, (0, (0.0, 0.0, 0.0)))
        seconds = report.gather_s, report.execute_s, report.scatter_s
        self._batches[rows] = n + 1, tuple(map(add, totals, seconds))
