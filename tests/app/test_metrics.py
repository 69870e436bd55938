"""The metrics, read by name from a registry of the test's own."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import REFUSALS, Metrics
from engine.batching import Reason
from engine.buckets import Bucket
from engine.engine import Engine
from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    ExecutionFailed,
    ModelFailed,
    NonFiniteOutput,
    QueueFull,
    Refused,
    ShuttingDown,
)
from engine.observer import BatchReport, TicketReport
from engine.state import ModelState
from engine.testing import FakeClock, puppet_config
from tests.app.conftest import PATIENCE_S, PUPPET, Serve, Served

ON_THE_PAGE = {
    "p99_latency_ms",
    "requests_per_second",
    "batch_fill_rate",
    "queue_depth",
    "inference_error_rate",
}
"""What the front page promises of `/metrics`, by model."""


class Heard:
    """Metrics of an engine that never starts, and their numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics((PUPPET,), self.registry, FakeClock())
        self.metrics.watch(Engine((PUPPET,)))

    def __getitem__(self, name: str) -> float | None:
        """`requests_total{outcome=failed}`: without `brim_`, the model is the puppet."""
        name, _, inside = name.partition("{")
        labels = dict(part.split("=") for part in inside.rstrip("}").split(",") if part)
        return self.registry.get_sample_value(f"brim_{name}", {"model": "puppet", **labels})

    def page(self, name: str) -> float:
        """A number of the front page."""
        value = self.registry.get_sample_value(name, {"model": "puppet"})
        assert value is not None
        return value


@pytest.fixture
def heard() -> Heard:
    return Heard()


def batch(rows: int, reason: Reason = "full", failed: bool = False) -> BatchReport:
    times = {"gather_s": 0.001, "execute_s": 0.02, "scatter_s": 0.002}
    return BatchReport(Bucket(4), rows, reason, **times, failed=failed)


def ticket(error: BrimError | None = None, queue_s: float | None = 0.003) -> TicketReport:
    return TicketReport(rows=1, queue_s=queue_s, phases=None, latency_s=0.04, error=error)


def test_every_series_of_a_model_is_there_before_anything_happens(heard: Heard) -> None:
    # a rate over a series that does not exist yet is not 0, and no alert fires on it
    for outcome in ("succeeded", "failed", "expired", "cancelled", "refused"):
        assert heard[f"requests_total{{outcome={outcome}}}"] == 0
    for reason in ("full", "idle", "next", "held", "drain"):
        assert heard[f"batches_total{{reason={reason}}}"] == 0
    for error in ("Shed", "QueueFull", "TooManyWaiting", "NotReady", "ShuttingDown", "ModelFailed"):
        assert heard[f"refused_total{{error={error}}}"] == 0
    for name in ("failed_batches", "rows", "padded_rows"):
        assert heard[f"{name}_total"] == 0
    assert heard["slo_seconds"] == 0.5
    assert heard.registry.get_sample_value("compiles_after_ready_total") == 0


def test_every_way_to_be_turned_away_has_its_series() -> None:
    def leaves(kind: type[BrimError]) -> set[type[BrimError]]:
        below = {leaf for sub in kind.__subclasses__() for leaf in leaves(sub)}
        return below or {kind}

    assert set(REFUSALS) == leaves(Refused) | {ModelFailed}


def test_a_batch_counts_its_rows_its_padding_its_reason_and_its_time(heard: Heard) -> None:
    heard.metrics.batch_done("puppet", batch(3, "full"))
    heard.metrics.batch_done("puppet", batch(1, "idle"))
    assert (heard["rows_total"], heard["padded_rows_total"]) == (4, 4)
    assert heard["batches_total{reason=full}"] == 1
    assert heard["batches_total{reason=idle}"] == 1
    assert heard["batches_total{reason=held}"] == 0
    assert heard["execution_seconds_count"] == 2
    assert heard["execution_seconds_sum"] == pytest.approx(0.04)
    assert heard["execution_seconds_bucket{le=0.01}"] == 0
    assert heard["execution_seconds_bucket{le=0.025}"] == 2
    assert heard["batch_rows_bucket{le=1.0}"] == 1
    assert heard["batch_rows_bucket{le=4.0}"] == 2


def test_a_batch_that_failed_counts_as_such_and_moved_no_rows(heard: Heard) -> None:
    heard.metrics.batch_done("puppet", batch(3, "held", failed=True))
    assert heard["failed_batches_total"] == 1
    assert heard["batches_total{reason=held}"] == 1
    assert (heard["rows_total"], heard["padded_rows_total"]) == (0, 0)
    assert heard["execution_seconds_count"] == 0


