"""A Prometheus collector that turns a snapshot of the engine into metrics.

Counters and histograms are named `brim_...`: Prometheus adds them up over replicas and computes any
percentile of any period. Gauges show one server, over the last minute or now: `p99_latency_ms`,
`requests_per_second`, `batch_fill_rate`, `inference_error_rate`, `queue_depth`, `memory_rss_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, TypeAlias

import psutil
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString
from typing_extensions import override

from app.http.errors import STATUS
from app.telemetry.every_process import LastKnown
from engine.api import (
    OUTCOMES,
    REASONS,
    Bucket,
    DeadlineTooShort,
    EngineClient,
    HistogramSnapshot,
    ModelSnapshot,
    ModelState,
)

COUNTER, GAUGE, HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

REFUSALS: Final = (
    *(error for error, status in STATUS.items() if status in (429, 503)),
    DeadlineTooShort,
)
"""The errors that refuse a request. Each has a series from the start: a rate needs a first 0."""

Value: TypeAlias = float | HistogramSnapshot | Mapping[str, float]
"""One value, or one for each value of a label."""

Row: TypeAlias = tuple[Any, str, str, Value] | tuple[Any, str, str, Value, str]
"""A metric of one model: kind, name, text, value, and the label if there are several values."""


def _metrics(model: ModelSnapshot, slo_s: float) -> Iterator[Row]:
    yield from _totals(model)
    yield from _last_minute(model)
    load, memory = model.load, model.memory
    states = {state.value: state is model.state for state in ModelState}
    yield GAUGE, "brim_model_state", "1 for the state that the model is in", states, "state"
    yield GAUGE, "brim_model_ready", "1 while the model serves", model.serving
    yield GAUGE, "queue_depth", "Rows in the queue now", load.queued_rows
    yield GAUGE, "brim_batches_in_flight", "Batches on the device now", load.batches_in_flight
    hooks = {state: getattr(load.hooks, state) for state in ("waiting", "busy", "stuck")}
    text = "Hooks in the engine's process that wait, run, or have passed their deadline"
    yield GAUGE, "brim_engine_hooks", text, hooks, "state"
    yield GAUGE, "brim_slo_seconds", "The configured p99 objective", slo_s
    seconds = {str(Bucket(cost.rows, cost.length)): cost.measured_s for cost in model.cost_table}
    text = "Seconds of one batch, measured at warm-up"
    yield GAUGE, "brim_bucket_cost_seconds", text, seconds, "bucket"
    kinds = "weights", "code", "peak_batch"
    sizes = {} if memory is None else {kind: getattr(memory, kind) for kind in kinds}
    yield GAUGE, "brim_device_memory_bytes", "Device memory by XLA's account", sizes, "kind"


def _totals(model: ModelSnapshot) -> Iterator[Row]:
    done, counts, histograms = model.activity, model.activity.counts, model.activity.histograms
    outcomes = {outcome: getattr(counts, outcome) for outcome in (*OUTCOMES, "refused")}
    refusals = {error.__name__: 0 for error in REFUSALS} | dict(done.refusals)
    reasons = dict.fromkeys(REASONS, 0) | dict(done.reasons)
    failed, padded = counts.batches_failed, done.padded_rows_completed
    yield COUNTER, "brim_requests", "Requests by outcome", outcomes, "outcome"
    yield COUNTER, "brim_refused", "Refused requests, by error", refusals, "error"
    yield COUNTER, "brim_batches", "Batches by why they were dispatched", reasons, "reason"
    yield COUNTER, "brim_failed_batches", "Batches that failed on the device", failed
    yield COUNTER, "brim_rows", "Real rows that were executed", done.rows_completed
    yield COUNTER, "brim_padded_rows", "Padding rows that were executed", padded
    latency, wait = histograms.request_latency_s, histograms.queue_wait_s
    yield HISTOGRAM, "brim_request_latency_seconds", "From arrival to outcome", latency
    yield HISTOGRAM, "brim_queue_wait_seconds", "From arrival to dispatch", wait
    yield HISTOGRAM, "brim_execution_seconds", "One batch on the device", histograms.execution_s
    yield HISTOGRAM, "brim_batch_rows", "Real rows per batch", histograms.batch_rows


def _last_minute(model: ModelSnapshot) -> Iterator[Row]:
    recent = model.activity.recent
    p99, rate, errors = recent.p99_s * 1e3, recent.requests_per_second, recent.error_rate
    yield GAUGE, "p99_latency_ms", "99th percentile of latency, last minute, within 2 %", p99
    yield GAUGE, "requests_per_second", "Requests with an outcome, last minute", rate
    yield GAUGE, "batch_fill_rate", "Real rows per bucket row, last minute", recent.fill
    text = "Share of requests the server failed, last minute"
    yield GAUGE, "inference_error_rate", text, errors


def _add_samples(family: Any, model: str, value: Value) -> None:
    """Add the samples of one model to a metric."""
    match value:
        case HistogramSnapshot():
            edges = map(floatToGoString, (*value.edges, INF))
            buckets = list(zip(edges, accumulate(value.counts), strict=True))
            family.add_metric([model], buckets, value.sum)
        case Mapping():
            for label, number in value.items():
                family.add_metric([model, label], number)
        case _:
            family.add_metric([model], value)


class EngineCollector(Collector):
    """Takes one snapshot per scrape."""

    def __init__(self, client: EngineClient, *, whole_server: bool) -> None:
        """`whole_server`: this process is a child of gunicorn's master, as all others are."""
        self._client = client
        self._whole_server = whole_server
        self._rss = LastKnown(lambda: sum(map(_rss, self._processes())))

    @override
    def collect(self) -> Iterator[Metric]:
        snapshot = self._client.snapshot()
        families: dict[str, Any] = {}
        for model in snapshot.models:
            slo_s = self._client.endpoint(model.name).config.slo_s
            for kind, name, text, value, *label in _metrics(model, slo_s):
                if name not in families:
                    families[name] = kind(name, text, labels=["model", *label])
                _add_samples(families[name], model.name, value)
        yield from families.values()
        text = "Compilations after the models were up. Must stay 0."
        yield COUNTER("compiles_after_ready", text, value=snapshot.compiles_after_ready)
        yield GAUGE("brim_ready", "1 while traffic may come", value=snapshot.ready)
        rss = self._rss.get()
        if rss is not None:
            yield GAUGE("memory_rss_bytes", "Resident memory of the server's processes", value=rss)

    def _processes(self) -> list[psutil.Process]:
        if not self._whole_server:
            return [psutil.Process()]
        master = psutil.Process().parent()
        return [] if master is None else [master, *master.children(recursive=True)]


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it has just ended
        return 0


def register(
    registry: CollectorRegistry, client: EngineClient, *, whole_server: bool = False
) -> None:
    """Add the engine's metrics to `registry`, and the process's if it is the whole server."""
    registry.register(EngineCollector(client, whole_server=whole_server))
    if whole_server:
        return
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
