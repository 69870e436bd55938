"""What a client may leave out, set to null, or add: fields and parameters of every request type."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.codecs import oip, openai
from app.http.codecs.messages import InferRequest, decodable_types, parse
from app.http.codecs.parameters import OF_REQUESTS, OF_TENSORS
from app.http.openapi.parts import Components
from app.http.routes.models import IndexRequest
from engine.models.processor import HostProcessor, TokenIds
from engine.models.tensors import TensorSpec
from engine.serving.version import ModelInterface
from engine.testing import puppet_config, puppet_model
from tests.app.wire import GOOD, X, Y, binary, elements, read, refusal, request_of, same

# --- optional is nullable -------------------------------------------------------------------------

SMALLEST: dict[type[msgspec.Struct], dict[str, Any]] = {
    oip.WireRequest: {"inputs": []},
    oip.WireTensor: {"name": "x", "shape": [1], "datatype": "FP32"},
    oip.WireOutput: {"name": "y"},
    openai.EmbeddingsRequest: {"model": "m", "input": "a"},
    IndexRequest: {},
}
"""A request of every type, and of every type inside, with the required fields only."""


def structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """A type, and those that its fields hold."""
    pending = [msgspec.inspect.type_info(kind)]
    while pending:
        info = pending.pop()
        if isinstance(info, msgspec.inspect.StructType):
            yield info.cls
            pending += [field.type for field in info.fields]
        pending += getattr(info, "types", ())
        pending += [inner] if (inner := getattr(info, "item_type", None)) else []


FIELDS = [
    pytest.param(kind, field.encode_name, id=f"{kind.__name__}.{field.encode_name}")
    for kind in SMALLEST
    for field in msgspec.structs.fields(kind)
    if not field.required
]


def test_every_type_of_a_request_is_in_the_table() -> None:
    found = {kind for root in decodable_types() for kind in structs(root)}
    assert found == set(SMALLEST)


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_an_optional_field_may_be_null_and_then_is_as_good_as_missing(
    kind: type[msgspec.Struct], name: str
) -> None:
    smallest = SMALLEST[kind]
    assert msgspec.convert(smallest | {name: None}, kind) == msgspec.convert(smallest, kind)


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_the_document_says_that_an_optional_field_may_be_null(
    kind: type[msgspec.Struct], name: str
) -> None:
    components = Components()
    components.of(kind)
    field = components.schemas[kind.__name__]["properties"][name]
    anything = field == {"default": None}
    assert anything or field["nullable"]
    assert "enum" not in field or None in field["enum"]


def test_a_request_with_null_wherever_it_is_allowed_is_the_shortest_one() -> None:
    nulls = {"id": None, "parameters": None, "outputs": None}
    said = read(request_of({**GOOD, "parameters": None}, **nulls), X)
    assert_same(said, read(request_of(GOOD), X))
    named = {"outputs": [{"name": "y", "parameters": None}]}
    assert_same(read(request_of(GOOD, **named), X), read(request_of(GOOD), X))


def assert_same(one: InferRequest, other: InferRequest) -> None:
    """The requests ask for the same."""
    assert one.inputs.keys() == other.inputs.keys()
    assert all(same(one.inputs[name], other.inputs[name]) for name in one.inputs)
    fields = [field for field in InferRequest.__struct_fields__ if field != "inputs"]
    assert [getattr(one, each) for each in fields] == [getattr(other, each) for each in fields]


KNOWN = ("timeout", "priority", "binary_data_output", *OF_REQUESTS)
KNOWN_OF_TENSORS = ("binary_data_size", "binary_data", "content_type", *OF_TENSORS)


def with_parameters(level: str, parameters: dict[str, Any]) -> bytes:
    """A request with parameters of its own, of its input or of its output."""
    match level:
        case "request":
            return request_of(GOOD, parameters=parameters)
        case "input":
            return request_of({**GOOD, "parameters": parameters})
        case _:
            return request_of(GOOD, outputs=[{"name": "y", "parameters": parameters}])


@pytest.mark.parametrize(
    ("level", "key"),
    [
        *(("request", key) for key in KNOWN),
        *((level, key) for level in ("input", "output") for key in KNOWN_OF_TENSORS),
    ],
)
def test_a_known_parameter_that_is_null_is_as_good_as_missing(level: str, key: str) -> None:
    assert_same(read(with_parameters(level, {key: None}), X), read(request_of(GOOD), X))


@pytest.mark.parametrize(
    ("level", "key", "value"),
    [
        pytest.param("request", "sequence_id", 0, id="no-sequence"),
        pytest.param("request", "sequence_id", "", id="no-name-of-a-sequence"),
        pytest.param("output", "classification", 0, id="no-classes"),
    ],
)
def test_what_asks_for_nothing_is_not_refused(level: str, key: str, value: Any) -> None:
    assert_same(read(with_parameters(level, {key: value}), X), read(request_of(GOOD), X))


# --- what is ignored is really ignored ------------------------------------------------------------

LEVELS = ("request", "input", "output")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(-9, 9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
UNKNOWN = st.dictionaries(
    (st.text() | st.sampled_from(["headers", "tag", "Timeout", "content-type"])).filter(
        lambda key: key not in (*KNOWN, *KNOWN_OF_TENSORS)
    ),
    JSON,
    max_size=4,
)


@pytest.mark.parametrize("level", LEVELS)
@given(parameters=UNKNOWN)
def test_any_json_in_an_unknown_parameter_changes_nothing(
    level: str, parameters: dict[str, Any]
) -> None:
    assert_same(read(with_parameters(level, parameters), X), read(request_of(GOOD), X))


@given(parameters=UNKNOWN)
def test_unknown_parameters_beside_known_ones_change_nothing(parameters: dict[str, Any]) -> None:
    known = {"timeout": 5, "priority": 2, "binary_data_output": True}
    said = read(request_of(GOOD, parameters=known | parameters), X)
    assert_same(said, read(request_of(GOOD, parameters=known), X))


@given(value=JSON)
def test_any_user_of_an_embeddings_request_is_ignored(value: Any) -> None:
    body = {"model": "m", "input": "a"}
    asked = parse(json.dumps(body | {"user": value}).encode(), openai.EmbeddingsRequest)
    asked.user = None
    assert asked == parse(json.dumps(body).encode(), openai.EmbeddingsRequest)


@pytest.mark.parametrize(
    ("level", "key", "field"),
    [
        ("request", "timeout", "parameters.timeout"),
        ("request", "priority", "parameters.priority"),
        ("request", "binary_data_output", "parameters.binary_data_output"),
        ("output", "binary_data", "parameters.binary_data"),
    ],
)
@pytest.mark.parametrize("value", [[1], {"a": 1}, "x" * 10_000], ids=["list", "object", "text"])
def test_a_known_parameter_of_another_kind_is_refused_in_few_words(
    level: str, key: str, field: str, value: Any
) -> None:
    header = with_parameters(level, {key: value})
    said = refusal(header, X, header=len(header))
    assert said.startswith(f"{field}: got ")
    assert len(said) < 150


# --- MLServer's content types ---------------------------------------------------------------------

TEXT = TensorSpec("t", "BYTES")


def encoded(*texts: bytes) -> list[str]:
    return [base64.b64encode(text).decode() for text in texts]


def text(data: list[Any], shape: list[int], **parameters: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "datatype": "BYTES",
        "shape": shape,
        "data": data,
        "parameters": parameters,
    }


@pytest.mark.parametrize("kind", ["str", "np", "pd", "hf", "text/plain", 7, ["base64"], None])
def test_other_content_types_leave_a_text_as_it_is(kind: Any) -> None:
    body = request_of(text(["YQ=="], [1], content_type=kind))
    assert read(body, TEXT).inputs["t"].tolist() == [b"YQ=="]


@pytest.mark.parametrize("shape", [[2], [2, 1]], ids=str)
def test_base64_is_decoded(shape: list[int]) -> None:
    body = request_of(text(encoded(b"\xff\0", b""), shape, content_type="base64"))
    assert read(body, TEXT).inputs["t"].tolist() == [b"\xff\0", b""]


def test_base64_in_a_binary_tensor_is_decoded() -> None:
    raw = elements(*(part.encode() for part in encoded(b"full", b"brim")))
    tensor = binary(TEXT, (2,), len(raw))
    tensor["parameters"]["content_type"] = "base64"
    header = request_of(tensor)
    assert read(header + raw, TEXT, header=len(header)).inputs["t"].tolist() == [b"full", b"brim"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param(
            lambda: refusal(request_of(text(["YQ==", "a b"], [2], content_type="base64")), TEXT),
            "t: data[1] is not base64: ",
            id="no-base64",
        ),
        pytest.param(
            lambda: refusal(request_of({**GOOD, "parameters": {"content_type": "base64"}}), X),
            "x: parameters.content_type: base64 encodes BYTES, but the tensor is FP32",
            id="numbers",
        ),
        pytest.param(
            lambda: refusal(with_parameters("output", {"content_type": "base64"}), X),
            "outputs: y: parameters.content_type: outputs are not encoded as base64; "
            "set binary_data for raw bytes",
            id="an-output",
        ),
    ],
)
def test_base64_that_cannot_be_honoured_is_refused(asked: Callable[[], str], message: str) -> None:
    assert asked().startswith(message)


# --- rows -----------------------------------------------------------------------------------------

MANY = {"name": "x", "shape": [4, 2], "datatype": "FP32", "data": ["no number"]}


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param([MANY], id="JSON"),
        pytest.param([GOOD, MANY | {"name": "z"}], id="the-second-tensor"),
        pytest.param([binary(X, (4, 2), 10**9)], id="binary"),
    ],
)
def test_too_many_rows_are_refused_before_any_value_is_read(tensors: list[dict[str, Any]]) -> None:
    header = request_of(*tensors)
    with pytest.raises(oip.InvalidRequest) as refused:
        oip.decode(header, len(header), [X, TensorSpec("z", "FP32", (2,))], [Y], max_rows=3)
    expected = "4 rows in one request, expected 1 to 3 (max_request_rows); send several requests"
    assert str(refused.value) == f"{tensors[-1]['name']}: {expected}"


READER = ModelInterface(
    "1", puppet_model().signature, HostProcessor(preprocess_ids=lambda rows: 1 / 0)
)


def decoded(given_: Any, max_rows: int) -> Any:
    """The inputs of an embeddings request."""
    asked = openai.EmbeddingsRequest(given_, "m")
    return openai.decode(asked, TEXT, READER, puppet_config(token_ids=True), max_rows)


@pytest.mark.parametrize("given_", [["a"] * 4, [[1]] * 3 + [[]]], ids=["texts", "tokens"])
def test_too_many_embeddings_are_refused_before_any_text_is_read(given_: list[Any]) -> None:
    with pytest.raises(oip.InvalidRequest, match="input: 4 rows in one request, expected 1 to 3"):
        decoded(given_, 3)


def test_the_token_ids_of_one_text_are_one_row() -> None:
    assert decoded([1, 2, 3, 4], 1) == TokenIds([[1, 2, 3, 4]])