@pytest.mark.parametrize(
    ("error", "outcome", "error_rate"),
    [
        pytest.param(None, "succeeded", 0, id="answered"),
        pytest.param(Cancelled("left"), "cancelled", 0, id="the client left"),
        pytest.param(DeadlineExceeded("late"), "expired", 1, id="too late"),
        pytest.param(ExecutionFailed("no"), "failed", 1, id="the device failed"),
        pytest.param(NonFiniteOutput("nan"), "failed", 1, id="the model made NaN"),
        pytest.param(ShuttingDown("bye", 1), "failed", 1, id="the server stopped first"),
    ],
)
def test_a_request_is_counted_once_by_how_it_ended(
    heard: Heard, error: BrimError | None, outcome: str, error_rate: float
) -> None:
    heard.metrics.tickets_done("puppet", [ticket(error)])
    counts = {
        name: heard[f"requests_total{{outcome={name}}}"]
        for name in ("succeeded", "failed", "expired", "cancelled", "refused")
    }
    assert counts == {name: float(name == outcome) for name in counts}
    assert heard["request_latency_seconds_sum"] == pytest.approx(0.04)
    assert heard["queue_wait_seconds_sum"] == pytest.approx(0.003)
    assert heard.page("inference_error_rate") == error_rate


def test_requests_that_end_together_are_all_counted_each_by_its_own_end(heard: Heard) -> None:
    ends = [None, Cancelled("left"), DeadlineExceeded("late"), None, ExecutionFailed("no")]
    heard.metrics.tickets_done("puppet", [ticket(error) for error in ends])
    names = ("succeeded", "cancelled", "expired", "failed")
    assert [heard[f"requests_total{{outcome={name}}}"] for name in names] == [2, 1, 1, 1]
    assert heard["request_latency_seconds_count"] == len(ends)
    assert heard["request_latency_seconds_sum"] == pytest.approx(5 * 0.04)
    assert heard.page("inference_error_rate") == 2 / 4


def test_the_p99_is_in_milliseconds_and_of_those_that_were_answered(heard: Heard) -> None:
    heard.metrics.tickets_done("puppet", [ticket()])
    for error in (Cancelled("left"), DeadlineExceeded("late")):
        heard.metrics.tickets_done("puppet", [TicketReport(1, None, None, 9.0, error)])
    assert heard.page("p99_latency_ms") == pytest.approx(40, rel=0.02)


def test_the_fill_is_that_of_the_batches_that_came_back(heard: Heard) -> None:
    heard.metrics.batch_done("puppet", batch(4))
    heard.metrics.batch_done("puppet", batch(2))
    heard.metrics.batch_done("puppet", batch(1, failed=True))
    assert heard.page("batch_fill_rate") == 0.75


def test_a_request_that_never_reached_the_device_has_no_queue_time(heard: Heard) -> None:
    heard.metrics.tickets_done("puppet", [ticket(DeadlineExceeded("late"), queue_s=None)])
    assert heard["queue_wait_seconds_count"] == 0
    assert heard["request_latency_seconds_count"] == 1


def test_a_refusal_is_counted_by_its_error(heard: Heard) -> None:
    heard.metrics.refused("puppet", 3, QueueFull("full", 1))
    assert heard["requests_total{outcome=refused}"] == 1
    assert heard["refused_total{error=QueueFull}"] == 1


def test_exactly_one_state_of_a_model_is_on(heard: Heard) -> None:
    for state in (ModelState.COMPILING, ModelState.READY):
        heard.metrics.state_changed("puppet", state, None)
    on = [s.value for s in ModelState if heard[f"model_state{{state={s.value}}}"]]
    assert on == ["ready"]


def test_a_bucket_s_measured_cost_can_be_read(heard: Heard) -> None:
    heard.metrics.proved("puppet", Bucket(2, 128), 0.25)
    assert heard["bucket_cost_seconds{bucket=2x128}"] == 0.25


# --- through an engine ----------------------------------------------------------------------------


def test_the_numbers_of_the_front_page_are_in_metrics_for_every_model(serve: Serve) -> None:
    names = ("first", "second")
    served = serve(*(puppet_config(name=name, rows=(4,)) for name in names))
    page = served.client.get("/metrics")
    assert page.status_code == 200
    samples = {
        (sample.name, sample.labels.get("model"))
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }
    assert {(number, name) for number in ON_THE_PAGE for name in names} <= samples
    assert ("memory_rss_bytes", None) in samples
    assert ("process_open_fds", None) in samples
    assert ("brim_ready", None) in samples


