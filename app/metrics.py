"""An observer that feeds Prometheus.

May touch: prometheus_client, psutil.

Two kinds of numbers, all labelled by model. Counters and histograms, named `brim_...`: Prometheus
adds them up over replicas and computes any percentile of any period. And gauges for people who look
at one server: `p99_latency_ms`, `requests_per_second`, `batch_fill_rate`, `queue_depth`,
`inference_error_rate` and `memory_rss_bytes`, over the last minute, computed when asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psutil
from flask import Flask, Response, request
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.errors import TooManyWaiting
from app.histogram import HistogramFamily
from app.http_metrics import HttpMetrics
from app.operation import Operation, documented
from app.window import Window
from engine.batching import REASONS
from engine.buckets import Bucket
from engine.config import ModelConfig
from engine.engine import Engine
from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    ModelFailed,
    NotReady,
    QueueFull,
    Shed,
    ShuttingDown,
)
from engine.observer import BatchReport, Observer, TicketReport
from engine.state import ModelState

SECONDS: Final = tuple(digit * 10.0**power for power in range(-4, 2) for digit in (1, 2.5, 5))
"""Histogram edges, 100 us to 50 s: a device may take either."""

REFUSALS: Final[tuple[type[BrimError], ...]] = (
    Shed,
    QueueFull,
    TooManyWaiting,
    NotReady,
    ShuttingDown,
    ModelFailed,
)
"""Why a request may be turned away."""

EXPOSITION: Final = Operation(answer=str, media=("text/plain", "application/openmetrics-text"))
"""Prometheus's two formats; it asks for the one that it wants."""


