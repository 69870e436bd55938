"""A histogram that takes the values of a whole batch at once.

May touch: prometheus_client, threading.

prometheus_client's own takes one value at a time, with two locks and a walk along the edges for
each: counting two durations a request cost as much as all else that is observed of it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString


class Histogram:
    """One model's values. Any thread may call anything."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = (*edges, INF)
        self._lock = threading.Lock()
        self._counts = [0] * len(self._edges)
        self._sum = 0.0

    def observe(self, values: Iterable[float]) -> None:
        """Count them. A value on an edge belongs to what is below."""
        edges, counts = self._edges, self._counts
        with self._lock:
            for value in values:
                counts[bisect_left(edges, value)] += 1
                self._sum += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """How many are at most as large as each edge, and the sum of all."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        return list(zip(map(floatToGoString, self._edges), accumulate(counts), strict=True)), total


class HistogramFamily(Collector):
    """One histogram per model, under one name."""

    def __init__(
        self, name: str, text: str, edges: tuple[float, ...], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._edges = name, text, edges
        self._models: dict[str, Histogram] = {}
        registry.register(self)

    def labels(self, model: str) -> Histogram:
        """Make the histogram of one model."""
        self._models[model] = Histogram(self._edges)
        return self._models[model]

    def collect(self) -> Iterator[Metric]:
        """Prometheus asks."""
        family = HistogramMetricFamily(self._name, self._text, labels=["model"])
        for model, histogram in self._models.items():
            buckets, total = histogram.read()
            family.add_metric([model], buckets, total)
        yield family
