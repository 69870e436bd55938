"""Whether one request's arrays fit a model's tensors; if not, the message says what would."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from engine.errors import InvalidRequest
from engine.models.tensors import DTYPES, LENGTH, Arrays, Extent, TensorSpec, validate

IMAGE = TensorSpec("image", "FP32", (2, 3))
SCALE = TensorSpec("scale", "FP32")
IDS = TensorSpec("ids", "INT64", (LENGTH,))
MASK = TensorSpec("mask", "BOOL", (LENGTH,))
HALF = TensorSpec("half", "BF16", (4, LENGTH))


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


# --- a spec -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datatype", "shape", "problem"),
    [
        pytest.param("FLOAT", (), "datatype 'FLOAT' is none of", id="unknown-datatype"),
        pytest.param("FP32", (0,), "positive sizes", id="zero-size"),
        pytest.param("FP32", (-2,), "positive sizes", id="negative-size"),
        pytest.param("FP32", (LENGTH, LENGTH), "one LENGTH", id="two-dynamic-axes"),
    ],
)
def test_a_spec_that_no_array_could_fit_is_refused(
    datatype: str, shape: tuple[int, ...], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        TensorSpec("x", datatype, shape)


@pytest.mark.parametrize("shape", [4, None, (None, 4), ("rows", 4), (2.0,)], ids=repr)
def test_a_shape_that_is_not_the_sizes_of_a_row_is_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"x: shape .* is not the sizes of one row, .* no batch"):
        TensorSpec("x", "FP32", shape)


def test_what_numpy_gives_becomes_plain_numbers_which_cross_processes() -> None:
    shape: Any = [np.int64(2), 3]
    spec = TensorSpec("x", "INT32", shape, low=np.int32(0), high=np.int64(9))
    assert (spec.shape, spec.low, spec.high) == ((2, 3), 0, 9)
    assert {type(number) for number in (*spec.shape, spec.low, spec.high)} == {int}


@pytest.mark.parametrize(
    ("spec", "axis", "wire", "batch"),
    [
        pytest.param(SCALE, None, (-1,), (4,), id="one-number-a-row"),
        pytest.param(IMAGE, None, (-1, 2, 3), (4, 2, 3), id="fixed-axes"),
        pytest.param(IDS, 1, (-1, -1), (4, 9), id="one-dynamic-axis"),
        pytest.param(HALF, 2, (-1, 4, -1), (4, 4, 9), id="the-dynamic-axis-is-last"),
    ],
)
def test_rows_come_first_in_every_shape(
    spec: TensorSpec, axis: int | None, wire: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    assert (spec.length_axis, spec.wire_shape) == (axis, wire)
    assert spec.batch_shape(4, 9) == batch


@pytest.mark.parametrize("datatype", DTYPES)
def test_only_64_bit_numbers_are_narrowed_on_the_device(datatype: str) -> None:
    spec = TensorSpec("x", datatype)
    narrow = {"INT64": "INT32", "UINT64": "UINT32", "FP64": "FP32"}.get(datatype, datatype)
    assert spec.dtype == DTYPES[datatype]
    assert spec.device_dtype == DTYPES[narrow]


def test_bytes_on_the_device_are_those_of_the_narrow_type() -> None:
    assert IDS.nbytes(rows=4, length=9) == 4 * 9 * 4
    assert HALF.nbytes(rows=2, length=3) == 2 * 4 * 3 * 2
    assert SCALE.nbytes(rows=5, length=None) == 5 * 4


@pytest.mark.parametrize(
    ("spec", "limits"),
    [
        pytest.param(TensorSpec("x", "INT32"), None, id="the-datatype-s-own"),
        pytest.param(TensorSpec("x", "INT32", low=0, high=9), (0, 9), id="both"),
        pytest.param(TensorSpec("x", "INT32", low=0), (0, 2**31 - 1), id="from"),
        pytest.param(TensorSpec("x", "UINT8", high=9), (0, 9), id="to"),
        pytest.param(TensorSpec("x", "INT64"), (-(2**31), 2**31 - 1), id="narrowed"),
        pytest.param(TensorSpec("x", "INT64", low=1), (1, 2**31 - 1), id="narrowed-from"),
        pytest.param(TensorSpec("x", "INT64", high=2**40), (-(2**31), 2**31 - 1), id="beyond"),
        pytest.param(TensorSpec("x", "INT64", high=2**40).widened(), (-(2**63), 2**40), id="wide"),
        pytest.param(TensorSpec("x", "BF16", low=0.5, high=1.5), (0.5, 1.5), id="bfloat16"),
    ],
)
def test_a_spec_knows_the_range_of_its_values(
    spec: TensorSpec, limits: tuple[float, float] | None
) -> None:
    assert spec.limits == limits


@pytest.mark.parametrize(
    ("datatype", "low", "high", "problem"),
    [
        pytest.param("BOOL", 0, 1, "x: BOOL has no low and no high", id="booleans"),
        pytest.param("BYTES", None, 1, "x: BYTES has no low and no high", id="texts"),
        pytest.param("INT32", 2, 1, "low 2 and high 1 do not fit, .* low <= high", id="empty"),
        pytest.param("UINT8", -1, None, "expected whole numbers 0 to 255", id="below"),
        pytest.param("UINT8", 0, 256, "expected whole numbers 0 to 255", id="beyond"),
        pytest.param("INT32", 0.5, 9, "expected whole numbers -2147483648 to", id="fraction"),
        pytest.param("FP16", 0, 1e6, "expected numbers from -65504 to 65504", id="half"),
        pytest.param("FP32", float("nan"), 1, "low nan and high 1 do not fit", id="nan"),
        pytest.param("FP32", float("-inf"), 1, "low -inf and high 1 do not fit", id="infinite"),
    ],
)
def test_a_range_that_the_datatype_does_not_have_is_refused(
    datatype: str, low: float | None, high: float | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        TensorSpec("x", datatype, low=low, high=high)


# --- a request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specs", "arrays", "extent"),
    [
        pytest.param([IMAGE], {"image": zeros((5, 2, 3))}, Extent(5, None), id="fixed"),
        pytest.param(
            [IMAGE, SCALE],
            {"scale": zeros((1,)), "image": zeros((1, 2, 3))},
            Extent(1, None),
            id="in-any-order",
        ),
        pytest.param([IDS], {"ids": zeros((2, 7), np.int64)}, Extent(2, 7), id="dynamic"),
        pytest.param(
            [IDS, MASK, SCALE],
            {"ids": zeros((2, 7), np.int64), "mask": zeros((2, 7), bool), "scale": zeros((2,))},
            Extent(2, 7),
            id="dynamic-and-then-fixed",
        ),
        pytest.param(
            [SCALE, IDS],
            {"ids": zeros((2, 7), np.int64), "scale": zeros((2,))},
            Extent(2, 7),
            id="fixed-and-then-dynamic",
        ),
        pytest.param([IDS], {"ids": zeros((1, 10), np.int64)}, Extent(1, 10), id="longest"),
        pytest.param(
            [HALF], {"half": zeros((1, 4, 3), ml_dtypes.bfloat16)}, Extent(1, 3), id="bfloat16"
        ),
        pytest.param(
            [IDS],
            {"ids": np.array([[2**31 - 1, -(2**31)]], np.int64)},
            Extent(1, 2),
            id="integers-at-the-very-limits-of-32-bits",
        ),
        pytest.param(
            [TensorSpec("text", "BYTES")],
            {"text": np.array([b"a"], object)},
            Extent(1, None),
            id="bytes",
        ),
    ],
)
def test_arrays_that_fit_say_how_large_the_request_is(
    specs: list[TensorSpec], arrays: Arrays, extent: Extent
) -> None:
    assert validate(specs, arrays, max_length=10) == extent


@pytest.mark.parametrize(
    ("specs", "arrays", "field", "problem"),
    [
        pytest.param(
            [IMAGE],
            {"image": zeros((1, 2, 3)), "imgae": zeros((1,))},
            "imgae",
            "unexpected tensor; expected image",
            id="surplus-tensor",
        ),
        pytest.param(
            [IMAGE, SCALE],
            {"scale": zeros((1,))},
            "image",
            "tensor is missing; got scale",
            id="missing-tensor",
        ),
        pytest.param([IMAGE], {}, "image", "tensor is missing; got none", id="no-tensors"),
        pytest.param([], {}, "inputs", "no tensors; expected at least one", id="no-specs"),
        pytest.param(
            [IMAGE],
            {"image": zeros((2, 3))},
            "image",
            "shape [2, 3] does not fit, expected [-1, 2, 3]",
            id="without-the-rows-axis",
        ),
        pytest.param(
            [IMAGE],
            {"image": zeros((1, 3, 2))},
            "image",
            "shape [1, 3, 2] does not fit, expected [-1, 2, 3]",
            id="axes-swapped",
        ),
        pytest.param(
            [SCALE], {"scale": zeros(())}, "scale", "shape [] does not fit", id="a-scalar"
        ),
        pytest.param(
            [IMAGE],
            {"image": zeros((0, 2, 3))},
            "image",
            "no rows; expected at least one",
            id="no-rows",
        ),
        pytest.param(
            [IMAGE],
            {"image": zeros((1, 2, 3), np.float64)},
            "image",
            "dtype float64 is not FP32",
            id="nothing-is-cast-silently",
        ),
        pytest.param(
            [IMAGE],
            {"image": zeros((1, 2, 3), ">f4")},
            "image",
            "dtype >f4 is not FP32",
            id="the-other-byte-order",
        ),
        pytest.param(
            [IDS],
            {"ids": np.array([[0, 2**31]], np.int64)},
            "ids",
            "value 2147483648 in row 0 is out of range; this model computes in 32 bits, "
            "expected -2147483648 to 2147483647",
            id="integer-above-32-bits",
        ),
        pytest.param(
            [IDS],
            {"ids": np.array([[-(2**31) - 1]], np.int64)},
            "ids",
            "value -2147483649 in row 0 is out of range",
            id="integer-below-32-bits",
        ),
        pytest.param(
            [TensorSpec("n", "UINT64")],
            {"n": np.array([2**32], np.uint64)},
            "n",
            "value 4294967296 in row 0 is out of range; this model computes in 32 bits, "
            "expected 0 to 4294967295",
            id="unsigned-above-32-bits",
        ),
        pytest.param(
            [IDS],
            {"ids": zeros((1, 11), np.int64)},
            "ids",
            "length 11 does not fit, expected 1 to 10",
            id="too-long",
        ),
        pytest.param(
            [IDS],
            {"ids": zeros((1, 0), np.int64)},
            "ids",
            "length 0 does not fit, expected 1 to 10",
            id="empty-rows",
        ),
        pytest.param(
            [IMAGE, SCALE],
            {"image": zeros((2, 2, 3)), "scale": zeros((3,))},
            "scale",
            "3 rows, but the tensors before it have 2",
            id="rows-differ",
        ),
        pytest.param(
            [IDS, SCALE, MASK],
            {"ids": zeros((1, 4), np.int64), "scale": zeros((1,)), "mask": zeros((1, 5), bool)},
            "mask",
            "length 5, but the tensors before it have 4",
            id="lengths-differ",
        ),
    ],
)
def test_what_does_not_fit_names_the_tensor_and_what_would(
    specs: list[TensorSpec], arrays: Arrays, field: str, problem: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(specs, arrays, max_length=10)
    assert caught.value.field == field
    assert caught.value.problem.startswith(problem)
    assert str(caught.value) == f"{field}: {caught.value.problem}"


def test_without_a_limit_any_length_will_do() -> None:
    assert validate([IDS], {"ids": zeros((1, 0), np.int64)}) == Extent(1, 0)
    assert validate([IDS], {"ids": zeros((1, 9999), np.int64)}) == Extent(1, 9999)


def test_a_wide_float_may_be_rounded_on_the_device_but_not_become_infinite() -> None:
    spec = TensorSpec("x", "FP64", (1,))
    validate([spec], {"x": np.array([[0.1], [np.inf], [np.nan], [3e38]])})
    with pytest.raises(
        InvalidRequest, match=r"x: value 1e\+39 in row 0 is out of range; .* 32 bits"
    ):
        validate([spec], {"x": np.array([[1e39]])})


def test_a_tensor_without_a_finite_value_has_none_that_is_out_of_range() -> None:
    array = np.array([[np.nan], [np.inf]])
    assert validate([TensorSpec("x", "FP64", (1,))], {"x": array}) == Extent(2, None)


TOKENS = TensorSpec("tokens", "INT64", (LENGTH,), low=0, high=499)
PIXELS = TensorSpec("pixels", "FP32", (2,), low=0, high=1)


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        pytest.param(TOKENS, np.array([[0, 499], [3, 4]], np.int64), id="both-ends"),
        pytest.param(PIXELS, np.array([[0, 1]], np.float32), id="floats"),
        pytest.param(TOKENS, np.zeros((1, 0), np.int64), id="no-values"),
        pytest.param(
            TensorSpec("x", "FP64"), np.array([np.inf, np.nan, 1e38]), id="narrowed-not-finite"
        ),
        pytest.param(TensorSpec("x", "BF16", low=0), np.ones(2, ml_dtypes.bfloat16), id="bfloat16"),
    ],
)
def test_values_in_the_range_are_accepted(spec: TensorSpec, array: Any) -> None:
    validate([spec], {spec.name: array})


@pytest.mark.parametrize(
    ("spec", "array", "problem"),
    [
        pytest.param(
            TOKENS,
            np.array([[1, 2], [3, 500]], np.int64),
            "value 500 in row 1 is out of range, expected 0 to 499",
            id="beyond",
        ),
        pytest.param(
            TOKENS,
            np.array([[1, 2], [3, -1], [500, 500]], np.int64),
            "value -1 in row 1 is out of range, expected 0 to 499",
            id="the-first-of-several",
        ),
        pytest.param(
            TOKENS,
            np.array([[2**40]], np.int64),
            "value 1099511627776 in row 0 is out of range, expected 0 to 499",
            id="beyond-32-bits",
        ),
        pytest.param(
            PIXELS,
            np.array([[0, 0], [1, np.nan]], np.float32),
            "value nan in row 1 is out of range, expected 0 to 1",
            id="nan",
        ),
        pytest.param(
            PIXELS,
            np.array([[np.inf, 0]], np.float32),
            "value inf in row 0 is out of range, expected 0 to 1",
            id="infinity",
        ),
        pytest.param(
            TensorSpec("x", "INT8", low=0),
            np.array([5, -3], np.int8),
            "value -3 in row 1 is out of range, expected 0 to 127",
            id="rows-of-one-value",
        ),
        pytest.param(
            TensorSpec("x", "INT64", low=0, high=2**40),
            np.array([1, 2**31], np.int64),
            "value 2147483648 in row 1 is out of range; this model computes in 32 bits, "
            "expected 0 to 2147483647",
            id="stated-and-narrowed",
        ),
        pytest.param(
            TensorSpec("x", "INT64"),
            np.array([1, 2**31], np.int64),
            "value 2147483648 in row 1 is out of range; this model computes in 32 bits, "
            "expected -2147483648 to 2147483647",
            id="narrowed",
        ),
    ],
)
def test_a_value_out_of_the_range_is_refused_with_its_row(
    spec: TensorSpec, array: Any, problem: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        validate([spec], {spec.name: array})
    assert (raised.value.field, raised.value.problem) == (spec.name, problem)
