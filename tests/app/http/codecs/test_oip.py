"""Infer requests and responses: JSON, tensors after it, or one raw tensor.

What any of them says of itself, a length, a count, a datatype, may be a lie.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.codecs import oip, tensors
from app.http.codecs.messages import InferRequest, InferResponse
from engine.errors import ExecutionFailed, InvalidRequest
from engine.models.tensors import DTYPES, LENGTH, Array, TensorSpec
from tests.app.wire import (
    GOOD,
    IDS,
    SHAPES,
    X,
    Y,
    any_bits,
    binary,
    binary_tensors,
    elements,
    json_tensors,
    read,
    read_binary,
    refusal,
    request_of,
    same,
)

# --- round trips ----------------------------------------------------------------------------------

MIXED = st.lists(
    st.one_of(
        json_tensors().map(lambda case: (*case, False)),
        binary_tensors().map(lambda case: (*case, True)),
    ),
    min_size=1,
    max_size=4,
)


def as_request(content: bytes, header: int | None) -> tuple[bytes, int | None]:
    """A response as a request: its outputs become inputs."""
    end = len(content) if header is None else header
    again = json.dumps({"inputs": json.loads(content[:end])["outputs"]}).encode()
    return again + content[end:], None if header is None else len(again)


@given(MIXED)
def test_json_and_binary_tensors_of_one_message_are_read_back_bit_by_bit(
    cases: list[tuple[TensorSpec, Array, bool]],
) -> None:
    specs = [TensorSpec(f"t{n}", spec.datatype, spec.shape) for n, (spec, *_) in enumerate(cases)]
    arrays = {f"t{n}": array for n, (_, array, _) in enumerate(cases)}
    raw = frozenset(f"t{n}" for n, (*_, as_binary) in enumerate(cases) if as_binary)
    asked = InferRequest({}, tuple(arrays), raw)
    content, header = oip.encode(InferResponse("m", "1", arrays), asked, specs)
    assert (header is not None) == bool(raw)
    got = oip.decode(*as_request(content, header), specs, [])
    assert list(got.inputs) == list(arrays)
    assert all(same(got.inputs[name], arrays[name]) for name in arrays)


@given(st.data())
def test_a_raw_request_is_one_row_of_the_only_input(data: st.DataObject) -> None:
    datatype = data.draw(st.sampled_from(sorted(DTYPES.keys() - {"BYTES"})))
    row = data.draw(SHAPES)[1:]
    dynamic = data.draw(st.sampled_from([None, *range(len(row))]))
    spec = TensorSpec(
        "t", datatype, tuple(LENGTH if n == dynamic else size for n, size in enumerate(row))
    )
    array = data.draw(any_bits(datatype, (1, *row)))
    got = read(bytes(tensors.encode_binary(spec, array)), spec, header=0)
    assert same(got.inputs["t"], array)


@given(st.binary(max_size=20))
def test_a_raw_request_of_text_is_the_body_itself(body: bytes) -> None:
    got = read(body, TensorSpec("t", "BYTES"), header=0)
    assert got.inputs["t"].tolist() == [body]


def test_a_raw_request_gets_every_output_as_binary() -> None:
    got = oip.decode(bytes(8), 0, [X], [Y, TensorSpec("z", "BF16")])
    assert (got.outputs, got.binary) == (("y", "z"), {"y", "z"})
    assert (got.id, got.timeout_s, got.priority) == (None, None, 0)


def test_a_binary_tensor_is_a_view_of_the_body() -> None:
    header = request_of(GOOD | {"name": "z"}, binary(X, (1, 2), 8))
    body = header + np.float32([[1, 2]]).tobytes()
    got = oip.decode(body, len(header), [X, TensorSpec("z", "FP32", (2,))], [Y])
    assert got.inputs["x"].tolist() == [[1.0, 2.0]]
    whole = np.frombuffer(body, np.uint8)
    assert np.shares_memory(got.inputs["x"], whole)
    assert not np.shares_memory(got.inputs["z"], whole)


def test_a_raw_tensor_is_a_view_of_the_body() -> None:
    body = bytes(8)
    assert np.shares_memory(read(body, X, header=0).inputs["x"], np.frombuffer(body, np.uint8))


def test_binary_tensors_come_in_the_order_of_the_json_and_not_of_the_spec() -> None:
    header = request_of(binary(IDS, (1, 1), 8), binary(X, (1, 2), 8))
    raw = np.int64([5]).tobytes() + np.float32([1, 2]).tobytes()
    got = read_binary(header, raw, X, IDS)
    assert got.inputs["ids"].tolist() == [[5]]
    assert got.inputs["x"].tolist() == [[1.0, 2.0]]


def test_the_header_may_be_there_though_every_tensor_is_json() -> None:
    assert read_binary(request_of(GOOD), b"").inputs["x"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("data", [["a", "b"], [["a"], ["b"]]], ids=["flat", "nested"])
def test_a_row_of_one_value_may_come_with_an_axis_of_its_own(data: list[Any]) -> None:
    text = TensorSpec("t", "BYTES")
    tensor = {"name": "t", "shape": [2, 1], "datatype": "BYTES", "data": data}
    assert read(request_of(tensor), text).inputs["t"].tolist() == [b"a", b"b"]
    raw = elements(b"a", b"b")
    header = request_of(binary(text, (2, 1), len(raw)))
    assert read_binary(header, raw, text).inputs["t"].tolist() == [b"a", b"b"]


@pytest.mark.parametrize("shape", [[1, 2], [2, 1, 1], []], ids=str)
def test_a_row_of_one_value_may_not_have_other_axes(shape: list[int]) -> None:
    tensor = {"name": "t", "shape": shape, "datatype": "INT32", "data": [1, 2]}
    assert refusal(request_of(tensor), TensorSpec("t", "INT32")) == (
        f"t: shape with {len(shape)} axes does not fit, expected [-1]"
    )


# --- other fields of a request --------------------------------------------------------------------


def test_a_request_keeps_its_id_its_timeout_and_its_priority() -> None:
    parameters = {"timeout": 1_500_000, "priority": 3, "tag": "a"}
    got = read(request_of(GOOD, id="seven", parameters=parameters), X)
    assert (got.id, got.timeout_s, got.priority) == ("seven", 1.5, 3)


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({}, id="no parameters"),
        pytest.param({"timeout": 0, "priority": 0}, id="zero selects the default"),
        pytest.param({"sequence_id": 0}, id="sequence 0"),
        pytest.param({"sequence_id": ""}, id="empty sequence name"),
    ],
)
def test_parameters_default_to_the_servers_choice(parameters: dict[str, Any]) -> None:
    got = read(request_of(GOOD, parameters=parameters), X)
    assert (got.id, got.timeout_s, got.priority) == (None, None, 0)
    assert (got.outputs, got.binary) == (("y",), frozenset())


def test_unknown_fields_are_ignored() -> None:
    got = read(request_of({**GOOD, "novel": 1}, novel={"a": []}), X)
    assert got.inputs["x"].tolist() == [[1.0, 2.0]]


SHARED_MEMORY = {
    "shared_memory_region": "mine",
    "shared_memory_byte_size": 8,
    "shared_memory_offset": 0,
}
NO_SHARED_MEMORY = "shared memory is not served; tensors travel in the body"

YZ = (Y, TensorSpec("z", "BF16"))
SET, UNSET = {"binary_data": True}, {"binary_data": False}


@pytest.mark.parametrize(
    ("outputs", "parameters", "names", "as_binary"),
    [
        pytest.param(
            [{"name": "z", "parameters": SET}, {"name": "y"}], {}, "zy", "z", id="in its own order"
        ),
        pytest.param(None, {"binary_data_output": True}, "yz", "yz", id="all, as binary"),
        pytest.param([], {"binary_data_output": True}, "yz", "yz", id="an empty list is all"),
        pytest.param(
            [{"name": "y", "parameters": UNSET}, {"name": "z"}],
            {"binary_data_output": True},
            "yz",
            "z",
            id="an output's own parameter takes precedence",
        ),
        pytest.param(
            [{"name": "y", "parameters": {"tag": "a"}}],
            {"binary_data_output": False},
            "y",
            "",
            id="unknown parameters are ignored",
        ),
    ],
)
def test_a_client_chooses_its_outputs_and_their_form(
    outputs: list[dict[str, Any]] | None, parameters: dict[str, Any], names: str, as_binary: str
) -> None:
    body = request_of(GOOD, outputs=outputs, parameters=parameters)
    got = oip.decode(body, None, [X], YZ)
    assert (got.outputs, got.binary) == (tuple(names), frozenset(as_binary))


# --- a response -----------------------------------------------------------------------------------


def test_a_response_names_its_model_and_lists_outputs_in_the_requested_order() -> None:
    outputs = {"y": np.float32([[1, 2]]), "a": np.int64([3])}
    answer = InferResponse("m", "1", outputs, id="seven", parameters={"truncated": True})
    asked = InferRequest({}, ("a", "y"))
    content, header = oip.encode(answer, asked, [Y, TensorSpec("a", "INT64")])
    assert header is None
    assert json.loads(content) == {
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
    content, _ = oip.encode(InferResponse("m", "1", {}), InferRequest({}, ()), [Y])
    assert json.loads(content) == {"model_name": "m", "model_version": "1", "outputs": []}


def test_binary_outputs_follow_the_json_that_has_their_sizes() -> None:
    outputs = {"y": np.float32([[1, 2]]), "a": np.array([b"full"], object), "b": np.int64([7])}
    asked = InferRequest({}, ("a", "b", "y"), frozenset({"a", "y"}))
    specs = [Y, TensorSpec("a", "BYTES"), TensorSpec("b", "INT64")]
    content, header = oip.encode(InferResponse("m", "1", outputs), asked, specs)
    assert header is not None
    a, b, y = json.loads(content[:header])["outputs"]
    assert (a["parameters"], "data" in a) == ({"binary_data_size": 8}, False)
    assert (y["parameters"], "data" in y) == ({"binary_data_size": 8}, False)
    assert (b["data"], "parameters" in b) == ([7], False)
    assert content[header:] == elements(b"full") + np.float32([1, 2]).tobytes()


def test_a_response_that_json_cannot_carry_fails_its_request() -> None:
    answer = InferResponse("m", "1", {"y": np.float32([[1, 2]])}, parameters={"n": 2**70})
    with pytest.raises(ExecutionFailed, match="the answer does not fit into JSON: "):
        oip.encode(answer, InferRequest({}, ("y",)), [Y])


# --- refusals: JSON -------------------------------------------------------------------------------


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
def test_a_body_that_is_not_json_is_refused_with_the_parsers_message(
    body: bytes, message: str
) -> None:
    assert refusal(body).startswith(message)


TWICE = request_of(GOOD, GOOD)
LACKING = {key: {k: v for k, v in GOOD.items() if k != key} for key in GOOD}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"[]", "body: Expected `object`, got `array`", id="an array is no request"),
        pytest.param(b"7", "body: Expected `object`, got `int`", id="a number is no request"),
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
            "inputs[0].data: Expected `array | null`, got `float`",
            id="data is a list, also of one",
        ),
        pytest.param(
            request_of(GOOD, parameters=[1]),
            "parameters: Expected `object | null`, got `array`",
            id="parameters have names",
        ),
        pytest.param(TWICE, "x: the tensor is there twice", id="ambiguous"),
        pytest.param(
            request_of({**GOOD, "name": "z"}),
            "z: unexpected tensor; expected x, ids",
            id="a tensor that the model does not know",
        ),
        pytest.param(
            request_of({**GOOD, "datatype": "FP64"}),
            "x: datatype 'FP64' does not fit, expected FP32",
            id="nothing is cast",
        ),
        pytest.param(
            request_of({**GOOD, "shape": [2]}),
            "x: shape with 1 axes does not fit, expected [-1, 2]",
            id="rows come first",
        ),
        pytest.param(
            request_of({**GOOD, "shape": [-1, 2]}),
            "inputs[0].shape[0]: Expected `int` >= 0",
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
def test_an_invalid_request_is_refused_with_field_and_reason(body: bytes, message: str) -> None:
    assert refusal(body) == message


DEEP = b"[" * 1000 + b"1.0" + b"]" * 1000


@pytest.mark.parametrize("spec", [X, TensorSpec("x", "BYTES", (2,))], ids=["numbers", "text"])
def test_data_nested_to_the_parsers_maximum_depth_is_refused(spec: TensorSpec) -> None:
    body = request_of({**GOOD, "datatype": spec.datatype, "data": "deep"})
    said = refusal(body.replace(b'"deep"', DEEP), spec)
    assert said.startswith("x: data is nested as [1, 1, 1,")


TOO_MANY_AXES = "inputs[0].shape: Expected `array` of length <= 32"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        pytest.param([1] * 32, "x: shape with 32 axes does not fit, expected [-1, 2]", id="most"),
        pytest.param([1] * 33, TOO_MANY_AXES, id="one more"),
        pytest.param([2**62] * 100_000, TOO_MANY_AXES, id="sizes are not multiplied"),
        pytest.param(
            [2**63, 2], "inputs[0].shape[0]: Expected `int` <= 9223372036854775807", id="64 bits"
        ),
    ],
)
@pytest.mark.parametrize("in_binary", [False, True], ids=["json", "binary"])
def test_an_impossible_shape_is_refused(shape: list[int], message: str, in_binary: bool) -> None:
    tensor = {**GOOD, "shape": shape}
    if in_binary:
        tensor = binary(X, tuple(shape), 8)
    header = request_of(tensor)
    assert refusal(header + bytes(8) * in_binary, header=len(header)) == message


# --- refusals: the form of the values -------------------------------------------------------------

FIELD = "x: parameters.binary_data_size"
WHOLE = "expected a whole number from 0 up"


def sized(size: Any) -> dict[str, Any]:
    return binary(X, (1, 2), size)


@pytest.mark.parametrize(
    ("tensors", "raw", "message"),
    [
        pytest.param(
            [sized(12)], bytes(8), "x: binary_data_size is 12, but 8 bytes are left", id="too large"
        ),
        pytest.param(
            [sized(2**63)],
            bytes(8),
            f"x: binary_data_size is {2**63}, but 8 bytes are left",
            id="larger than any memory",
        ),
        pytest.param(
            [sized(4)],
            bytes(4),
            "x: 4 bytes do not fit, shape [1, 2] of FP32 needs 8",
            id="too small for its shape",
        ),
        pytest.param(
            [sized(4)],
            bytes(8),
            "x: 4 bytes do not fit, shape [1, 2] of FP32 needs 8",
            id="half of what is there",
        ),
        pytest.param(
            [sized(8)],
            bytes(9),
            "body: 1 bytes are left over after the binary tensors",
            id="left over",
        ),
        pytest.param(
            [GOOD],
            b"!",
            "body: 1 bytes are left over after the binary tensors",
            id="no binary tensor",
        ),
        pytest.param(
            [sized(8), binary(IDS, (1, 1), 8)],
            bytes(12),
            "ids: binary_data_size is 8, but 4 bytes are left",
            id="none left for the second",
        ),
        pytest.param([sized(-8)], bytes(8), f"{FIELD}: got -8, {WHOLE}", id="negative"),
        pytest.param([sized("8")], bytes(8), f"{FIELD}: got '8', {WHOLE}", id="a string"),
        pytest.param([sized(8.0)], bytes(8), f"{FIELD}: got 8.0, {WHOLE}", id="a decimal"),
        pytest.param([sized(True)], bytes(1), f"{FIELD}: got True, {WHOLE}", id="true for 1"),
        pytest.param(
            [{**GOOD, **sized(8), "data": [1.0, 2.0]}],
            bytes(8),
            "x: data and binary_data_size together; expected one",
            id="both",
        ),
        pytest.param(
            [{key: value for key, value in GOOD.items() if key != "data"}],
            b"",
            "x: no data; expected data, or parameters.binary_data_size",
            id="neither",
        ),
        pytest.param(
            [{**GOOD, "data": None}],
            b"",
            "x: no data; expected data, or parameters.binary_data_size",
            id="null data",
        ),
        pytest.param(
            [binary(TensorSpec("x", "FP64"), (1, 2), 16)],
            bytes(16),
            "x: datatype 'FP64' does not fit, expected FP32",
            id="another datatype",
        ),
        pytest.param(
            [binary(TensorSpec("z", "FP32"), (1, 2), 8)],
            bytes(8),
            "z: unexpected tensor; expected x, ids",
            id="a tensor that the model does not know",
        ),
        pytest.param([sized(8), sized(8)], bytes(16), "x: the tensor is there twice", id="twice"),
    ],
)
def test_a_wrong_size_is_refused(tensors: list[dict[str, Any]], raw: bytes, message: str) -> None:
    header = request_of(*tensors)
    assert refusal(header + raw, header=len(header)) == message


def test_binary_tensors_need_the_header_with_their_offset() -> None:
    assert refusal(request_of(sized(8))) == (
        "x: binary_data_size without a header Inference-Header-Content-Length"
    )


@pytest.mark.parametrize("length", [-1, 10**6, 2**63], ids=str)
def test_a_header_length_beyond_the_body_is_refused(length: int) -> None:
    body = request_of(GOOD)
    assert refusal(body, header=length) == (
        f"Inference-Header-Content-Length: {length} does not fit, expected 0 to {len(body)}, "
        "the length of the body"
    )


@pytest.mark.parametrize("off", [-1, 1], ids=["short", "long"])
def test_a_header_length_that_is_off_by_one_is_refused(off: int) -> None:
    header = request_of(sized(8))
    said = refusal(header + b"\x01" * 8, header=len(header) + off)
    assert said.startswith("body: not JSON: ")


@pytest.mark.parametrize("datatype", sorted(oip.BINARY_ONLY))
def test_sixteen_bit_floats_travel_as_binary_only(datatype: str) -> None:
    spec = TensorSpec("t", datatype)
    tensor = {"name": "t", "shape": [1], "datatype": datatype, "data": [1.0]}
    assert refusal(request_of(tensor), spec) == f"t: {datatype} travels as binary only"
    with pytest.raises(InvalidRequest) as refused:
        oip.decode(request_of(GOOD), None, [X], [spec])
    assert str(refused.value) == (f"outputs: t: {datatype} travels as binary only; set binary_data")


# --- refusals: outputs and parameters -------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(
            {"outputs": [{"name": "z"}]},
            "outputs: z: no such output; expected y",
            id="an output that the model does not have",
        ),
        pytest.param(
            {"outputs": [{"name": "y"}, {"name": "y"}]},
            "outputs: y: the output is named twice",
            id="an output twice",
        ),
        pytest.param(
            {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
            "parameters.binary_data: got 1, expected true or false",
            id="1 for true",
        ),
        pytest.param(
            {"outputs": [{"name": "y", "parameters": {"binary_data": "true"}}]},
            "parameters.binary_data: got 'true', expected true or false",
            id="a string for true",
        ),
        pytest.param(
            {"parameters": {"binary_data_output": 0}},
            "parameters.binary_data_output: got 0, expected true or false",
            id="0 for false",
        ),
        pytest.param(
            {"outputs": [{}]},
            "outputs[0]: Object missing required field `name`",
            id="an output without a name",
        ),
        *(
            pytest.param(
                {"parameters": {key: value}},
                f"parameters.{key}: got {value!r}, {WHOLE}",
                id=f"{key} {value!r}",
            )
            for key in ("timeout", "priority")
            for value in (-1, 1.5, "5", True)
        ),
        *(
            pytest.param(
                {"parameters": {"sequence_id": value}},
                "parameters.sequence_id: sequences are not served; no state is kept",
                id=f"sequence {value!r}",
            )
            for value in (7, "a")
        ),
        pytest.param(
            {"outputs": [{"name": "y", "parameters": {"classification": 2}}]},
            "outputs: y: parameters.classification: classes are not served; "
            "ask for the tensor itself",
            id="classes instead of the tensor",
        ),
        *(
            pytest.param(
                {"outputs": [{"name": "y", "parameters": {key: value}}]},
                f"outputs: y: parameters.{key}: {NO_SHARED_MEMORY}",
                id=f"an output by {key}",
            )
            for key, value in SHARED_MEMORY.items()
        ),
    ],
)
def test_an_unsupported_parameter_is_refused(more: dict[str, Any], message: str) -> None:
    assert refusal(request_of(GOOD, **more)) == message


@pytest.mark.parametrize("key", SHARED_MEMORY)
@pytest.mark.parametrize("data", [None, [1.0, 2.0]], ids=["there", "beside data"])
def test_an_input_in_shared_memory_is_refused(key: str, data: list[float] | None) -> None:
    tensor = {**GOOD, "data": data, "parameters": {key: SHARED_MEMORY[key]}}
    assert refusal(request_of(tensor)) == f"x: parameters.{key}: {NO_SHARED_MEMORY}"


# --- refusals: raw --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specs", "body", "message"),
    [
        pytest.param(
            [X, IDS],
            bytes(8),
            "Inference-Header-Content-Length: 0 means one raw tensor, but the model has 2 inputs",
            id="ambiguous",
        ),
        pytest.param(
            [X], bytes(7), "x: 7 bytes do not fit, shape [1, 2] of FP32 needs 8", id="cut off"
        ),
        pytest.param(
            [X],
            bytes(16),
            "x: 16 bytes do not fit, shape [1, 2] of FP32 needs 8",
            id="two rows",
        ),
        pytest.param(
            [TensorSpec("t", "INT32", (3, LENGTH))],
            bytes(13),
            "t: 13 bytes are no multiple of 12, one step of the dynamic axis",
            id="a length that is not whole",
        ),
    ],
)
def test_an_invalid_raw_request_is_refused(
    specs: list[TensorSpec], body: bytes, message: str
) -> None:
    assert refusal(body, *specs, header=0) == message


@pytest.mark.parametrize("shape", [[2], [2, 1]], ids=["as-it-is", "as-tritons-clients-have-it"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_a_row_of_one_value_has_an_axis_of_size_one_or_none(shape: list[int], nested: bool) -> None:
    spec = TensorSpec("text", "BYTES")
    data: list[Any] = [["a"], ["b"]] if nested and len(shape) > 1 else ["a", "b"]
    tensor = {"name": "text", "datatype": "BYTES", "shape": shape, "data": data}
    body = json.dumps({"inputs": [tensor]}).encode()
    asked = oip.decode(body, None, [spec], [spec])
    assert asked.inputs["text"].tolist() == [b"a", b"b"]


def test_rows_of_one_value_may_not_have_an_axis_of_size_two() -> None:
    spec = TensorSpec("text", "BYTES")
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}
    with pytest.raises(InvalidRequest, match=r"text: shape with 2 axes does not fit"):
        oip.decode(json.dumps({"inputs": [tensor]}).encode(), None, [spec], [spec])
