"""`/metrics`, and the count and duration of HTTP requests, with prometheus-flask-exporter."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPMethod
from typing import Any, Final

from flask import Flask, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_flask_exporter import PrometheusMetrics
from typing_extensions import override

from app.http.errors import INTERNAL
from app.http.responses.operation import Operation
from app.telemetry import prometheus
from app.telemetry.every_process import EveryProcess
from app.worker.calls.lane import LaneLoad
from engine.api import EngineClient

LIMITS: Final = (
    "max_head_bytes",
    "max_body_bytes",
    "max_decompressed_bytes",
    "max_json_bytes",
    "max_id_bytes",
    "max_bytes_in_flight",
    "head_timeout_s",
    "body_timeout_s",
    "send_timeout_s",
)
"""The settings that can end a request. Each has a series from the start: a rate needs a first 0."""

METHODS: Final = frozenset(HTTPMethod)

LANES: Final = {
    "waiting": "Calls that wait for a thread of an HTTP process, by the model of the hooks",
    "busy": "Threads of the HTTP processes in a call",
    "stuck": "Threads in a call whose request's deadline has passed",
}
"""The gauges of an HTTP process's threads, by the fields of `LaneLoad`."""

EXPOSITION: Final = Operation(answer=str, media=("text/plain", "application/openmetrics-text"))
"""Prometheus's two formats; the scraper's Accept header selects one."""


class HttpExporter(PrometheusMetrics):
    """prometheus-flask-exporter for this app.

    Its decorators (`counter`, `histogram`, `do_not_track`, ...) work on any view, and `/metrics`
    shows their metrics. They time the view and read its response. A view that submits to the engine
    returns before the answer exists: for it they measure the submission, and the status is 200.
    `flask_http_request_duration_seconds` covers the answer.

    The library's own hooks took 33 us a request, `note` and the hooks of `app.http.hooks` take 6;
    the library's run before a `Deferred` has its status. Labelled children are looked up once per
    method, rule and status. Methods that HTTP does not define share a series: clients choose them.
    """

    def __init__(self, registry: CollectorRegistry, shared: str | None = None) -> None:
        """`install` adds it to an app. `shared` is the folder of `share_values`: `/metrics` then
        shows the sums over all HTTP processes.
        """
        self._every = None if shared is None else EveryProcess(registry, shared)
        self._beat: Callable[[], object] = lambda: None
        super().__init__(  # type: ignore[no-untyped-call]
            None, registry=registry, group_by="url_rule", metrics_decorator=_documented
        )

    @override
    def init_app(self, app: Flask) -> None:
        """Add `/metrics` to `app`. A user's code finds this in `app.extensions["metrics"]`."""
        super().init_app(app)  # type: ignore[no-untyped-call]
        app.extensions["metrics"] = self

    def install(self, app: Flask, engine: EngineClient, beat: Callable[[], object]) -> None:
        """Add `/metrics` to `app`, with the metrics of `engine`. `beat` notes what this process
        holds: a scrape calls it first, since gthread does not call it every second.
        """
        self._beat = beat
        prometheus.register(self.registry, engine, whole_server=self._every is not None)
        self.init_app(app)

    @override
    def export_defaults(self, *_args: Any, **_named: Any) -> None:
        """Create the library's metrics of HTTP requests, without its hooks."""
        self._children: dict[tuple[str, str, int], tuple[Histogram, Counter]] = {}
        self._duration = Histogram(
            "flask_http_request_duration_seconds",
            "From the request, read whole, to its answer",
            ("method", "url_rule", "status"),
            registry=self.registry,
        )
        text, labels = "HTTP requests", ("method", "status")
        self._total = Counter("flask_http_request_total", text, labels, registry=self.registry)
        for method in ("GET", "POST"):  # the alert needs a first 0
            self._total.labels(method, str(INTERNAL))
        name, text = "brim_http_bytes_in_flight", "Bytes of bodies and unsent answers now"
        self._bytes = Gauge(name, text, registry=self.registry, multiprocess_mode="sum")
        text = "Requests that went beyond a limit, by its setting"
        limited = Counter("brim_http_limited", text, ("limit",), registry=self.registry)
        self._limited = {limit: limited.labels(limit) for limit in LIMITS}
        self._lanes = {
            field: Gauge(
                f"brim_lane_{field}",
                text,
                ("lane",),
                registry=self.registry,
                multiprocess_mode="sum",
            )
            for field, text in LANES.items()
        }

    @override
    def generate_metrics(
        self, accept_header: str | None = None, names: Sequence[str] | None = None
    ) -> tuple[str, str]:
        """Return the text of `registry` and its content type.

        The library's method leaves out custom collectors, such as the engine's, when
        `PROMETHEUS_MULTIPROC_DIR` is set.
        """
        self._beat()
        registry: Any = self._every or self.registry
        if names:
            registry = _Restricted(registry, names)
        write, content_type = choose_encoder(accept_header or "")
        return write(registry).decode(), content_type

    def tracks(self, request: Request) -> bool:
        """Whether `request` is counted; `do_not_track` and `exclude_all_metrics` mark it."""
        marks = vars(request)
        return "prom_do_not_track" not in marks and "prom_exclude_all" not in marks

    def note_lanes(self, lanes: Mapping[str, LaneLoad]) -> None:
        """Show what this process's threads do at this moment."""
        for lane, load in lanes.items():
            for field, gauge in self._lanes.items():
                gauge.labels(lane).set(getattr(load, field))

    def note(self, method: str, rule: str, begun_at: float, status: int) -> None:
        """Count an answered request that was read at `begun_at`, on `time.monotonic`."""
        key = method if method in METHODS else "other", rule, status
        if key not in self._children:
            labels = key[0], rule, str(status)
            total = self._total.labels(key[0], str(status))
            self._children[key] = self._duration.labels(*labels), total
        duration, total = self._children[key]
        duration.observe(time.monotonic() - begun_at)
        total.inc()

    def note_bytes(self, held: int) -> None:
        """Show how many bytes of bodies and answers this process holds at this moment."""
        self._bytes.set(held)

    def limited(self, limit: str) -> None:
        """Count what went beyond the limit of this name."""
        self._limited[limit].inc()


class _Restricted:
    """The samples with these names."""

    def __init__(self, registry: Any, names: Sequence[str]) -> None:
        self._registry = registry
        self._names = frozenset(names)

    def collect(self) -> Iterator[Metric]:
        """As a registry."""
        for metric in self._registry.collect():
            restricted = metric._restricted_metric(self._names)
            if restricted is not None:
                yield restricted


def share_values(folder: str, slot: int) -> None:
    """Keep the values of all metrics that are made from now on in files of `folder`, which all HTTP
    processes share. No other process has the same `slot`; the next one in it continues its values.

    By default the library names the files by process, so each restart would leave some behind.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    values.ValueClass = values.MultiProcessValue(lambda: slot)


def _documented(view: Callable[..., Any]) -> Callable[..., Any]:
    """Give the library's view the endpoint and the description that `/openapi.json` shows."""
    view.__name__ = "metrics"
    view.__doc__ = "Prometheus's metrics: the engine's, the last minute's and every HTTP request's."
    return EXPOSITION(view)
