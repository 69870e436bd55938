"""One model's life, from loading to closed, on the test's own thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from engine.batcher import Batcher, SharedDevice
from engine.buckets import Bucket
from engine.config import ModelConfig
from engine.costs import Cost
from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    ExecutionFailed,
    InvalidRequest,
    ModelFailed,
    NonFiniteOutput,
    NotReady,
    QueueFull,
    Shed,
    ShuttingDown,
)
from engine.model import Model, Prepared
from engine.served_model import STALL_S, ServedModel
from engine.spec import LENGTH, Arrays, TensorSpec
from engine.state import ModelState
from engine.stats import Counts, MemoryUse, Progress
from engine.testing import (
    FakeClock,
    PuppetCompiler,
    PuppetExecutable,
    RecordingObserver,
    expected_rows,
    puppet_config,
    puppet_model,
    rows,
)
from engine.ticket import Ticket

LOADING, COMPILING, WARMING, READY, DRAINING, CLOSED, FAILED = ModelState

PATIENCE_S = 30.0

BUCKETS = (Bucket(1), Bucket(2), Bucket(4))
IDS = TensorSpec("ids", "INT64", (LENGTH,))


class Life:
    """A model that is served by puppets, and everything around it."""

    def __init__(self, clock: FakeClock, model: Model | BaseException, **config: Any) -> None:
        self.clock = clock
        self.observer = RecordingObserver()
        self.compiler = PuppetCompiler()
        self.loaded: Model | BaseException = model
        self.served = ServedModel(
            puppet_config(**config),
            self._load,
            self.compiler,
            self.observer,
            clock,
            SharedDevice(),
        )

    def _load(self, _config: ModelConfig) -> Model:
        if isinstance(self.loaded, BaseException):
            raise self.loaded
        return self.loaded

    def bring_up(self) -> Life:
        self.served.bring_up()
        return self

    @property
    def states(self) -> list[ModelState]:
        """As the observer heard of them."""
        return [state for _, state, _ in self.observer.named("state_changed")]

    @property
    def device(self) -> PuppetExecutable:
        """The largest bucket. It gets every batch: on a clock that stands still all cost the same,
        and of equals the larger wins.
        """
        return self.compiler.executables[self.served.config.grid.buckets[-1]]

    @property
    def counts(self) -> Counts:
        return self.served.stats().counts

    def hold(self) -> None:
        """Let the device wait for the test; what it said during the proof is forgotten."""
        while self.device.entered.acquire(blocking=False):
            pass
        self.device.hold()

    def occupy(self) -> Ticket:
        """One row is on the device and does not come back before `free`."""
        self.hold()
        ticket = self.served.submit(rows(0))
        assert self.device.entered.acquire(timeout=PATIENCE_S)
        return ticket

    def free(self) -> None:
        for puppet in self.compiler.executables.values():
            puppet.held = False
            puppet.proceed.release(1000)

    def infer(self, inputs: Arrays) -> Arrays:
        return self.served.result(self.served.submit(inputs))


LifeMaker = Callable[..., Life]


@pytest.fixture
def live(clock: FakeClock) -> Iterator[LifeMaker]:
    """`live(model, rows=(1, 2), ...)`: not brought up yet, and closed afterwards."""
    lives: list[Life] = []

    def make(model: Model | BaseException | None = None, **config: Any) -> Life:
        lives.append(Life(clock, puppet_model() if model is None else model, **config))
        return lives[-1]

    yield make
    for life in lives:
        life.free()
        life.served.close(PATIENCE_S)


@pytest.fixture
def ready(live: LifeMaker) -> Life:
    return live().bring_up()


def refusal(life: Life, inputs: Arrays | None = None) -> BrimError:
    with pytest.raises(BrimError) as caught:
        life.served.submit(rows(1) if inputs is None else inputs)
    return caught.value


# --- up -----------------------------------------------------------------------------------------


def test_a_model_comes_up_step_by_step_and_goes_down_the_same_way(ready: Life) -> None:
    assert ready.served.state is READY
    ready.served.close(PATIENCE_S)
    assert ready.states == [COMPILING, WARMING, READY, DRAINING, CLOSED]


def test_every_bucket_is_compiled_and_then_proved_and_somebody_hears(ready: Life) -> None:
    assert {bucket for _, bucket in ready.observer.named("compiled")} == set(BUCKETS)
    assert [bucket for _, bucket in ready.observer.named("proved")] == list(BUCKETS)
    assert set(ready.compiler.executables) == set(BUCKETS)


def test_a_ready_model_answers(ready: Life) -> None:
    assert np.array_equal(ready.infer(rows(1, 2))["y"], expected_rows(1, 2))
    assert ready.served.model is ready.loaded


def test_before_it_is_ready_a_model_says_how_far_it_is(live: LifeMaker) -> None:
    error = refusal(live())
    assert isinstance(error, NotReady)
    assert str(error) == "model 'puppet' is loading: 0 of 3 buckets are proven"
    assert error.retry_after_s == 1.0


def test_when_to_come_back_follows_from_what_is_done(live: LifeMaker) -> None:
    """After 12 s one of three buckets is proved and all are compiled: 4 of 6 steps."""
    life = live()
    errors: list[BrimError] = []

    def look(_model: str, bucket: Bucket, _seconds: float) -> None:
        if bucket == Bucket(1):
            life.clock.advance(12.0)
            errors.append(refusal(life))

    life.observer.proved = look  # type: ignore[method-assign]
    life.bring_up()
    assert str(errors[0]) == "model 'puppet' is warming: 1 of 3 buckets are proven"
    assert isinstance(errors[0], NotReady)
    assert errors[0].retry_after_s == pytest.approx(12 / 4 * 6 - 12)


def test_progress_stops_with_the_start_up(live: LifeMaker) -> None:
    life = live()
    assert life.served.stats().progress == Progress(0, 3, 0.0, None)
    life.bring_up()
    before = life.served.stats().progress
    life.clock.advance(100)
    life.served.drain()
    assert life.served.stats().progress == before == Progress(3, 3, 0.0, 0.0)


# --- what fails on the way up -------------------------------------------------------------------


def mixes_rows(inputs: Arrays) -> dict[str, Any]:
    return {"y": inputs["x"] - inputs["x"].mean(axis=0)}


def counts_padding(inputs: Arrays) -> dict[str, Any]:
    return {"y": inputs["x"] + np.isnan(inputs["x"]).sum()}


def gives_nan(inputs: Arrays) -> dict[str, Any]:
    return {"y": inputs["x"] * np.nan}


def no_weights(life: Life) -> None:
    life.loaded = FileNotFoundError("no weights")


def no_compiler(life: Life) -> None:
    life.compiler.fail = RuntimeError("no compiler")


@pytest.mark.parametrize(
    ("spoil", "reached", "reason"),
    [
        pytest.param(no_weights, [], "FileNotFoundError: no weights", id="load"),
        pytest.param(no_compiler, [COMPILING], "RuntimeError: no compiler", id="compile"),
        pytest.param(
            mixes_rows,
            [COMPILING, WARMING],
            "WarmupError: bucket 2, row 0: output 'y' is not finite for a golden row",
            id="rows-mix",
        ),
        pytest.param(
            counts_padding,
            [COMPILING, WARMING],
            "WarmupError: bucket 2, row 0: output 'y' is 2 away from what the row gives alone",
            id="padding-counts",
        ),
        pytest.param(
            gives_nan,
            [COMPILING, WARMING],
            "WarmupError: bucket 1, row 0: output 'y' is not finite for a golden row",
            id="nan",
        ),
    ],
)
def test_a_model_that_fails_on_its_way_up_says_why_to_everybody(
    live: LifeMaker,
    spoil: Callable[[Any], Any],
    reached: list[ModelState],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    life = live()
    if spoil in (no_weights, no_compiler):
        spoil(life)
    else:
        life.compiler.function = spoil
    life.bring_up()
    assert life.states == [*reached, FAILED]
    stats = life.served.stats()
    assert (stats.reason or "").startswith(reason)
    assert not stats.serving
    error = refusal(life)
    assert isinstance(error, ModelFailed)
    assert str(error) == f"model 'puppet' has failed: {stats.reason}"
    assert "model puppet failed to start" in caplog.text
    with pytest.raises(ModelFailed):
        _ = life.served.model


@pytest.mark.parametrize(
    ("model", "config", "reason"),
    [
        pytest.param(
            puppet_model(inputs=(IDS,)),
            {},
            "ValueError: the model has a dynamic axis; the config needs lengths = [...]",
            id="a-dynamic-axis-and-no-lengths",
        ),
        pytest.param(
            puppet_model(),
            {"lengths": (8,)},
            "ValueError: the model has no dynamic axis; the config must not give lengths",
            id="lengths-and-no-dynamic-axis",
        ),
        pytest.param(
            puppet_model(inputs=(IDS,), max_length=8),
            {"lengths": (8, 9)},
            "ValueError: lengths reach 9, but the model's own limit is 8",
            id="longer-than-the-model-can",
        ),
    ],
)
def test_axes_that_do_not_fit_the_config_fail_before_anything_is_compiled(
    live: LifeMaker, model: Model, config: dict[str, Any], reason: str
) -> None:
    life = live(model, **config).bring_up()
    assert life.states == [FAILED]
    assert life.served.stats().reason == reason
    assert life.compiler.executables == {}


def test_a_failed_model_stays_failed_until_it_is_closed(live: LifeMaker) -> None:
    life = live(RuntimeError("broken")).bring_up()
    life.served.fail("broken again")
    life.served.drain()
    assert life.served.stats().reason == "RuntimeError: broken"
    assert life.served.state is FAILED
    life.served.close(0.0)
    assert life.states == [FAILED, CLOSED]


# --- closed on the way up -----------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["compiled", "proved"])
def test_start_up_ends_cleanly_when_it_is_closed(live: LifeMaker, hook: str) -> None:
    life = live(compile_threads=1)
    before = set(threading.enumerate())
    setattr(life.observer, hook, lambda *_event: life.served.close(0.0))
    life.bring_up()
    assert life.served.state is CLOSED
    assert READY not in life.states
    assert FAILED not in life.states
    assert {t for t in set(threading.enumerate()) - before if "brim" in t.name} == set()


def test_what_is_not_compiled_yet_when_it_is_closed_never_is(
    live: LifeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = live(rows=tuple(range(1, 41)), compile_threads=1)
    life.compiler.gate = gate = threading.Semaphore(1)
    life.observer.compiled = lambda *_event: life.served.close(0.0)  # type: ignore[method-assign]
    shutdown = ThreadPoolExecutor.shutdown

    def open_the_gate_when_the_rest_is_cancelled(
        pool: ThreadPoolExecutor, *, wait: bool = True, cancel_futures: bool = False
    ) -> None:
        shutdown(pool, wait=False, cancel_futures=cancel_futures)
        gate.release(100)
        shutdown(pool, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", open_the_gate_when_the_rest_is_cancelled)
    life.bring_up()
    assert life.served.state is CLOSED
    assert len(life.compiler.executables) <= 2


def test_closed_between_the_proof_and_ready_nothing_is_served(
    live: LifeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = live()
    start = Batcher.start

    def start_late(batcher: Batcher) -> None:
        start(batcher)
        life.served.drain()

    monkeypatch.setattr(Batcher, "start", start_late)
    life.bring_up()
    assert life.states == [COMPILING, WARMING, DRAINING]
    assert isinstance(refusal(life), ShuttingDown)


def test_failed_on_its_way_up_from_outside_nothing_is_left_running(live: LifeMaker) -> None:
    life = live()
    life.observer.proved = lambda *_event: life.served.fail("forked")  # type: ignore[method-assign]
    life.bring_up()
    assert life.served.stats().reason == "forked"
    for thread in threading.enumerate():
        if thread.name.startswith("brim-"):
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


# --- one request --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        pytest.param({}, "x: tensor is missing; got none", id="missing"),
        pytest.param(rows(1) | {"z": np.zeros(1)}, "z: unexpected tensor", id="surplus"),
        pytest.param({"x": np.zeros((1, 2))}, "x: dtype float64 is not FP32", id="dtype"),
        pytest.param({"x": np.zeros((1, 3), np.float32)}, "x: shape", id="shape"),
        pytest.param({"x": np.zeros((0, 2), np.float32)}, "x: no rows", id="no-rows"),
        pytest.param(
            {"x": np.zeros((11, 2), np.float32)},
            "inputs: 11 rows never fit, expected 1 to 10",
            id="more-than-the-queue-can-ever-hold",
        ),
    ],
)
def test_a_clients_mistake_reaches_no_queue_and_no_count(
    live: LifeMaker, inputs: Arrays, problem: str
) -> None:
    life = live(max_queue_rows=10).bring_up()
    error = refusal(life, inputs)
    assert isinstance(error, InvalidRequest)
    assert str(error).startswith(problem)
    assert life.counts == Counts(*[0] * len(fields(Counts)))
    assert life.observer.named("queued") == life.observer.named("refused") == []


@pytest.mark.parametrize(
    ("length", "lane"),
    [pytest.param(1, 4, id="short"), pytest.param(4, 4, id="full"), pytest.param(5, 8, id="long")],
)
def test_a_request_waits_in_the_lane_of_its_length(live: LifeMaker, length: int, lane: int) -> None:
    life = live(puppet_model(inputs=(IDS,)), lengths=(4, 8))
    life.compiler.function = lambda inputs: {
        "y": np.tile(inputs["ids"][:, :1].astype(np.float32), 2)
    }
    life.bring_up()
    ticket = life.served.submit({"ids": np.full((1, length), 7, np.int64)})
    assert ticket.lane == lane
    assert life.served.result(ticket)["y"].tolist() == [[7, 7]]
    with pytest.raises(InvalidRequest, match="ids: length 9 does not fit, expected 1 to 8"):
        life.served.submit({"ids": np.zeros((1, 9), np.int64)})


@pytest.mark.parametrize(
    ("asked", "gets"),
    [
        pytest.param(None, 30.0, id="the-models-own"),
        pytest.param(2.0, 2.0, id="shorter"),
        pytest.param(99.0, 30.0, id="never-longer"),
        pytest.param(math.inf, 30.0, id="never-endless"),
        pytest.param(math.nan, 30.0, id="not-a-number-is-no-wish"),
    ],
)
def test_a_client_can_only_shorten_the_timeout(
    ready: Life, asked: float | None, gets: float
) -> None:
    ticket = ready.served.submit(rows(1), asked)
    assert ticket.deadline == ready.clock.now + gets
    assert ticket.wait(PATIENCE_S)


def test_the_time_that_preprocessing_takes_counts_against_the_deadline(live: LifeMaker) -> None:
    def preprocess(inputs: Arrays) -> Prepared:
        life.clock.advance(3.0)
        return Prepared(inputs, {"tokens": 5})

    model = puppet_model(preprocess=preprocess, device_inputs=puppet_model().inputs)
    life = live(model).bring_up()
    began = life.clock.now
    ticket = life.served.submit(rows(1))
    assert (ticket.enqueued_at, ticket.deadline) == (began, began + 30)
    assert ticket.prepared.parameters == {"tokens": 5}
    assert ticket.wait(PATIENCE_S)


def test_who_cannot_be_in_time_is_refused_before_a_preprocess_is_paid_for(live: LifeMaker) -> None:
    prepared: list[int] = []

    def preprocess(inputs: Arrays) -> Prepared:
        prepared.append(len(inputs["x"]))
        return Prepared(inputs)

    def slow(inputs: Arrays) -> dict[str, Any]:
        life.clock.advance(2.0)
        return {"y": inputs["x"]}

    model = puppet_model(preprocess=preprocess, device_inputs=puppet_model().inputs)
    life = live(model, rows=(1,))
    life.compiler.function = slow
    life.bring_up()
    ticket = life.occupy()
    prepared.clear()
    with pytest.raises(
        Shed, match=r"within 3 s cannot be promised: it may take 4 s, 0 rows"
    ) as refused:
        life.served.submit(rows(1), 3.0)
    assert refused.value.retry_after_s == 1.0
    assert prepared == []
    assert (life.counts.refused, life.counts.shed) == (1, 1)
    life.free()
    assert ticket.wait(PATIENCE_S)


# --- hooks on the host --------------------------------------------------------------------------


def hooked(**hooks: Any) -> Model:
    plain = puppet_model()
    return puppet_model(device_inputs=plain.inputs, device_outputs=plain.outputs, **hooks)


def test_hooks_stand_between_the_client_and_the_device(live: LifeMaker) -> None:
    life = live(
        hooked(
            preprocess=lambda inputs: Prepared({"x": inputs["x"] + 1}),
            postprocess=lambda outputs: {"y": outputs["y"] * 10},
        )
    ).bring_up()
    assert life.infer({"x": np.array([[1, 2]], np.float32)})["y"].tolist() == [[50, 70]]


def raises(error: Exception) -> Callable[[Any], Any]:
    def hook(_arrays: Any) -> Any:
        raise error

    return hook


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        pytest.param(
            ZeroDivisionError("bug"), ExecutionFailed, "preprocess failed: bug", id="its-own-bug"
        ),
        pytest.param(
            InvalidRequest("x", "no image"), InvalidRequest, "x: no image", id="a-clients-mistake"
        ),
    ],
)
def test_what_preprocessing_raises_is_a_typed_error_and_reaches_no_queue(
    live: LifeMaker, error: Exception, kind: type[BrimError], message: str
) -> None:
    life = live(hooked(preprocess=raises(error))).bring_up()
    refused = refusal(life)
    assert type(refused) is kind
    assert str(refused) == message
    assert error in (refused, refused.__cause__)
    assert life.counts.accepted == 0


def test_the_wire_is_checked_before_preprocessing_sees_it(live: LifeMaker) -> None:
    life = live(hooked(preprocess=raises(AssertionError("must not be called")))).bring_up()
    assert isinstance(refusal(life, {}), InvalidRequest)


def test_what_preprocessing_made_is_checked_too(live: LifeMaker) -> None:
    life = live(hooked(preprocess=lambda _inputs: Prepared({}))).bring_up()
    with pytest.raises(InvalidRequest, match="x: tensor is missing"):
        life.served.submit(rows(1))


def test_what_postprocessing_raises_is_a_typed_error(live: LifeMaker) -> None:
    life = live(hooked(postprocess=raises(ZeroDivisionError("bug")))).bring_up()
    with pytest.raises(ExecutionFailed, match="postprocess failed: bug") as caught:
        life.infer(rows(1))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# --- counts -------------------------------------------------------------------------------------


def test_every_accepted_request_is_counted_with_its_one_outcome(live: LifeMaker) -> None:
    life = live(in_flight=1, max_queue_rows=4).bring_up()

    def function(inputs: Arrays) -> dict[str, Any]:
        return {"y": np.where(inputs["x"] == 13, np.nan, inputs["x"])}

    life.device.function = function
    first = life.occupy()
    good, bad, late, gone = (
        life.served.submit(rows(value), timeout_s)
        for value, timeout_s in ((1, None), (13, None), (2, 1.0), (3, None))
    )
    assert isinstance(refusal(life), QueueFull)
    gone.cancel()
    life.clock.advance(1.0)
    with pytest.raises(DeadlineExceeded):
        late.result()
    life.free()
    for ticket in (first, good):
        life.served.result(ticket)
    with pytest.raises(NonFiniteOutput):
        bad.result()
    life.observer.wait_for("batch_done", 2)
    assert life.counts == Counts(
        accepted=5,
        refused=1,
        shed=0,
        succeeded=2,
        failed=1,
        expired=1,
        cancelled=1,
        batches=2,
        batches_failed=0,
        rows=3,
        rows_answered=2,
        padded_rows=5,
    )
    assert [rows for _, rows, _ in life.observer.named("refused")] == [1]
    assert sum(rows for _, rows in life.observer.named("queued")) == 5


def test_a_failed_batch_and_its_padding_are_counted(ready: Life) -> None:
    ready.device.fail_result = RuntimeError("boom")
    with pytest.raises(ExecutionFailed):
        ready.infer(rows(1, 2, 3))
    ready.observer.wait_for("batch_done")
    counts = ready.counts
    assert (counts.batches, counts.batches_failed) == (1, 1)
    assert (counts.rows, counts.padded_rows) == (3, 1)
    assert (counts.failed, counts.succeeded) == (1, 0)


def test_a_ticket_reports_where_its_time_went(live: LifeMaker) -> None:
    life = live(in_flight=1).bring_up()
    first = life.occupy()
    second = life.served.submit(rows(1))
    third = life.served.submit(rows(2))
    life.clock.advance(2.0)
    third.cancel()
    life.free()
    for ticket in (first, second):
        life.served.result(ticket)
    reports = [report for _, report in life.observer.wait_for("ticket_done", 3)]
    assert [(r.queue_s, r.latency_s, type(r.error)) for r in reports] == [
        (None, 2.0, Cancelled),
        (0.0, 2.0, type(None)),
        (2.0, 2.0, type(None)),
    ]


def test_every_refusal_is_counted_once_and_with_its_rows_where_they_are_known(
    live: LifeMaker,
) -> None:
    life = live(in_flight=1, max_queue_rows=4)
    refused = [refusal(life)]
    life.bring_up().occupy()
    life.served.submit(rows(1, 2, 3))
    refused.append(refusal(life, rows(4, 5)))
    life.served.drain()
    refused.append(refusal(life))
    assert [type(error) for error in refused] == [NotReady, QueueFull, ShuttingDown]
    heard = life.observer.named("refused")
    assert heard == [
        ("puppet", count, error) for count, error in zip((0, 2, 0), refused, strict=True)
    ]
    assert life.counts.refused == 3


# --- what it says of itself ---------------------------------------------------------------------


def test_the_stats_know_the_costs_and_the_memory_once_they_are_known(live: LifeMaker) -> None:
    life = live(required=False)
    stats = life.served.stats()
    assert (stats.cost_table, stats.memory, stats.state) == ((), None, LOADING)
    assert not stats.serving
    life.bring_up()
    stats = life.served.stats()
    assert stats.cost_table == tuple(
        Cost(b.rows, None, 1e-9, 1e-9, dominated=b.rows < 4) for b in BUCKETS
    )
    assert isinstance(stats.memory, MemoryUse)
    assert [bucket[:2] for bucket in stats.memory.buckets] == [(1, None), (2, None), (4, None)]
    assert (stats.name, stats.required, stats.serving) == ("puppet", False, True)


def test_the_stats_show_what_waits_and_what_is_on_its_way(live: LifeMaker) -> None:
    life = live(in_flight=1).bring_up()
    life.occupy()
    life.served.submit(rows(1, 2))
    stats = life.served.stats()
    assert (stats.queued_rows, stats.queued_requests, stats.in_flight) == (2, 1, 1)


@pytest.mark.parametrize(
    ("seconds", "serving"),
    [
        pytest.param(STALL_S - 1, True, id="long-but-not-absurd"),
        pytest.param(STALL_S + 1, False, id="overdue-beyond-doubt"),
    ],
)
def test_a_device_that_does_not_answer_is_no_longer_served(
    ready: Life, seconds: float, serving: bool
) -> None:
    ticket = ready.occupy()
    ready.clock.advance(seconds)
    stats = ready.served.stats()
    assert stats.serving is serving
    assert stats.stalled_s == (0.0 if serving else seconds)
    ready.free()
    assert ticket.wait(PATIENCE_S)
    ready.observer.wait_for("batch_done")
    assert ready.served.stats().serving


def test_a_dear_bucket_may_take_longer_before_it_counts_as_stuck(live: LifeMaker) -> None:
    life = live(rows=(1,))

    def slow(inputs: Arrays) -> dict[str, Any]:
        life.clock.advance(5.0)
        return {"y": inputs["x"]}

    life.compiler.function = slow
    life.bring_up()
    life.occupy()
    life.clock.advance(STALL_S + 20 * 5.0)
    assert life.served.stats().serving
    life.clock.advance(1.0)
    assert not life.served.stats().serving


# --- a thread dies, and the end -----------------------------------------------------------------


class Death(BaseException):
    """No `Exception`: nothing that a batch could survive."""


def test_when_a_thread_dies_the_model_has_failed(ready: Life) -> None:
    ready.device.fail_launch = Death()
    with pytest.raises(ModelFailed, match="brim-batcher-puppet died: Death"):
        ready.infer(rows(1))
    ready.observer.wait_for("state_changed", 4)
    stats = ready.served.stats()
    assert stats.state is FAILED
    assert stats.reason == "brim-batcher-puppet died: Death()"
    assert not stats.serving


def test_a_draining_model_refuses_and_finishes_what_is_there(ready: Life) -> None:
    ticket = ready.occupy()
    waiting = ready.served.submit(rows(1))
    ready.served.drain()
    error = refusal(ready)
    assert isinstance(error, ShuttingDown)
    assert error.retry_after_s == 1.0
    assert not ready.served.stats().serving
    ready.free()
    assert np.array_equal(ready.served.result(ticket)["y"], expected_rows(0))
    assert np.array_equal(ready.served.result(waiting)["y"], expected_rows(1))


def test_a_closed_model_has_answered_everybody(ready: Life) -> None:
    computing = ready.occupy()
    ready.served.close(0.0)
    with pytest.raises(ShuttingDown):
        ready.served.result(computing)
    assert ready.counts.accepted == ready.counts.failed == 1
    assert isinstance(refusal(ready), ShuttingDown)


def test_close_is_idempotent_and_may_come_before_anything_else(live: LifeMaker) -> None:
    life = live()
    life.served.close(0.0)
    life.served.close(0.0)
    assert life.states == [DRAINING, CLOSED]
    assert isinstance(refusal(life), ShuttingDown)


def test_an_observer_that_breaks_does_not_break_the_model(live: LifeMaker) -> None:
    life = live()
    for hook in ("state_changed", "compiled", "proved", "queued", "batch_done", "tickets_done"):
        setattr(life.observer, hook, raises(ZeroDivisionError()))
    life.bring_up()
    assert np.array_equal(life.infer(rows(1))["y"], expected_rows(1))
    ready_again = life.infer(rows(2))
    assert np.array_equal(ready_again["y"], expected_rows(2))
    assert life.counts.succeeded == 2
