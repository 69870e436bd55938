"""Client tensors become a request, or an error that says what is wrong with them."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from engine.errors import BrimError, ExecutionFailed, InvalidRequest, RequestTooLarge, Shed
from engine.models.model import Model
from engine.models.processor import Prepared
from engine.models.tensors import Arrays, TensorSpec
from engine.telemetry.snapshots import Counts
from engine.testing import PUPPET_SPEC_IN, puppet_model, rows
from tests.engine.serving.rig import IDS, PATIENCE_S, Life, LifeMaker, raises, refusal


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
            "inputs: 11 rows in one request, expected 1 to 10 (max_request_rows); send several",
            id="more-than-one-request-may-have",
        ),
    ],
)
def test_a_clients_mistake_reaches_no_queue_and_no_count(
    live: LifeMaker, inputs: Arrays, problem: str
) -> None:
    life = live(max_request_rows=10).bring_up()
    error = refusal(life, inputs)
    assert isinstance(error, InvalidRequest)
    assert str(error).startswith(problem)
    assert life.counts == Counts(*[0] * len(fields(Counts)))
    assert life.observer.named("queued") == life.observer.named("refused") == []


def test_too_many_rows_are_refused_before_their_preprocess(live: LifeMaker) -> None:
    life = live(hooked(preprocess=raises(AssertionError("must not be called"))), max_request_rows=4)
    refused = refusal(life.bring_up(), rows(*range(5)))
    assert isinstance(refused, RequestTooLarge)
    assert not refused.retry


TOKENS = TensorSpec("ids", "INT64", (2,), low=0, high=499)


@pytest.mark.parametrize("hooked", [False, True], ids=["device-input", "input-of-a-hook"])
def test_a_value_out_of_the_models_range_is_refused_before_the_queue(
    live: LifeMaker, hooked: bool
) -> None:
    hook = {
        "preprocess": lambda inputs: Prepared({"x": inputs["ids"].astype(np.float32)}),
        "device_inputs": (PUPPET_SPEC_IN,),
    }
    life = live(puppet_model(inputs=(TOKENS,), **(hook if hooked else {})))
    life.compiler.function = lambda inputs: {"y": next(iter(inputs.values())) * np.float32(2)}
    life.bring_up()
    error = refusal(life, {"ids": np.array([[0, 499], [1, 500]], np.int64)})
    assert isinstance(error, InvalidRequest)
    assert str(error) == "ids: value 500 in row 1 is out of range, expected 0 to 499"
    assert life.counts == Counts(*[0] * len(fields(Counts)))
    assert life.infer({"ids": np.array([[0, 499]], np.int64)})["y"].tolist() == [[0, 998]]


@pytest.mark.parametrize(
    ("length", "bucket_length"),
    [pytest.param(1, 4, id="short"), pytest.param(4, 4, id="full"), pytest.param(5, 8, id="long")],
)
def test_a_request_waits_in_the_queue_of_its_bucket_length(
    live: LifeMaker, length: int, bucket_length: int
) -> None:
    life = live(puppet_model(inputs=(IDS,)), lengths=(4, 8))
    life.compiler.function = lambda inputs: {
        "y": np.tile(inputs["ids"][:, :1].astype(np.float32), 2)
    }
    life.bring_up()
    pending = life.submit({"ids": np.full((1, length), 7, np.int64)})
    assert pending.request.bucket_length == bucket_length
    assert pending.result()["y"].tolist() == [[7, 7]]
    with pytest.raises(InvalidRequest, match="ids: length 9 does not fit, expected 1 to 8"):
        life.submit({"ids": np.zeros((1, 9), np.int64)})


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
    pending = ready.submit(rows(1), asked)
    assert pending.deadline == ready.clock.now + gets
    assert pending.wait(PATIENCE_S)


def test_the_time_that_preprocessing_takes_counts_against_the_deadline(live: LifeMaker) -> None:
    def preprocess(inputs: Arrays) -> Prepared:
        life.clock.advance(3.0)
        return Prepared(inputs, {"tokens": 5})

    model = puppet_model(preprocess=preprocess, device_inputs=puppet_model().signature.inputs)
    life = live(model).bring_up()
    began = life.clock.now
    pending = life.submit(rows(1))
    assert (pending.request.enqueued_at, pending.deadline) == (began, began + 30)
    assert pending.request.prepared.parameters == {"tokens": 5}
    assert pending.wait(PATIENCE_S)


def test_a_request_that_cannot_be_in_time_is_refused_before_its_preprocess(live: LifeMaker) -> None:
    prepared: list[int] = []

    def preprocess(inputs: Arrays) -> Prepared:
        prepared.append(len(inputs["x"]))
        return Prepared(inputs)

    def slow(inputs: Arrays) -> dict[str, Any]:
        life.clock.advance(2.0)
        return {"y": inputs["x"]}

    model = puppet_model(preprocess=preprocess, device_inputs=puppet_model().signature.inputs)
    life = live(model, rows=(1,))
    life.compiler.function = slow
    life.bring_up()
    pending = life.occupy()
    prepared.clear()
    with pytest.raises(
        Shed, match=r"within 3 s cannot be promised: it may take 4 s, 0 rows"
    ) as refused:
        life.submit(rows(1), 3.0)
    assert refused.value.retry_after_s == 1.0
    assert prepared == []
    assert (life.counts.refused, life.counts.shed) == (1, 1)
    life.free()
    assert pending.wait(PATIENCE_S)


# --- hooks on the host ---------------------------------------------------------------------------


def hooked(**hooks: Any) -> Model:
    plain = puppet_model()
    return puppet_model(
        device_inputs=plain.signature.inputs, device_outputs=plain.signature.outputs, **hooks
    )


def test_hooks_run_between_the_client_and_the_device(live: LifeMaker) -> None:
    life = live(
        hooked(
            preprocess=lambda inputs: Prepared({"x": inputs["x"] + 1}),
            postprocess=lambda outputs: {"y": outputs["y"] * 10},
        )
    ).bring_up()
    assert life.infer({"x": np.array([[1, 2]], np.float32)})["y"].tolist() == [[50, 70]]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        pytest.param(
            ZeroDivisionError("bug"), ExecutionFailed, "the model's preprocess failed", id="its-bug"
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
    assert str(refused).partition(" (")[0] == message
    assert error in (refused, refused.__cause__)
    assert life.counts.accepted == 0


def test_the_wire_is_checked_before_preprocessing_sees_it(live: LifeMaker) -> None:
    life = live(hooked(preprocess=raises(AssertionError("must not be called")))).bring_up()
    assert isinstance(refusal(life, {}), InvalidRequest)


def test_what_preprocessing_made_is_checked_too(live: LifeMaker) -> None:
    life = live(hooked(preprocess=lambda _inputs: Prepared({}))).bring_up()
    with pytest.raises(InvalidRequest, match="x: tensor is missing"):
        life.submit(rows(1))


def test_what_postprocessing_raises_is_a_typed_error(live: LifeMaker) -> None:
    life = live(hooked(postprocess=raises(ZeroDivisionError("bug")))).bring_up()
    with pytest.raises(ExecutionFailed, match="the model's postprocess failed") as caught:
        life.infer(rows(1))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
