"""One request through shared memory: every outcome, every size, and what is left behind."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    DeadlineTooShort,
    ExecutionFailed,
    InvalidRequest,
    NonFiniteOutput,
    NotReady,
    QueueFull,
    RequestTooLarge,
)
from engine.models.model import Model, ModelState
from engine.models.processor import Prepared
from engine.models.tensors import LENGTH, Arrays, TensorSpec
from engine.testing import (
    PUPPET_SPEC_IN,
    PuppetCompiler,
    expected_rows,
    puppet_config,
    puppet_model,
    rows,
    texts,
)
from engine.transport.client import link as links
from engine.transport.client.result import RemoteResult
from engine.transport.protocol.memory import SharedMemory
from engine.transport.protocol.messages import Withdraw
from tests.engine.transport.conftest import MakeRig
from tests.shared_memory import PATIENCE_S, Rig

SLAB = 1 << links.SLAB_ORDER


def error_of(result: RemoteResult) -> BrimError:
    with pytest.raises(BrimError) as raised:
        result.result()
    result.release()
    return raised.value


# --- answers --------------------------------------------------------------------------------------


def test_rows_are_answered_and_their_memory_comes_back(rig: Rig) -> None:
    result = rig.submit(1.0, 2.0, 3.0)
    np.testing.assert_array_equal(result.result()["y"], expected_rows(1.0, 2.0, 3.0))
    assert rig.free_bytes() < SLAB
    result.release()
    result.release()
    assert rig.free_bytes() == SLAB


def test_requests_of_many_batches_and_sizes_are_not_mixed_up(make_rig: MakeRig) -> None:
    rig = make_rig(puppet_config(max_queue_rows=100_000))

    @settings(max_examples=30)
    @given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.booleans())
    def check(sizes: list[int], together: bool) -> None:
        values = [[float(100 * n + row) for row in range(size)] for n, size in enumerate(sizes)]
        if together:
            with rig.client.coalesce():
                results = [rig.submit(*some) for some in values]
        else:
            results = [rig.submit(*some) for some in values]
        for result, some in zip(results, values, strict=True):
            np.testing.assert_array_equal(result.result()["y"], expected_rows(*some))
            result.release()
        assert rig.free_bytes() == SLAB

    check()


def test_what_is_submitted_inside_coalesce_is_one_batch(make_rig: MakeRig) -> None:
    rig = make_rig(puppet_config(rows=(4,)))
    before = len(rig.observer.named("batch_done"))
    with rig.client.coalesce():
        results = [rig.submit(float(value)) for value in range(4)]
        assert not any(result.ready for result in results)
    for result in results:
        result.result()
        result.release()
    (report,) = [report for _, report in rig.observer.wait_for("batch_done", before + 1)[before:]]
    assert (report.bucket.rows, report.rows) == (4, 4)


def test_waiting_inside_coalesce_publishes_first(rig: Rig) -> None:
    with rig.client.coalesce():
        assert rig.ask(1.0) == {"y": [[3.0, -1.0]]}


def test_a_listener_is_called_once_for_a_batch(make_rig: MakeRig) -> None:
    rig = make_rig(puppet_config(rows=(4,)))
    rig.hold()
    called = threading.Semaphore(0)
    calls: list[list[RemoteResult]] = []

    def listener(results: Sequence[RemoteResult]) -> None:
        calls.append(list(results))
        called.release()

    with rig.client.coalesce():
        results = [rig.submit(float(value)) for value in range(4)]
    for result in results:
        result.on_ready(listener)
    rig.release()
    assert called.acquire(timeout=PATIENCE_S)
    assert calls == [results]
    results[0].on_ready(listener)
    assert calls[1] == [results[0]], "at once, where there is an outcome"
    for result in results:
        result.release()


def test_a_host_that_watches_takes_the_outcomes_itself(rig: Rig) -> None:
    fd, take = rig.client.watch()
    result = rig.submit(1.0)
    assert fd >= 0
    assert not result.wait(0.05), "no thread took it"
    rig.until(lambda: bool(take(1) or result.ready))
    assert result.result()["y"].tolist() == [[3.0, -1.0]]
    result.release()
    assert "brim-outcomes" not in {thread.name for thread in threading.enumerate()}


def test_a_dynamic_length_is_that_of_the_request(make_rig: MakeRig) -> None:
    spec = TensorSpec("x", "FP32", (LENGTH,), pad=0.0)
    model = puppet_model(inputs=(spec,), outputs=(TensorSpec("y", "FP32", (LENGTH,)),))
    rig = make_rig(puppet_config(lengths=(4, 8)), load=lambda _config: model)
    for length in (1, 3, 4, 5, 8):
        array = np.arange(2 * length, dtype=np.float32).reshape(2, length)
        assert rig.ask(inputs={"x": array})["y"] == (array * 2 + 1).tolist()
    assert rig.free_bytes() == SLAB


def test_a_64_bit_output_comes_in_64_bits(make_rig: MakeRig) -> None:
    model = puppet_model(
        inputs=(TensorSpec("x", "INT64", (2,)),), outputs=(TensorSpec("y", "INT64", (2,)),)
    )
    rig = make_rig(load=lambda _config: model)
    result = rig.submit(inputs={"x": np.array([[7, -7]])})
    assert result.result()["y"].dtype == np.int64
    assert result.result()["y"].tolist() == [[15, -13]]
    result.release()


def test_a_request_larger_than_the_slab_allows_has_memory_of_its_own(make_rig: MakeRig) -> None:
    wide = TensorSpec("x", "FP32", (1 << 20,), pad=0.0)  # 4 MiB a row, and as much for the answer
    model = puppet_model(inputs=(wide,), outputs=(TensorSpec("y", "FP32", (1 << 20,)),))
    rig = make_rig(puppet_config(rows=(1, 4)), load=lambda _config: model)
    for count in (4, 1, 3):
        array = np.random.default_rng(count).normal(size=(count, 1 << 20)).astype(np.float32)
        result = rig.submit(inputs={"x": array})
        np.testing.assert_array_equal(result.result()["y"], array * 2 + 1)
        result.release()
        assert rig.free_bytes() == SLAB


# --- hooks ----------------------------------------------------------------------------------------

TEXT = TensorSpec("text", "BYTES")


def lengths_of(inputs: Arrays) -> Prepared:
    """The length of each text, twice; the word `bad` is invalid."""
    if b"bad" in inputs["text"]:
        raise InvalidRequest("text", "got bad, expected good")
    found = np.array([[len(text)] * 2 for text in inputs["text"]], np.float32)
    return Prepared({"x": found}, {"longest": int(found.max())}, tokens=int(found[:, 0].sum()))


def as_texts(outputs: Arrays) -> Arrays:
    """The first number of each row as a text."""
    return texts(*[str(row[0]) * REPEAT for row in outputs["y"]])


REPEAT = 1


def hooked_model() -> Model:
    return puppet_model(
        inputs=(TEXT,),
        outputs=(TEXT,),
        device_inputs=(PUPPET_SPEC_IN,),
        device_outputs=(TensorSpec("y", "FP32", (2,)),),
        preprocess=lengths_of,
        postprocess=as_texts,
    )


@pytest.fixture
def hooked(make_rig: MakeRig) -> Rig:
    return make_rig(load=lambda _config: hooked_model())


def test_hooks_of_a_closure_run_beside_the_engine(hooked: Rig) -> None:
    interface = hooked.client.endpoint("puppet").interface
    assert (interface.hooked, interface.processor.preprocess) == (True, None)
    result = hooked.submit(inputs=texts("a", "", "grüße"))
    assert result.result()["text"].tolist() == [b"3.0", b"1.0", b"15.0"]
    assert result.request.prepared.parameters == {"longest": 7}
    assert result.request.prepared.tokens == 8
    result.release()
    assert hooked.free_bytes() == SLAB


def test_an_answer_larger_than_its_block_comes_in_memory_of_its_own(
    hooked: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "REPEAT", 100_000)
    result = hooked.submit(inputs=texts("a"))
    assert result.result()["text"].tolist() == [b"3.0" * 100_000]
    result.release()
    assert hooked.free_bytes() == SLAB


def test_a_text_larger_than_the_slab_allows_arrives(hooked: Rig) -> None:
    assert hooked.ask(inputs=texts("x" * 10_000_000)) == {"text": [b"2e+07"]}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [("bad", InvalidRequest, "text: got bad, expected good"), (b"\xff", None, "")],
)
def test_an_error_of_a_hook_is_the_outcome(
    hooked: Rig, text: str | bytes, kind: type[BrimError] | None, message: str
) -> None:
    result = hooked.submit(inputs=texts(text))
    if kind is None:
        assert result.result()["text"].tolist() == [b"3.0"]
        result.release()
    else:
        error = error_of(result)
        assert (type(error), str(error)) == (kind, message)
    assert hooked.free_bytes() == SLAB


def test_a_hook_that_fails_fails_its_own_request(make_rig: MakeRig) -> None:
    def fail(_outputs: Arrays) -> Arrays:
        raise ZeroDivisionError("in the hook")

    model = puppet_model(postprocess=fail, device_outputs=(TensorSpec("y", "FP32", (2,)),))
    rig = make_rig(load=lambda _config: model)
    error = error_of(rig.submit(1.0))
    assert type(error) is ExecutionFailed
    assert str(error).startswith("the model's postprocess failed (failure ")


def test_a_form_that_does_not_fit_is_refused_before_it_is_sent(hooked: Rig) -> None:
    with pytest.raises(InvalidRequest, match="text"):
        hooked.submit(inputs=rows(1.0))


# --- errors ---------------------------------------------------------------------------------------


def test_a_failed_batch_is_the_outcome_of_its_requests(rig: Rig) -> None:
    for executable in rig.compiler.made():
        executable.fail_result = RuntimeError("the device is gone")
    error = error_of(rig.submit(1.0))
    assert type(error) is ExecutionFailed
    assert str(error).startswith("a batch of model 'puppet' failed on the device (failure ")
    assert rig.free_bytes() == SLAB


def test_rows_that_make_nan_fail_their_own_request(rig: Rig) -> None:
    with rig.client.coalesce():
        bad, good = rig.submit(float("nan")), rig.submit(1.0)
    assert type(error_of(bad)) is NonFiniteOutput
    assert good.result()["y"].tolist() == [[3.0, -1.0]]
    good.release()


def test_the_engines_refusal_is_the_outcome(make_rig: MakeRig) -> None:
    rig = make_rig(puppet_config(max_queue_rows=2, rows=(1,), in_flight=1))
    rig.hold()
    first = rig.submit(1.0)
    rig.until(lambda: rig.engine.status().models[0].load.batches_in_flight == 1)
    with rig.client.coalesce():  # the page cannot have changed in between
        others = [rig.submit(2.0), rig.submit(3.0), rig.submit(4.0)]
    error = error_of(others.pop())
    assert type(error) is QueueFull
    assert str(error) == "1 rows do not fit now: 2 wait already"
    rig.release()
    for result in (first, *others):
        result.result()
        result.release()
    assert rig.free_bytes() == SLAB


def test_a_full_queue_is_known_from_the_page(make_rig: MakeRig) -> None:
    rig = make_rig(puppet_config(max_queue_rows=2, rows=(1,), in_flight=1))
    rig.hold()
    results = [rig.submit(1.0)]
    rig.until(lambda: rig.engine.status().models[0].load.batches_in_flight == 1)
    results += [rig.submit(2.0), rig.submit(3.0)]
    rig.until(lambda: rig.client.status().models[0].load.queued_rows == 2)
    refused: list[BrimError] = []

    def refused_here() -> bool:
        try:
            refused.append(error_of(rig.submit(4.0)))
        except QueueFull:
            return True
        return False

    rig.until(refused_here)
    counted = len(refused) + 1
    rig.release()
    for result in results:
        result.result()
        result.release()
    rig.until(lambda: rig.client.snapshot().models[0].activity.counts.refused == counted)


def test_a_deadline_that_no_bucket_can_meet_is_refused_here(rig: Rig) -> None:
    with pytest.raises(DeadlineTooShort, match=r"an answer within .* s is impossible: an idle"):
        rig.submit(1.0, timeout_s=1e-9)
    rig.until(lambda: rig.client.snapshot().models[0].activity.counts.refused == 1)


@pytest.mark.parametrize(
    ("order", "parcels"),
    [pytest.param(26, 0, id="in-the-slab"), pytest.param(16, 1, id="in-memory-of-its-own")],
)
def test_a_request_of_more_rows_than_the_queue_is_answered_beside_others(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, order: int, parcels: int
) -> None:
    monkeypatch.setattr(links.Link.__init__, "__defaults__", (8, order))
    rig = make_rig(puppet_config(max_queue_rows=4, max_request_rows=5000))
    values = [float(value) for value in range(5000)]
    rig.hold()
    large = rig.submit(*values)
    assert large.place is not None
    assert (large.place.block is None) == parcels
    rig.until(lambda: rig.client.status().models[0].load.queued_rows > 4)
    small = rig.submit(-1.0)
    rig.release()
    np.testing.assert_array_equal(small.result()["y"], expected_rows(-1.0))
    np.testing.assert_array_equal(large.result()["y"], expected_rows(*values))
    for result in (small, large):
        result.release()


LARGE = [1.0] * 1000  # 16,000 bytes with their outputs: an eighth of 64 KiB is less


@pytest.fixture
def small_slab(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """No large request fits into its slab."""
    monkeypatch.setattr(links.Link.__init__, "__defaults__", (8, 16))
    return make_rig()


def test_the_memory_of_large_requests_has_a_bound_that_one_alone_may_exceed(
    small_slab: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "PARCEL_BYTES", 20_000)
    small_slab.hold()
    first = small_slab.submit(*LARGE)
    with pytest.raises(QueueFull, match="is full"):
        small_slab.submit(*LARGE)
    small_slab.release()
    first.result()
    first.release()
    monkeypatch.setattr(links, "PARCEL_BYTES", 10)
    assert len(small_slab.ask(*LARGE)["y"]) == len(LARGE)


def test_a_request_whose_size_no_record_can_hold_is_refused_for_good(
    small_slab: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "LARGEST", 10_000)
    with pytest.raises(RequestTooLarge, match="16000 bytes with the outputs, expected at most 10"):
        small_slab.submit(*LARGE)


def test_without_memory_for_a_large_request_it_is_refused_and_nothing_is_left(
    small_slab: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", full)
        with pytest.raises(QueueFull, match=r"no memory for a large request: .*no space"):
            small_slab.submit(*LARGE)
    monkeypatch.setattr(links, "PARCEL_BYTES", 10)
    assert len(small_slab.ask(*LARGE)["y"]) == len(LARGE), "nothing is counted as open"


def test_a_large_request_that_finds_no_record_leaves_no_descriptor(
    small_slab: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_slab.hold()
    waiting = [small_slab.submit(1.0) for _ in range(8)]
    made: list[SharedMemory] = []
    create = SharedMemory.create

    def watched(name: str, size: int) -> SharedMemory:
        made.append(create(name, size))
        return made[-1]

    monkeypatch.setattr(SharedMemory, "create", watched)
    with pytest.raises(QueueFull, match="8 requests of this process wait already"):
        small_slab.submit(*LARGE)
    assert [memory.fd for memory in made] == [-1]
    small_slab.release()
    for result in waiting:
        result.result()
        result.release()


def test_without_room_in_the_slab_a_request_is_refused(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links.Link.__init__, "__defaults__", (8, 13))  # 8 KiB: 8 blocks of 1 KiB
    rig = make_rig(puppet_config(max_queue_rows=10_000))
    rig.hold()
    values = [1.0] * 50  # 50 rows of 8 bytes, in and out: a block of 1 KiB
    waiting = [rig.submit(*values) for _ in range(8)]
    with pytest.raises(QueueFull, match="is full"):
        rig.submit(*values)
    rig.release()
    for result in waiting:
        assert len(result.result()["y"]) == 50
        result.release()
    assert len(rig.ask(*values)["y"]) == 50


def test_more_requests_than_the_ring_has_records_are_refused(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links.Link.__init__, "__defaults__", (4, 16))
    rig = make_rig()
    rig.hold()
    waiting = [rig.submit(float(value)) for value in range(4)]
    with pytest.raises(QueueFull, match="4 requests of this process wait already"):
        rig.submit(5.0)
    rig.release()
    for result in waiting:
        result.result()
        result.release()
    assert rig.ask(5.0) == {"y": [[11.0, -9.0]]}
    assert rig.free_bytes() == 1 << 16


# --- giving up ------------------------------------------------------------------------------------

GIVE_UP = pytest.mark.parametrize(
    ("give_up", "kind", "count"),
    [
        pytest.param(RemoteResult.cancel, Cancelled, "cancelled", id="cancel"),
        pytest.param(RemoteResult.expire, DeadlineExceeded, "expired", id="expire"),
    ],
)


@GIVE_UP
def test_rows_that_wait_never_reach_the_device_once_they_are_given_up(
    make_rig: MakeRig, give_up: Callable[[RemoteResult], object], kind: type, count: str
) -> None:
    rig = make_rig(puppet_config(rows=(1,), in_flight=1))
    rig.hold()
    first = rig.submit(1.0)
    rig.until(lambda: rig.engine.status().models[0].load.batches_in_flight == 1)
    second = rig.submit(2.0)
    rig.until(lambda: rig.engine.status().models[0].load.queued_rows == 1)
    give_up(second)
    give_up(second)
    assert second.ready
    assert type(error_of(second)) is kind
    rig.until(lambda: rig.engine.status().models[0].load.queued_rows == 0)
    rig.release()
    first.result()
    first.release()
    counts = rig.client.snapshot().models[0].activity.counts
    assert (getattr(counts, count), counts.succeeded, counts.rows) == (1, 1, 1)
    assert rig.free_bytes() == SLAB


@GIVE_UP
def test_memory_that_the_device_reads_is_not_used_again_before_its_batch_is_done(
    make_rig: MakeRig, give_up: Callable[[RemoteResult], object], kind: type, count: str
) -> None:
    rig = make_rig(puppet_config(rows=(1,), in_flight=1))
    rig.hold()
    result = rig.submit(1.0)
    rig.until(lambda: rig.engine.status().models[0].load.batches_in_flight == 1)
    give_up(result)
    assert type(error_of(result)) is kind
    rig.release()
    rig.until(lambda: rig.free_bytes() == SLAB)
    assert rig.ask(5.0) == {"y": [[11.0, -9.0]]}


def test_a_thread_that_waits_beyond_the_deadline_gets_it_as_an_error(make_rig: MakeRig) -> None:
    rig = make_rig(puppet_config(rows=(1,), in_flight=1))
    rig.hold()
    # a shorter one could pass before the request is admitted, which is a refusal
    error = error_of(rig.submit(1.0, timeout_s=1.5))
    assert (type(error), str(error)) == (DeadlineExceeded, "no answer within 1.5 s")


# --- before and after -----------------------------------------------------------------------------


def test_before_it_serves_a_model_refuses_with_its_progress(make_rig: MakeRig) -> None:
    from engine.testing import PuppetCompiler

    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    rig = make_rig(compiler=compiler, wait=False)
    endpoint = rig.client.endpoint("puppet")
    rig.until(lambda: endpoint.status().state is ModelState.COMPILING)
    with pytest.raises(NotReady, match="compiling: 0 of 3 buckets are verified"):
        endpoint.admit()
    rig.release()
    rig.until(lambda: rig.client.ready)
    assert rig.client.snapshot().models[0].activity.counts.refused == 1
    assert rig.ask(1.0) == {"y": [[3.0, -1.0]]}


def test_a_request_that_is_given_up_before_the_engine_has_seen_it_is_not_answered(
    make_rig: MakeRig,
) -> None:
    """Its withdrawal may overtake its record: they travel on different ways."""
    rig = make_rig(puppet_config(rows=(1,), in_flight=1))
    rig.hold()
    first = rig.submit(1.0)
    rig.until(lambda: rig.engine.status().models[0].load.batches_in_flight == 1)
    link = rig.client._link
    assert link is not None
    link.coalesce()
    second = rig.submit(2.0)
    link.messages.send(Withdraw([second.number]))
    rig.client.snapshot()  # the engine has read the withdrawal
    link.stop_coalescing()
    assert second.wait(PATIENCE_S)
    assert type(error_of(second)) is Cancelled
    rig.release()
    first.result()
    first.release()
    assert rig.client.snapshot().models[0].activity.counts.cancelled == 1
    assert rig.free_bytes() == SLAB


def test_an_unexpected_error_beside_the_engine_tells_nothing_of_its_inside(
    hooked: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(hooked.engine.endpoint("puppet"), "submit", broken)
    error = error_of(hooked.submit(inputs=texts("a")))
    assert type(error) is ExecutionFailed
    assert str(error).startswith("internal error in the engine's process (failure ")
    assert "ZeroDivisionError: secret" in caplog.text


def counts(**limits: Any) -> Model:
    spec = TensorSpec("x", "INT64", (2,), **limits)
    return puppet_model(inputs=(spec,), outputs=(TensorSpec("y", "INT64", (2,)),))


def test_64_bit_numbers_cross_with_all_their_bits(make_rig: MakeRig) -> None:
    compiler = PuppetCompiler(lambda inputs: {"y": inputs["x"] + 1})
    rig = make_rig(load=lambda _config: counts(), compiler=compiler)
    large = 2**62
    assert rig.ask(inputs={"x": np.array([[large, -large]])}) == {"y": [[large + 1, 1 - large]]}


def test_the_range_of_an_input_is_known_in_every_process(make_rig: MakeRig) -> None:
    compiler = PuppetCompiler(lambda inputs: {"y": inputs["x"] + 1})
    rig = make_rig(load=lambda _config: counts(low=0, high=2**60), compiler=compiler)
    with pytest.raises(InvalidRequest, match=f"x: value {2**60 + 1} in row 0 is .* 0 to {2**60}"):
        rig.submit(inputs={"x": np.array([[0, 2**60 + 1]])})
    assert rig.client.snapshot().models[0].activity.counts.accepted == 0
