"""Values in JSON survive a round trip; nothing is cast, rounded or wrapped."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given

from app.http.codecs import tensors
from engine.errors import ExecutionFailed, InvalidRequest
from engine.models.tensors import DTYPES, LENGTH, Array, TensorSpec
from tests.app.wire import JSON_DATATYPES, json_tensors, nest, same

Case = tuple[TensorSpec, list[int], list[Any]]


def tensor(datatype: str, shape: list[int], data: list[Any]) -> Case:
    """A tensor's shape and values, and a spec with a dynamic axis."""
    return TensorSpec("t", datatype, (LENGTH,) * (len(shape) > 1)), shape, data


def refusal(spec: TensorSpec, shape: list[int], data: list[Any]) -> str:
    """The message with which values from the parser are refused."""
    with pytest.raises(InvalidRequest) as refused:
        tensors.decode_json(spec, shape, orjson.loads(json.dumps(data)))
    return str(refused.value)


def written(spec: TensorSpec, array: Array) -> list[Any]:
    """The values as a client reads them."""
    option = orjson.OPT_SERIALIZE_NUMPY
    data: list[Any] = json.loads(orjson.dumps(tensors.encode_json(spec, array), option=option))
    return data


# --- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@given(json_tensors())
def test_a_round_trip_preserves_every_bit(nested: bool, case: tuple[TensorSpec, Array]) -> None:
    spec, array = case
    data, shape = written(spec, array), list(array.shape)
    read = tensors.decode_json(spec, shape, nest(data, shape) if nested else data)
    assert same(read, array)
    assert read.dtype == spec.dtype


@pytest.mark.parametrize("datatype", sorted(set(JSON_DATATYPES) - {"BYTES", "BOOL"}))
def test_the_extremes_of_a_datatype_survive(datatype: str) -> None:
    dtype = DTYPES[datatype]
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    array = np.array([limits.min, 0, limits.max], dtype)
    spec = TensorSpec("t", datatype)
    assert same(tensors.decode_json(spec, [3], written(spec, array)), array)


def test_a_view_that_is_not_contiguous_is_written_row_by_row() -> None:
    turned = np.arange(4, dtype=np.float32).reshape(2, 2).T
    assert written(TensorSpec("y", "FP32", (2,)), turned) == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("spec", "array", "message"),
    [
        pytest.param(
            TensorSpec("y", "FP32"),
            np.float32([np.nan, 0]),
            "output 'y' has NaN or infinity, which JSON cannot carry",
            id="NaN",
        ),
        pytest.param(
            TensorSpec("y", "FP32"),
            np.float32([-np.inf, 0]),
            "output 'y' has NaN or infinity, which JSON cannot carry",
            id="infinity",
        ),
        pytest.param(
            TensorSpec("y", "BYTES"),
            np.array([b"\xff"], object),
            "output 'y' is not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: "
            "invalid start byte",
            id="bytes that are no text",
        ),
    ],
)
def test_an_output_that_json_cannot_carry_fails_its_request(
    spec: TensorSpec, array: Array, message: str
) -> None:
    with pytest.raises(ExecutionFailed) as failed:
        tensors.encode_json(spec, array)
    assert str(failed.value) == message


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "message"),
    [
        pytest.param(
            tensor("UINT8", [2], [0, 256]), "value 256 is out of range for UINT8", id="above"
        ),
        pytest.param(
            tensor("INT8", [2], [127, -129]), "value -129 is out of range for INT8", id="below"
        ),
        pytest.param(
            tensor("UINT64", [2], [-1, 5]), "value -1 is out of range for UINT64", id="unsigned"
        ),
        pytest.param(
            tensor("INT64", [2], [2**63, -1]),
            f"value {2**63} is out of range for INT64",
            id="2**63 and a negative",
        ),
        pytest.param(
            tensor("INT64", [1], [2**63]), f"value {2**63} is out of range for INT64", id="2**63"
        ),
        pytest.param(
            tensor("UINT64", [1], [2**64]),
            "data holds decimals or numbers beyond 64 bits, expected whole numbers",
            id="2**64",
        ),
        pytest.param(
            tensor("FP32", [2], [0, -1e39]), "value -1e+39 is out of range for FP32", id="1e39"
        ),
        pytest.param(
            tensor("INT32", [2], [1, 2.0]),
            "data holds decimals or numbers beyond 64 bits, expected whole numbers",
            id="2.0 for a whole number",
        ),
        pytest.param(
            tensor("FP32", [2], [1, "2"]), "data holds strings, expected numbers", id="string"
        ),
        pytest.param(
            tensor("FP32", [2], [1, None]), "data holds null, expected numbers", id="null"
        ),
        pytest.param(tensor("FP32", [1], [{}]), "data holds objects, expected numbers", id="{}"),
        pytest.param(
            tensor("FP32", [2], [True, 2]),
            "data holds true or false, expected numbers",
            id="true for 1.0",
        ),
        pytest.param(
            tensor("INT32", [2], [2, True]),
            "data holds true or false, expected whole numbers",
            id="true for 1",
        ),
        pytest.param(
            tensor("BOOL", [2], [True, 0]),
            "data holds whole numbers, expected true or false",
            id="0 for false",
        ),
        pytest.param(
            tensor("BYTES", [2], ["a", 1]), "data[1] is int, expected a string", id="text"
        ),
        pytest.param(
            tensor("BYTES", [2, 1], [["a", "b"]]),
            "data is nested as [1, 2], but shape says [2, 1]",
            id="text is nested like numbers",
        ),
        pytest.param(
            tensor("BYTES", [3], [["a", "b"], ["c"]]), "data is nested unevenly", id="uneven text"
        ),
        pytest.param(
            tensor("FP32", [0, 2**63 - 1], []),
            f"shape [0, {2**63 - 1}] is too large",
            id="no values, size too large",
        ),
    ],
)
def test_values_that_do_not_fit_their_datatype_are_refused(case: Case, message: str) -> None:
    spec, shape, data = case
    assert refusal(spec, shape, data) == f"t: {message}"


def test_one_long_string_among_numbers_does_not_widen_every_value() -> None:
    # as a numpy array of strings this would take 16 GB
    case = tensor("FP32", [100_001], ["a" * 40_000, *[1] * 100_000])
    assert refusal(*case) == "t: data holds strings, expected numbers"
