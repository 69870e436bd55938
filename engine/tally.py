"""Totals since the start: an observer that counts.

May touch: threading. `_lock` guards the totals and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from engine.errors import BrimError, Cancelled, DeadlineExceeded, Shed
from engine.observer import BatchReport, Observer, TicketReport
from engine.stats import BatchStats, Counts, Duration, Durations

_OUTCOMES = {type(None): "succeeded", Cancelled: "cancelled", DeadlineExceeded: "expired"}


class Tally(Observer):
    """Counts what one model does."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock` is seconds since 1970: the one number here that leaves the machine."""
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.last_inference_ms = 0
        self._batches: dict[int, tuple[int, float, float, float]] = {}

    def counts(self) -> Counts:
        """How many of each."""
        with self._lock:
            return Counts(**{key: self._counts[key] for key in Counts.__dataclass_fields__})

    def durations(self) -> Durations:
        """Where the time of the requests went. Only those that succeeded have phases."""
        with self._lock:
            done, failed = self._counts["succeeded"], self._unsuccessful()
            seconds = self._seconds
            return Durations(
                success=Duration(done, seconds["success"]),
                fail=Duration(failed, seconds["fail"]),
                queue=Duration(done, seconds["queue"]),
                compute_input=Duration(done, seconds["input"]),
                compute_infer=Duration(done, seconds["infer"]),
                compute_output=Duration(done, seconds["output"]),
            )

    def batches(self) -> tuple[BatchStats, ...]:
        """What batches of each number of real rows have cost."""
        with self._lock:
            return tuple(
                BatchStats(rows, Duration(n, gather), Duration(n, execute), Duration(n, scatter))
                for rows, (n, gather, execute, scatter) in sorted(self._batches.items())
            )

    def _unsuccessful(self) -> int:
        return sum(self._counts[key] for key in ("failed", "expired", "cancelled", "refused"))

    def queued(self, model: str, rows: int) -> None:
        with self._lock:
            self._counts["accepted"] += 1

    def refused(self, model: str, rows: int, error: BrimError) -> None:
        with self._lock:
            self._counts["refused"] += 1
            self._counts["shed"] += isinstance(error, Shed)

    def tickets_done(self, model: str, reports: Sequence[TicketReport]) -> None:
        rows = answered = 0
        success = queue = input_ = infer = output = 0.0
        others: list[TicketReport] = []
        for report in reports:
            if report.error is not None or report.phases is None:
                others.append(report)
                continue
            answered += 1
            rows += report.rows
            success += report.latency_s
            queue += report.phases.queue_s
            input_ += report.phases.input_s
            infer += report.phases.infer_s
            output += report.phases.output_s
        with self._lock:
            counts, seconds = self._counts, self._seconds
            if answered:
                self.last_inference_ms = int(self._wall_clock() * 1e3)
                counts["succeeded"] += answered
                counts["rows_answered"] += rows
                seconds["success"] += success
                seconds["queue"] += queue
                seconds["input"] += input_
                seconds["infer"] += infer
                seconds["output"] += output
            for report in others:
                counts[_OUTCOMES.get(type(report.error), "failed")] += 1
                seconds["fail"] += report.latency_s

    def batch_done(self, model: str, report: BatchReport) -> None:
        with self._lock:
            self._counts["batches"] += 1
            self._counts["rows"] += report.rows
            self._counts["padded_rows"] += report.bucket.rows - report.rows
            if report.failed:
                self._counts["batches_failed"] += 1
                return
            number, *seconds = self._batches.get(report.rows, (0, 0.0, 0.0, 0.0))
            gather, execute, scatter = seconds
            self._batches[report.rows] = (
                number + 1,
                gather + report.gather_s,
                execute + report.execute_s,
                scatter + report.scatter_s,
            )
