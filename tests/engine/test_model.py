"""A model is a function with names; what it leaves out is filled in, what cannot work refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.model import Model, Prepared
from engine.spec import DTYPES, LENGTH, TensorSpec
from engine.testing import PUPPET_SPEC_IN, PUPPET_SPEC_OUT, puppet_model

TEXT = TensorSpec("text", "BYTES")
IDS = TensorSpec("ids", "INT64", (LENGTH,))


def nothing(*_arguments: Any) -> Any:
    raise NotImplementedError


def test_the_device_sees_what_the_client_sees_unless_a_hook_stands_between() -> None:
    model = puppet_model()
    assert model.device_inputs == (PUPPET_SPEC_IN,)
    assert model.device_outputs == (PUPPET_SPEC_OUT,)


def test_with_hooks_the_device_has_tensors_of_its_own() -> None:
    model = puppet_model(
        inputs=(TEXT,),
        preprocess=nothing,
        device_inputs=(IDS,),
        outputs=(TEXT,),
        postprocess=nothing,
        device_outputs=(PUPPET_SPEC_OUT,),
    )
    assert model.device_inputs == (IDS,)
    assert model.device_outputs == (PUPPET_SPEC_OUT,)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"inputs": ()}, "a model needs inputs", id="no-inputs"),
        pytest.param({"outputs": ()}, "a model needs outputs", id="no-outputs"),
        pytest.param({"preprocess": nothing}, "state its device_inputs", id="preprocess-to-what"),
        pytest.param(
            {"postprocess": nothing}, "state its device_outputs", id="postprocess-of-what"
        ),
        pytest.param({"inputs": (TEXT,)}, "text: BYTES cannot go to a device", id="bytes-in"),
        pytest.param({"outputs": (TEXT,)}, "text: BYTES cannot go to a device", id="bytes-out"),
    ],
)
def test_a_model_that_could_not_be_served_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        puppet_model(**changes)


def test_a_model_is_dynamic_when_a_row_on_the_device_is() -> None:
    assert puppet_model(inputs=(PUPPET_SPEC_IN, IDS)).dynamic
    assert not puppet_model().dynamic


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_a_golden_row_is_made_in_the_devices_type(datatype: str) -> None:
    spec = TensorSpec("x", datatype, (3, LENGTH))
    row = puppet_model(inputs=(spec,)).golden_row(np.random.default_rng(0), 5)["x"]
    assert (row.shape, row.dtype) == ((1, 3, 5), spec.device_dtype)
    assert len(np.unique(row)) > 1
    if row.dtype.kind in "biu":
        assert set(np.unique(row)) <= {0, 1}


def test_a_models_own_golden_row_gets_its_rows_axis() -> None:
    def golden(_rng: np.random.Generator, length: int | None) -> dict[str, Any]:
        return {"ids": np.arange(length or 0), "not_a_tensor": None}

    model: Model = puppet_model(inputs=(IDS,), golden=golden)
    (row,) = model.golden_row(np.random.default_rng(0), 3).items()
    assert row[0] == "ids"
    assert row[1].dtype == np.int32
    assert row[1].tolist() == [[0, 1, 2]]


def test_a_prepared_request_has_no_parameters_of_its_own() -> None:
    assert Prepared({}).parameters == {}
