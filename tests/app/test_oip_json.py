"""The JSON codec: what is written can be read back, and every mistake is told by its name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from app.codec import InferRequest, InferResponse
from app.codec.oip_json import BINARY_ONLY, decode, encode
from engine.errors import ExecutionFailed, InvalidRequest
from engine.spec import DTYPES, LENGTH, Array, TensorSpec

X = TensorSpec("x", "FP32", (2,))
IDS = TensorSpec("ids", "INT64", (LENGTH,))
Y = TensorSpec("y", "FP32", (2,))
GOOD = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}


def request_of(*tensors: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(tensors), **more}).encode()


def tensor(datatype: str, shape: list[Any], data: Any, **more: Any) -> tuple[bytes, TensorSpec]:
    """A body of one tensor, and the spec of a model that takes such tensors of any length."""
    wire = {"name": "t", "shape": shape, "datatype": datatype, "data": data, **more}
    return request_of(wire), TensorSpec("t", datatype, (LENGTH,) * (len(shape) > 1))


def refusal(body: bytes, *specs: TensorSpec) -> str:
    with pytest.raises(InvalidRequest) as refused:
        decode(body, specs or (X, IDS), (Y,))
    return str(refused.value)


# --- there and back -------------------------------------------------------------------------------


def values_of(datatype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        return arrays_of.arrays(object, shape, elements=st.text(max_size=4).map(str.encode))
    if dtype.kind == "f":
        floats = st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)
        return arrays_of.arrays(dtype, shape, elements=floats)
    return arrays_of.arrays(dtype, shape)


@st.composite
def any_tensor(draw: st.DrawFn) -> tuple[TensorSpec, Array]:
    datatype = draw(st.sampled_from(sorted(DTYPES.keys() - BINARY_ONLY)))
    shape = draw(st.lists(st.integers(1, 3), max_size=3).map(tuple))
    rows = draw(st.integers(0, 3))
    array = draw(values_of(datatype, (rows, *shape)))
    return TensorSpec("t", datatype, shape), array


def nest(flat: list[Any], shape: list[int]) -> list[Any]:
    """A flat list as nested lists of this shape."""
    for size in reversed(shape[1:]):
        flat = [flat[at : at + size] for at in range(0, len(flat), size)]
    return flat


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@given(any_tensor())
def test_what_is_written_is_read_back_bit_by_bit(
    nested: bool, case: tuple[TensorSpec, Array]
) -> None:
    spec, array = case
    written = json.loads(encode(InferResponse("m", "1", {"t": array}), [spec]))
    (wire,) = written["outputs"]
    if nested:
        wire["data"] = nest(wire["data"], wire["shape"])
    read = decode(request_of(wire), [spec], []).inputs["t"]
    assert read.dtype == spec.dtype
    assert read.shape == array.shape
    assert read.tolist() == array.tolist()
    if spec.datatype != "BYTES":
        assert read.tobytes() == array.tobytes()  # -0.0 too


@pytest.mark.parametrize("datatype", sorted(DTYPES.keys() - BINARY_ONLY - {"BYTES", "BOOL"}))
def test_the_extremes_of_a_datatype_survive(datatype: str) -> None:
    dtype = DTYPES[datatype]
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    array = np.array([limits.min, 0, limits.max], dtype)
    spec = TensorSpec("t", datatype)
    (wire,) = json.loads(encode(InferResponse("m", "1", {"t": array}), [spec]))["outputs"]
    assert decode(request_of(wire), [spec], []).inputs["t"].tobytes() == array.tobytes()


def test_a_request_keeps_its_id_its_parameters_and_the_outputs_it_wants() -> None:
    body = request_of(
        {**GOOD, "parameters": {"binary_data": False}},
        id="seven",
        parameters={"priority": 3, "tag": "a"},
        outputs=[{"name": "y", "parameters": {"binary_data": False}}],
    )
    got = decode(body, [X], [Y])
    assert (got.id, got.outputs) == ("seven", ("y",))
    assert got.parameters == {"priority": 3, "tag": "a"}


def test_fields_that_nobody_knows_are_passed_over_as_the_protocol_grows() -> None:
    got = decode(request_of({**GOOD, "novel": 1}, novel={"a": []}), [X], [Y])
    assert got.inputs["x"].tolist() == [[1.0, 2.0]]


def test_a_response_names_its_model_and_lists_outputs_in_the_order_of_the_spec() -> None:
    outputs = {"y": np.float32([[1, 2]]), "a": np.int64([3])}
    answer = InferResponse("m", "1", outputs, id="seven", parameters={"truncated": True})
    assert json.loads(encode(answer, [TensorSpec("a", "INT64"), Y])) == {
        "model_name": "m",
        "model_version": "1",
        "id": "seven",
        "parameters": {"truncated": True},
        "outputs": [
            {"name": "a", "datatype": "INT64", "shape": [1], "data": [3]},
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]},
        ],
    }


def test_a_response_without_id_and_parameters_does_not_mention_them() -> None:
    written = json.loads(encode(InferResponse("m", "1", {}), [Y]))
    assert written == {"model_name": "m", "model_version": "1", "outputs": []}


def test_a_view_that_is_not_contiguous_is_written_row_by_row() -> None:
    turned = np.arange(4, dtype=np.float32).reshape(2, 2).T
    (wire,) = json.loads(encode(InferResponse("m", "1", {"y": turned}), [Y]))["outputs"]
    assert wire["data"] == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("spec", "array", "message"),
    [
        pytest.param(
            Y,
            np.float32([[np.nan, 0]]),
            "output 'y' has NaN or infinity, which JSON cannot carry",
            id="nan has no JSON",
        ),
        pytest.param(
            Y,
            np.float32([[np.inf, 0]]),
            "output 'y' has NaN or infinity, which JSON cannot carry",
            id="nor has infinity",
        ),
        pytest.param(
            TensorSpec("y", "FP16"),
            np.float16([1]),
            "output 'y' is FP16, which is binary only",
            id="the protocol has no FP16 in JSON",
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
        encode(InferResponse("m", "1", {"y": array}), [spec])
    assert str(failed.value) == message


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(
            b"", "body: not JSON: Input is a zero-length, empty document", id="empty body"
        ),
        pytest.param(b"{", "body: not JSON: ", id="cut off"),
        pytest.param(b"x=1&y=2", "body: not JSON: ", id="a form"),
        pytest.param(b'{"inputs": "\xff"}', "body: not JSON: ", id="not UTF-8"),
        pytest.param(b'{"inputs": "\\ud800"}', "body: not JSON: ", id="half a surrogate pair"),
        pytest.param(b'{"inputs": NaN}', "body: not JSON: ", id="NaN is no JSON"),
        pytest.param(b'{"inputs": 1e999}', "body: not JSON: ", id="beyond every float"),
        pytest.param(b"[" * 100_000, "body: not JSON: ", id="deeper than any parser goes"),
    ],
)
def test_a_body_that_is_not_json_is_refused_with_the_parser_s_words(
    body: bytes, message: str
) -> None:
    assert refusal(body).startswith(message)


TWICE = request_of(GOOD, GOOD)
LACKING = {key: {k: v for k, v in GOOD.items() if k != key} for key in GOOD}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"[]", "body: Expected `object`, got `array`", id="an array is no request"),
        pytest.param(b"7", "body: Expected `object`, got `int`", id="nor is a number"),
        pytest.param(
            b"{}", "body: Object missing required field `inputs`", id="nothing to compute"
        ),
        pytest.param(
            b'{"inputs": {}}', "inputs: Expected `array`, got `object`", id="inputs is no object"
        ),
        pytest.param(
            request_of(GOOD, id=7), "id: Expected `str | null`, got `int`", id="ids are strings"
        ),
        pytest.param(
            request_of(LACKING["name"]),
            "inputs[0]: Object missing required field `name`",
            id="a tensor without a name",
        ),
        pytest.param(
            request_of(LACKING["datatype"]),
            "inputs[0]: Object missing required field `datatype`",
            id="a tensor without a datatype",
        ),
        pytest.param(
            request_of(LACKING["shape"]),
            "inputs[0]: Object missing required field `shape`",
            id="a tensor without a shape",
        ),
        pytest.param(
            request_of(LACKING["data"]),
            "inputs[0]: Object missing required field `data`",
            id="a tensor without data, as when it is binary",
        ),
        pytest.param(
            request_of({**GOOD, "name": 1}),
            "inputs[0].name: Expected `str`, got `int`",
            id="a name is a string",
        ),
        pytest.param(
            request_of({**GOOD, "shape": "1x2"}),
            "inputs[0].shape: Expected `array`, got `str`",
            id="a shape is a list",
        ),
        pytest.param(
            request_of({**GOOD, "shape": [1.0, 2]}),
            "inputs[0].shape[0]: Expected `int`, got `float`",
            id="sizes are whole",
        ),
        pytest.param(
            request_of({**GOOD, "shape": [True, 2]}),
            "inputs[0].shape[0]: Expected `int`, got `bool`",
            id="true is no size",
        ),
        pytest.param(
            request_of({**GOOD, "data": 1.0}),
            "inputs[0].data: Expected `array`, got `float`",
            id="data is a list, also of one",
        ),
        pytest.param(
            request_of(GOOD, parameters={"a": [1]}),
            "parameters[...]: Expected `bool | int | float | str`, got `array`",
            id="parameters are flat",
        ),
        pytest.param(TWICE, "x: the tensor is there twice", id="which of the two?"),
        pytest.param(
            request_of({**GOOD, "name": "z"}),
            "z: unexpected tensor; expected x, ids",
            id="a tensor that the model does not know",
        ),
        pytest.param(
            request_of(GOOD, outputs=[{"name": "z"}]),
            "outputs: z: no such output; expected y",
            id="an output that the model does not have",
        ),
        pytest.param(
            request_of({**GOOD, "datatype": "FP64"}),
            "x: datatype 'FP64' does not fit, expected FP32",
            id="nothing is cast, not even up",
        ),
        pytest.param(
            request_of({**GOOD, "shape": [2]}),
            "x: shape with 1 axes does not fit, expected [-1, 2]",
            id="rows come first",
        ),
        pytest.param(
            request_of({**GOOD, "shape": [-1, 2]}),
            "x: shape [-1, 2] has a negative size",
            id="-1 is for metadata",
        ),
        pytest.param(
            request_of({**GOOD, "shape": [2, 2]}),
            "x: shape [2, 2] needs 4 values, data has 2",
            id="too few values",
        ),
        pytest.param(
            request_of({**GOOD, "shape": [2**62, 8]}),
            f"x: shape [{2**62}, 8] needs {2**65} values, data has 2",
            id="a product beyond 64 bits",
        ),
        pytest.param(
            request_of({**GOOD, "data": [[1.0, 2.0], [3.0]]}),
            "x: data is nested unevenly",
            id="a row is short",
        ),
        pytest.param(
            request_of({**GOOD, "data": [[1.0], 2.0]}),
            "x: data is nested unevenly",
            id="a value among rows",
        ),
        pytest.param(
            request_of({**GOOD, "data": [1.0, [2.0]]}),
            "x: data is nested unevenly",
            id="a row among values",
        ),
        pytest.param(
            request_of({**GOOD, "data": [[1.0], [2.0]]}),
            "x: data is nested as [2, 1], but shape says [1, 2]",
            id="nested the other way round",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_refused_by_field_and_reason(
    body: bytes, message: str
) -> None:
    assert refusal(body) == message


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
            id="2.0 is not whole on the wire",
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
            id="true is not 1.0",
        ),
        pytest.param(
            tensor("INT32", [2], [2, True]),
            "data holds true or false, expected whole numbers",
            id="true is not 1",
        ),
        pytest.param(
            tensor("BOOL", [2], [True, 0]),
            "data holds whole numbers, expected true or false",
            id="0 is not false",
        ),
        pytest.param(
            tensor("FP16", [1], [1.0]),
            "FP16 cannot travel as JSON, only as binary",
            id="the protocol has no FP16 in JSON",
        ),
        pytest.param(
            tensor("BF16", [1], [1.0]),
            "BF16 cannot travel as JSON, only as binary",
            id="nor BF16",
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
            tensor("FP32", [0, 2**63], []),
            f"shape [0, {2**63}] is too large",
            id="no values, but no such array either",
        ),
    ],
)
def test_values_that_do_not_fit_their_datatype_are_refused(
    case: tuple[bytes, TensorSpec], message: str
) -> None:
    body, spec = case
    assert refusal(body, spec) == f"t: {message}"


@pytest.mark.parametrize("sizes", [65, 300, 100_000], ids=["numpy", "digits", "time"])
def test_a_shape_of_many_huge_sizes_is_refused_without_multiplying_them(sizes: int) -> None:
    body = request_of({**GOOD, "shape": [2**62] * sizes})
    assert refusal(body) == f"x: shape with {sizes} axes does not fit, expected [-1, 2]"


def test_one_long_string_among_numbers_does_not_make_every_value_as_wide() -> None:
    # as a numpy array of strings this were 16 GB
    body, spec = tensor("FP32", [100_001], ["a" * 40_000, *[1] * 100_000])
    assert refusal(body, spec) == "t: data holds strings, expected numbers"


@pytest.mark.parametrize("spec", [X, TensorSpec("x", "BYTES", (2,))], ids=["numbers", "text"])
def test_data_nested_as_deep_as_the_parser_goes_is_refused(spec: TensorSpec) -> None:
    body = request_of({**GOOD, "datatype": spec.datatype, "data": "deep"})
    deep = b"[" * 1000 + b"1.0" + b"]" * 1000
    assert refusal(body.replace(b'"deep"', deep), spec).startswith("x: data is nested as [1, 1, 1,")


# --- whatever comes -------------------------------------------------------------------------------


def check_that_it_is_refused_or_right(body: bytes) -> None:
    specs = (X, IDS, TensorSpec("text", "BYTES"), TensorSpec("flag", "BOOL", (2, LENGTH)))
    try:
        got = decode(body, specs, (Y,))
    except InvalidRequest:
        return
    assert isinstance(got, InferRequest)
    asked = {wire["name"]: wire for wire in json.loads(body)["inputs"]}
    for spec in specs:
        if spec.name in got.inputs:
            assert got.inputs[spec.name].dtype == spec.dtype
            assert list(got.inputs[spec.name].shape) == asked[spec.name]["shape"]


@given(st.binary(max_size=64))
def test_any_bytes_are_refused(body: bytes) -> None:
    check_that_it_is_refused_or_right(body)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
SIZES = st.lists(st.integers(0, 3) | st.sampled_from([-1, 2**31, 2**62, 2**63, 2**64]), max_size=4)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "ids", "text", "flag", "z"]) | JSON,
        "shape": SIZES | JSON,
        "datatype": st.sampled_from(["FP32", "INT64", "BYTES", "BOOL"]) | JSON,
        "data": st.lists(st.integers() | st.floats(-9, 9) | st.text(max_size=1), max_size=4)
        | st.lists(st.lists(st.integers(-9, 9), max_size=3), max_size=3)
        | JSON,
    },
    optional={"parameters": JSON},
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=3) | JSON},
    optional={"id": JSON, "parameters": JSON, "outputs": JSON},
)


@settings(max_examples=300)
@given(REQUESTS | JSON)
def test_any_json_is_refused_or_understood_as_it_says(request: Any) -> None:
    check_that_it_is_refused_or_right(json.dumps(request).encode())
