"""Golden rows are valid rows of the device's inputs, whatever the datatype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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
