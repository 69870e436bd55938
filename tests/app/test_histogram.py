"""A histogram of our own counts as prometheus_client's does."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from app.histogram import HistogramFamily
from app.metrics import SECONDS

VALUES = st.lists(st.one_of(st.floats(0, 100), st.sampled_from(SECONDS)), max_size=20)


@given(st.lists(VALUES, max_size=5))
def test_it_says_what_prometheus_s_own_would_say(batches: list[list[float]]) -> None:
    theirs = CollectorRegistry()
    one_by_one = Histogram("h", "Text", ["model"], buckets=SECONDS, registry=theirs).labels("m")
    ours = CollectorRegistry(auto_describe=True)
    at_once = HistogramFamily("h", "Text", SECONDS, ours).labels("m")
    for batch in batches:
        at_once.observe(batch)
        for value in batch:
            one_by_one.observe(value)
    said = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == said


def test_no_value_is_lost_between_threads() -> None:
    registry = CollectorRegistry()
    histogram = HistogramFamily("h", "Text", (1.0,), registry).labels("m")
    together = threading.Barrier(4)

    def count() -> None:
        together.wait()
        for _ in range(500):
            histogram.observe([0.5, 2.0])

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.get_sample_value("h_bucket", {"model": "m", "le": "1.0"}) == 2000
    assert registry.get_sample_value("h_count", {"model": "m"}) == 4000
    assert registry.get_sample_value("h_sum", {"model": "m"}) == 5000.0