def test_before_the_first_request_there_is_no_percentile_and_no_error(served: Served) -> None:
    assert math.isnan(served.sample("p99_latency_ms", model="puppet") or 0)
    assert math.isnan(served.sample("batch_fill_rate", model="puppet") or 0)
    assert served.sample("requests_per_second", model="puppet") == 0
    assert served.sample("inference_error_rate", model="puppet") == 0


def test_requests_move_the_numbers(serve: Serve) -> None:
    clock = FakeClock()
    served = serve(clock=clock)
    for count in (1, 2, 3):
        assert served.infer(1.0).status_code == 200
        served.observer.wait_for("batch_done", count)
    served.device.fail_result = RuntimeError("the device is gone")
    assert served.infer(4.0).status_code == 500
    served.observer.wait_for("batch_done", 4)
    clock.advance(8)
    assert served.sample("requests_per_second", model="puppet") == 0.5
    assert served.sample("inference_error_rate", model="puppet") == 0.25
    assert served.sample("batch_fill_rate", model="puppet") == 0.25
    assert (served.sample("p99_latency_ms", model="puppet") or 0) < 1  # the clock stood still
    assert served.sample("brim_requests_total", model="puppet", outcome="succeeded") == 3
    assert served.sample("brim_requests_total", model="puppet", outcome="failed") == 1
    assert served.sample("brim_bucket_cost_seconds", model="puppet", bucket="4") is not None


def test_the_queue_and_the_batches_in_flight_are_those_of_this_moment(served: Served) -> None:
    served.hold()
    waiting = [served.infer_later(1.0)]
    served.wait_on_device()
    assert served.sample("brim_batches_in_flight", model="puppet") == 1
    assert served.sample("queue_depth", model="puppet") == 0
    served.release()
    assert [later.result(PATIENCE_S).status_code for later in waiting] == [200]
    assert served.sample("brim_batches_in_flight", model="puppet") == 0


def test_rows_that_wait_are_the_depth_of_the_queue(serve: Serve) -> None:
    served = serve(puppet_config(rows=(4,), in_flight=1))
    served.hold()
    first = served.infer_later(1.0)
    served.wait_on_device()
    later = served.infer_later(2.0, 3.0, 4.0)
    served.observer.wait_for("queued", 2)
    assert served.sample("queue_depth", model="puppet") == 3
    served.release()
    assert [r.result(PATIENCE_S).status_code for r in (first, later)] == [200, 200]
    assert served.sample("queue_depth", model="puppet") == 0


def test_resident_memory_is_what_the_kernel_says(served: Served) -> None:
    assert 10e6 < (served.sample("memory_rss_bytes") or 0) < 100e9


def test_readiness_is_a_number_too(served: Served) -> None:
    assert served.sample("brim_ready") == 1
    assert served.sample("brim_model_ready", model="puppet") == 1
    assert served.sample("brim_model_state", model="puppet", state="ready") == 1
    served.engine.drain()
    assert served.sample("brim_ready") == 0
    assert served.sample("brim_model_ready", model="puppet") == 0
    assert served.sample("brim_model_state", model="puppet", state="ready") == 0
    assert served.sample("brim_model_state", model="puppet", state="draining") == 1


def test_a_compilation_after_the_start_is_counted(served: Served) -> None:
    assert served.sample("compiles_after_ready_total") == 0
    (alarm,) = served.alarms
    alarm()
    assert served.sample("compiles_after_ready_total") == 1


def test_urls_that_do_not_exist_make_one_series_and_not_one_each(served: Served) -> None:
    for number in range(20):
        served.client.get(f"/nowhere/{number}")
        served.client.get(f"/v2/models/nobody-{number}")
    rules = {
        sample.labels.get("url_rule")
        for family in served.registry.collect()
        if family.name.startswith("flask_http_request")
        for sample in family.samples
    }
    assert rules == {None, "None", "/v2/models/<name>"}


def test_methods_that_clients_invent_are_one_series(served: Served) -> None:
    for method in ("BREW", "BREWA", "GET"):
        served.client.open("/healthz", method=method)
    methods = {
        sample.labels.get("method")
        for family in served.registry.collect()
        if family.name.startswith("flask_http_request")
        for sample in family.samples
    }
    assert methods - {None} == {"other", "GET"}


def test_a_scrape_is_not_counted_among_the_requests(served: Served) -> None:
    served.client.get("/metrics")
    assert "/metrics" not in {
        label
        for family in served.registry.collect()
        for sample in family.samples
        for label in sample.labels.values()
    }