class Metrics(Observer):
    """Hears what the engine does and counts it.

    Children of the labelled metrics are looked up once per model: `labels()` costs 1 us a call.
    """

    def __init__(
        self,
        models: tuple[ModelConfig, ...],
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.http = HttpMetrics(registry)
        self._models = {config.name: _ModelMetrics(config, clock) for config in models}
        self._families = _Families(registry)
        for model in self._models.values():
            model.bind(self._families)
        self._compiles = Counter(
            "compiles_after_ready_total",
            "Compilations after the models were up. Must stay 0.",
            registry=registry,
        )

    def watch(self, engine: Engine) -> None:
        """Add the gauges that are read off the engine when somebody asks."""
        self.registry.register(_Gauges(engine, self._models))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def serve(self, app: Flask) -> None:
        """Add `/metrics`."""

        @app.get("/metrics")
        @documented(EXPOSITION)
        def metrics() -> Response:
            """Prometheus's metrics: the engine's, the last minute's, and every HTTP request's."""
            names = request.args.getlist("name[]")
            registry = self.registry.restricted_registry(names) if names else self.registry
            write, kind = choose_encoder(request.headers.get("Accept", ""))
            return Response(write(registry), content_type=kind)

    def state_changed(self, model: str, state: ModelState, reason: str | None) -> None:
        for other in ModelState:
            self._families.state.labels(model, other.value).set(other is state)

    def proved(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._families.cost.labels(model, str(bucket)).set(seconds)

    def compiled_after_ready(self) -> None:
        self._compiles.inc()

    def refused(self, model: str, rows: int, error: BrimError) -> None:
        self._models[model].refused(error)

    def batch_done(self, model: str, report: BatchReport) -> None:
        self._models[model].batch_done(report)

    def tickets_done(self, model: str, reports: Sequence[TicketReport]) -> None:
        self._models[model].tickets_done(reports)


class _Families:
    """Every metric, once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ["model", *labels], registry=registry)

        def histogram(name: str, text: str, edges: tuple[float, ...] = SECONDS) -> HistogramFamily:
            return HistogramFamily(name, text, edges, registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, ["model", *labels], registry=registry)

        self.requests = counter("brim_requests_total", "Requests by how they ended", "outcome")
        self.refused = counter("brim_refused_total", "Requests turned away, by error", "error")
        self.batches = counter("brim_batches_total", "Batches by why they were launched", "reason")
        self.failed = counter("brim_failed_batches_total", "Batches that the device failed")
        self.rows = counter("brim_rows_total", "Real rows that were executed")
        self.padded = counter("brim_padded_rows_total", "Padding rows that were executed")
        self.latency = histogram("brim_request_latency_seconds", "From arrival to outcome")
        self.queue = histogram("brim_queue_wait_seconds", "From arrival to the device")
        self.execution = histogram("brim_execution_seconds", "One batch on the device")
        self.batch_rows = histogram(
            "brim_batch_rows", "Real rows per batch", tuple(float(2**n) for n in range(11))
        )
        self.state = gauge("brim_model_state", "1 for the state that the model is in", "state")
        self.cost = gauge("brim_bucket_cost_seconds", "Measured seconds of one batch", "bucket")
        self.slo = gauge("brim_slo_seconds", "The p99 that the operator promises")


class _ModelMetrics:
    """One model's children of every family, and its last minute."""

    def __init__(self, config: ModelConfig, clock: Callable[[], float]) -> None:
        self.config = config
        self.window = Window(clock)

    def bind(self, families: _Families) -> None:
        name = self.config.name
        families.slo.labels(name).set(self.config.slo_s)
        self._outcomes = {
            outcome: families.requests.labels(name, outcome)
            for outcome in ("succeeded", "failed", "expired", "cancelled", "refused")
        }
        self._reasons = {reason: families.batches.labels(name, reason) for reason in REASONS}
        self._refused = {error: families.refused.labels(name, error.__name__) for error in REFUSALS}
        self._failed = families.failed.labels(name)
        self._rows = families.rows.labels(name)
        self._padded = families.padded.labels(name)
        self._latency = families.latency.labels(name)
        self._queue = families.queue.labels(name)
        self._execution = families.execution.labels(name)
        self._batch_rows = families.batch_rows.labels(name)

    def refused(self, error: BrimError) -> None:
        self._outcomes["refused"].inc()
        self._refused[type(error)].inc()

    def batch_done(self, report: BatchReport) -> None:
        self._reasons[report.reason].inc()
        if report.failed:
            self._failed.inc()
            return
        self._rows.inc(report.rows)
        self._padded.inc(report.bucket.rows - report.rows)
        self._execution.observe((report.execute_s,))
        self._batch_rows.observe((report.rows,))
        self.window.batch(report.rows, report.bucket.rows)

    def tickets_done(self, reports: Sequence[TicketReport]) -> None:
        self._latency.observe([report.latency_s for report in reports])
        self._queue.observe([r.queue_s for r in reports if r.queue_s is not None])
        answered = [report.latency_s for report in reports if report.error is None]
        if answered:
            self._outcomes["succeeded"].inc(len(answered))
            self.window.answered(answered)
        if len(answered) < len(reports):
            for report in reports:
                if report.error is not None:
                    self._failed_with(report.error)

    def _failed_with(self, error: BrimError) -> None:
        match error:
            case Cancelled():
                self._outcomes["cancelled"].inc()
            case DeadlineExceeded():
                self._outcomes["expired"].inc()
                self.window.failed()
            case _:
                self._outcomes["failed"].inc()
                self.window.failed()


class _Gauges(Collector):
    """Computed when `/metrics` is asked for."""

    def __init__(self, engine: Engine, models: dict[str, _ModelMetrics]) -> None:
        self._engine = engine
        self._models = models
        self._process = psutil.Process()

    def collect(self) -> Iterator[Metric]:
        def gauge(name: str, text: str) -> Any:
            return GaugeMetricFamily(name, text, labels=["model"])

        p99 = gauge("p99_latency_ms", "99th percentile of latency, last minute, within 2 %")
        rate = gauge("requests_per_second", "Requests with an outcome, last minute")
        fill = gauge("batch_fill_rate", "Real rows per bucket row, last minute")
        depth = gauge("queue_depth", "Rows that wait now")
        errors = gauge("inference_error_rate", "Share of requests the server failed, last minute")
        serving = gauge("brim_model_ready", "1 while the model serves")
        in_flight = gauge("brim_batches_in_flight", "Batches on the device now")
        memory = GaugeMetricFamily(
            "brim_device_memory_bytes", "Device memory by XLA's account", labels=["model", "kind"]
        )
        for name, model in self._models.items():
            recent, stats = model.window.recent(), self._engine.stats(name)
            p99.add_metric([name], recent.p99_s * 1e3)
            rate.add_metric([name], recent.requests_per_second)
            fill.add_metric([name], recent.fill)
            depth.add_metric([name], stats.queued_rows)
            errors.add_metric([name], recent.error_rate)
            serving.add_metric([name], stats.serving)
            in_flight.add_metric([name], stats.in_flight)
            if stats.memory is not None:
                memory.add_metric([name, "weights"], stats.memory.weights)
                memory.add_metric([name, "code"], stats.memory.code)
                memory.add_metric([name, "peak_batch"], stats.memory.peak_batch)
        yield from (p99, rate, fill, depth, errors, serving, in_flight, memory)
        rss = self._process.memory_info().rss
        yield GaugeMetricFamily("memory_rss_bytes", "Resident memory of the process", value=rss)
        ready = self._engine.ready
        yield GaugeMetricFamily("brim_ready", "1 while traffic may come", value=ready)
