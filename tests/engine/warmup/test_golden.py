"""Golden rows are valid rows of the device's inputs, whatever the datatype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import WarmupError
from engine.models.tensors import DTYPES, LENGTH, TensorSpec
from engine.testing import puppet_model
from engine.warmup.golden import golden_row

IDS = TensorSpec("ids", "INT64", (LENGTH,))


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_a_golden_row_has_the_dtype_of_the_device(datatype: str) -> None:
    spec = TensorSpec("x", datatype, (3, LENGTH))
    model = puppet_model(inputs=(spec,))
    row = golden_row(model.signature, model.program, np.random.default_rng(0), 5)["x"]
    assert (row.shape, row.dtype) == ((1, 3, 5), spec.device_dtype)
    assert len(np.unique(row)) > 1
    if row.dtype.kind in "biu":
        assert set(np.unique(row)) <= {0, 1}


def test_a_models_own_golden_row_gets_its_rows_axis() -> None:
    def golden(_rng: np.random.Generator, length: int | None) -> dict[str, Any]:
        return {"ids": np.arange(length or 0), "not_a_tensor": None}

    model = puppet_model(inputs=(IDS,), golden=golden)
    rows = golden_row(model.signature, model.program, np.random.default_rng(0), 3)
    assert list(rows) == ["ids"]
    assert rows["ids"].dtype == np.int32
    assert rows["ids"].tolist() == [[0, 1, 2]]


def test_a_golden_row_is_one_of_the_device_and_not_of_the_client() -> None:
    text = TensorSpec("text", "BYTES")
    model = puppet_model(inputs=(text,), preprocess=print, device_inputs=(IDS,))
    assert list(golden_row(model.signature, model.program, np.random.default_rng(0), 2)) == ["ids"]


def drawn(spec: TensorSpec, number: int = 0) -> Any:
    model = puppet_model(inputs=(spec,))
    return golden_row(model.signature, model.program, np.random.default_rng(0), 5, number)["x"]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(TensorSpec("x", "INT64", (40,), low=0, high=499), id="integers"),
        pytest.param(TensorSpec("x", "UINT8", (40,), low=3, high=5), id="unsigned"),
        pytest.param(TensorSpec("x", "INT64", (40,), low=7), id="integers-from"),
        pytest.param(TensorSpec("x", "INT8", (40,), high=-128), id="only-the-least-integer"),
        pytest.param(TensorSpec("x", "UINT32", (40,), high=0), id="only-zero"),
        pytest.param(TensorSpec("x", "INT8", (40,), low=127), id="only-the-greatest-integer"),
        pytest.param(TensorSpec("x", "FP32", (40,), low=-1, high=16), id="floats"),
        pytest.param(TensorSpec("x", "FP16", (40,), low=3), id="floats-from"),
        pytest.param(TensorSpec("x", "BF16", (40,), high=-3), id="floats-to"),
    ],
)
def test_a_golden_row_is_in_the_range_and_has_its_ends(spec: TensorSpec, number: int) -> None:
    row = drawn(spec, number).astype(np.float64)
    least = -np.inf if spec.low is None else spec.low
    greatest = np.inf if spec.high is None else spec.high
    assert least <= row.min()
    assert row.max() <= greatest
    assert {spec.low, spec.high} - {None} <= set(row.ravel().tolist())


def test_rows_of_one_value_have_one_end_each() -> None:
    spec = TensorSpec("x", "INT32", low=0, high=9)
    assert [drawn(spec, number).tolist() for number in (0, 1)] == [[9], [0]]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        pytest.param({"id": [1, 2, 3]}, r"golden gave \['id'\], without 'ids'", id="name"),
        pytest.param({"ids": [1, 2, 9]}, "value 9 in row 0 is out of range, .* 0 to 4", id="range"),
        pytest.param({"ids": [[1, 2, 3]]}, r"shape \[1, 1, 3\] does not fit", id="shape"),
        pytest.param({"ids": [1, 2]}, "do not have the length 3", id="length"),
        pytest.param({"ids": "abc"}, "golden gave a row that is not valid", id="type"),
    ],
)
def test_golden_rows_that_are_not_valid_are_named(row: dict[str, Any], problem: str) -> None:
    ids = TensorSpec("ids", "INT64", (LENGTH,), low=0, high=4)
    model = puppet_model(inputs=(ids,), golden=lambda _rng, _length: row)
    with pytest.raises(WarmupError, match=problem):
        golden_row(model.signature, model.program, np.random.default_rng(0), 3)
