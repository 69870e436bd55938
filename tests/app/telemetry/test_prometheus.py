"""The engine's metrics, read by name from a registry of the test's own."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.prometheus import REFUSALS, register
from engine.api import OUTCOMES
from engine.compilation.interface import Memory
from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    DeadlineTooShort,
    ExecutionFailed,
    ModelFailed,
    NonFiniteOutput,
    QueueFull,
    Refused,
    ShuttingDown,
)
from engine.models.model import ModelState
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import Cost
from engine.scheduling.scheduler import Reason
from engine.telemetry.events import BatchReport, RequestReport
from engine.telemetry.recorder import ModelRecorder
from engine.telemetry.snapshots import (
    EngineSnapshot,
    LoadSnapshot,
    MemoryUse,
    ModelSnapshot,
    Progress,
)
from engine.testing import FakeClock, puppet_config
from tests.app.conftest import PATIENCE_S, PUPPET, Serve, Served

ON_THE_PAGE = {
    "p99_latency_ms",
    "requests_per_second",
    "batch_fill_rate",
    "queue_depth",
    "inference_error_rate",
}
"""What README promises of `/metrics`, by model."""


class Scraped:
    """What a recorder has recorded of one model, as its metrics show it."""

    def __init__(self) -> None:
        self.recorder = ModelRecorder(FakeClock())
        self.state = ModelState.LOADING
        self.cost_table: tuple[Cost, ...] = ()
        self.memory: MemoryUse | None = None
        self.registry = CollectorRegistry()
        register(self.registry, self)

    def snapshot(self) -> EngineSnapshot:
        model = ModelSnapshot(
            name="puppet",
            version="1",
            state=self.state,
            reason=None,
            required=True,
            progress=Progress(0, 1, 0.0, None),
            load=LoadSnapshot(),
            activity=self.recorder.activity(),
            cost_table=self.cost_table,
            memory=self.memory,
        )
        return EngineSnapshot((model,), compiles_after_ready=0)

    def endpoint(self, name: str) -> SimpleNamespace:
        assert name == PUPPET.name
        return SimpleNamespace(config=PUPPET)

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
def scraped() -> Scraped:
    return Scraped()


def batch(rows: int, reason: Reason = "full", failed: bool = False) -> BatchReport:
    times = {"gather_s": 0.001, "execute_s": 0.02, "scatter_s": 0.002}
    return BatchReport(Bucket(4), rows, reason, **times, failed=failed)


def request(error: BrimError | None = None, queue_s: float | None = 0.003) -> RequestReport:
    return RequestReport(rows=1, queue_s=queue_s, phases=None, latency_s=0.04, error=error)


def test_every_series_of_a_model_is_there_before_anything_happens(scraped: Scraped) -> None:
    # a rate over a series that does not exist yet is not 0, and no alert fires on it
    for outcome in (*OUTCOMES, "refused"):
        assert scraped[f"requests_total{{outcome={outcome}}}"] == 0
    for reason in ("full", "idle", "next", "held", "drain"):
        assert scraped[f"batches_total{{reason={reason}}}"] == 0
    for error in ("Shed", "QueueFull", "TooManyWaiting", "NotReady", "ShuttingDown", "ModelFailed"):
        assert scraped[f"refused_total{{error={error}}}"] == 0
    for name in ("failed_batches", "rows", "padded_rows"):
        assert scraped[f"{name}_total"] == 0
    assert scraped["slo_seconds"] == 0.5
    assert scraped.registry.get_sample_value("compiles_after_ready_total") == 0


def test_every_error_that_refuses_a_request_has_its_series() -> None:
    def leaves(kind: type[BrimError]) -> set[type[BrimError]]:
        below = {leaf for sub in kind.__subclasses__() for leaf in leaves(sub)}
        return below or {kind}

    assert set(REFUSALS) == leaves(Refused) | {DeadlineTooShort, ModelFailed}


def test_a_batch_counts_its_rows_its_padding_its_reason_and_its_time(scraped: Scraped) -> None:
    scraped.recorder.batch_done("puppet", batch(3, "full"))
    scraped.recorder.batch_done("puppet", batch(1, "idle"))
    assert (scraped["rows_total"], scraped["padded_rows_total"]) == (4, 4)
    assert scraped["batches_total{reason=full}"] == 1
    assert scraped["batches_total{reason=idle}"] == 1
    assert scraped["batches_total{reason=held}"] == 0
    assert scraped["execution_seconds_count"] == 2
    assert scraped["execution_seconds_sum"] == pytest.approx(0.04)
    assert scraped["execution_seconds_bucket{le=0.01}"] == 0
    assert scraped["execution_seconds_bucket{le=0.025}"] == 2
    assert scraped["batch_rows_bucket{le=1.0}"] == 1
    assert scraped["batch_rows_bucket{le=4.0}"] == 2


def test_a_failed_batch_is_counted_by_reason_and_its_rows_are_not(scraped: Scraped) -> None:
    scraped.recorder.batch_done("puppet", batch(3, "held", failed=True))
    assert scraped["failed_batches_total"] == 1
    assert scraped["batches_total{reason=held}"] == 1
    assert (scraped["rows_total"], scraped["padded_rows_total"]) == (0, 0)
    assert scraped["execution_seconds_count"] == 0


@pytest.mark.parametrize(
    ("error", "outcome", "error_rate"),
    [
        pytest.param(None, "succeeded", 0, id="answered"),
        pytest.param(Cancelled("left"), "cancelled", 0, id="the client left"),
        pytest.param(DeadlineExceeded("late"), "expired", 1, id="too late"),
        pytest.param(ExecutionFailed("no"), "failed", 1, id="the device failed"),
        pytest.param(NonFiniteOutput("nan"), "nonfinite", 0, id="its rows made NaN"),
        pytest.param(ShuttingDown("bye", 1), "failed", 1, id="the server stopped first"),
    ],
)
def test_a_request_is_counted_once_by_its_outcome(
    scraped: Scraped, error: BrimError | None, outcome: str, error_rate: float
) -> None:
    scraped.recorder.requests_done("puppet", [request(error)])
    counts = {name: scraped[f"requests_total{{outcome={name}}}"] for name in (*OUTCOMES, "refused")}
    assert counts == {name: float(name == outcome) for name in counts}
    assert scraped["request_latency_seconds_sum"] == pytest.approx(0.04)
    assert scraped["queue_wait_seconds_sum"] == pytest.approx(0.003)
    assert scraped.page("inference_error_rate") == error_rate


def test_a_deadline_of_the_clients_own_is_no_error_of_the_server(scraped: Scraped) -> None:
    late = request(DeadlineExceeded("late"))
    scraped.recorder.requests_done("puppet", [late, late._replace(own_deadline=True)])
    assert scraped["requests_total{outcome=expired}"] == 1
    assert scraped["requests_total{outcome=own_deadline}"] == 1
    scraped.recorder.requests_done("puppet", [request()])
    assert scraped.page("inference_error_rate") == 1 / 2


def test_requests_that_end_together_are_each_counted_by_their_own_outcome(scraped: Scraped) -> None:
    ends = [None, Cancelled("left"), DeadlineExceeded("late"), None, ExecutionFailed("no")]
    scraped.recorder.requests_done("puppet", [request(error) for error in ends])
    names = ("succeeded", "cancelled", "expired", "failed")
    assert [scraped[f"requests_total{{outcome={name}}}"] for name in names] == [2, 1, 1, 1]
    assert scraped["request_latency_seconds_count"] == len(ends)
    assert scraped["request_latency_seconds_sum"] == pytest.approx(5 * 0.04)
    assert scraped.page("inference_error_rate") == 2 / 4


def test_the_p99_is_in_milliseconds_and_of_requests_that_succeeded(scraped: Scraped) -> None:
    scraped.recorder.requests_done("puppet", [request()])
    for error in (Cancelled("left"), DeadlineExceeded("late")):
        scraped.recorder.requests_done("puppet", [RequestReport(1, None, None, 9.0, error)])
    assert scraped.page("p99_latency_ms") == pytest.approx(40, rel=0.02)


def test_the_fill_is_that_of_completed_batches(scraped: Scraped) -> None:
    scraped.recorder.batch_done("puppet", batch(4))
    scraped.recorder.batch_done("puppet", batch(2))
    scraped.recorder.batch_done("puppet", batch(1, failed=True))
    assert scraped.page("batch_fill_rate") == 0.75


def test_a_request_that_was_not_dispatched_has_no_queue_wait(scraped: Scraped) -> None:
    scraped.recorder.requests_done("puppet", [request(DeadlineExceeded("late"), queue_s=None)])
    assert scraped["queue_wait_seconds_count"] == 0
    assert scraped["request_latency_seconds_count"] == 1


def test_a_refusal_is_counted_by_its_error(scraped: Scraped) -> None:
    scraped.recorder.refused("puppet", 3, QueueFull("full", 1))
    assert scraped["requests_total{outcome=refused}"] == 1
    assert scraped["refused_total{error=QueueFull}"] == 1


def test_exactly_one_state_of_a_model_is_on(scraped: Scraped) -> None:
    scraped.state = ModelState.READY
    on = [s.value for s in ModelState if scraped[f"model_state{{state={s.value}}}"]]
    assert on == ["ready"]


def test_a_bucket_s_measured_cost_can_be_read(scraped: Scraped) -> None:
    scraped.cost_table = (Cost(2, 128, seconds=0.5, measured_s=0.25, dominated=False),)
    assert scraped["bucket_cost_seconds{bucket=2x128}"] == 0.25


def test_device_memory_has_a_series_per_kind_once_it_is_known(scraped: Scraped) -> None:
    assert scraped["device_memory_bytes{kind=weights}"] is None
    memory = Memory(inputs=1, outputs=2, temporary=3, code=10)
    scraped.memory = MemoryUse(weights=100, buckets=((4, None, memory),))
    assert scraped["device_memory_bytes{kind=weights}"] == 100
    assert scraped["device_memory_bytes{kind=code}"] == 10
    assert scraped["device_memory_bytes{kind=peak_batch}"] == 6


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


def test_the_queue_depth_counts_queued_rows(serve: Serve) -> None:
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
