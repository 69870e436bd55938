"""Conversion of JSON Schema 2020-12 to the dialect of OpenAPI 3.0."""

from __future__ import annotations

from typing import Any

import pytest

from app.http.openapi.parts import answer_schema, as_openapi_3_0, request_schema
from engine.models.tensors import TensorSpec
from engine.testing import puppet_model

NULL = {"type": "null"}
TEXT = {"type": "string"}
NUMBER = {"type": "number"}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param(TEXT, TEXT, id="common-keywords-stay"),
        pytest.param({"const": 8}, {"enum": [8]}, id="const-is-an-enum-of-one"),
        pytest.param(
            {"anyOf": [TEXT, NULL], "default": None},
            {"type": "string", "nullable": True, "default": None},
            id="null-among-two-is-nullable",
        ),
        pytest.param(
            {"anyOf": [{"enum": ["a", "b"]}, NULL]},
            {"enum": ["a", "b", None], "nullable": True},
            id="null-is-one-of-the-values",
        ),
        pytest.param(
            {"anyOf": [TEXT, NUMBER, NULL]},
            {"anyOf": [TEXT, NUMBER], "nullable": True},
            id="null-among-several-is-nullable",
        ),
        pytest.param(
            {"anyOf": [TEXT, NUMBER]}, {"anyOf": [TEXT, NUMBER]}, id="several-without-null-stay"
        ),
        pytest.param(
            {"anyOf": [{"$ref": "#/x"}, NULL]},
            {"allOf": [{"$ref": "#/x"}], "nullable": True},
            id="a-reference-stands-alone",
        ),
        pytest.param({"type": "array"}, {"type": "array", "items": {}}, id="an-array-has-items"),
        pytest.param(
            {"type": "object", "required": []},
            {"type": "object"},
            id="an-empty-required-is-removed",
        ),
        pytest.param(
            {"type": "string", "description": "One.\n\n    Two."},
            {"type": "string", "description": "One.\n\nTwo."},
            id="a-docstring-is-not-indented",
        ),
        pytest.param(
            {"type": "object", "properties": {"x": {"const": "a"}}},
            {"type": "object", "properties": {"x": {"enum": ["a"]}}},
            id="nested-schemas",
        ),
    ],
)
def test_a_schema_means_the_same_in_the_older_dialect(written: Any, read: Any) -> None:
    assert as_openapi_3_0(written) == read


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (TensorSpec("x", "INT32", (4,)), {"type": "integer"}),
        (
            TensorSpec("x", "INT64", (4,)),
            {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
        ),
        (
            TensorSpec("x", "INT64", (4,), low=0, high=499),
            {"type": "integer", "minimum": 0, "maximum": 499},
        ),
        (
            TensorSpec("x", "INT8", high=9),
            {"type": "integer", "minimum": -128, "maximum": 9},
        ),
    ],
    ids=["none", "narrowed", "both-ends", "one-end"],
)
def test_the_range_of_an_input_is_in_its_schema(spec: TensorSpec, values: dict[str, Any]) -> None:
    schema = request_schema(puppet_model(inputs=(spec,)).signature)
    (tensor,) = schema["properties"]["inputs"]["items"]["oneOf"]
    data, _null = tensor["properties"]["data"]["anyOf"]
    flat, _nested = data["items"]["oneOf"]
    assert flat == values


def test_the_outputs_of_64_bits_have_no_range() -> None:
    model = puppet_model(outputs=(TensorSpec("y", "INT64"),))
    (tensor,) = answer_schema(model.signature)["properties"]["outputs"]["items"]["oneOf"]
    assert tensor["properties"]["data"]["items"] == {"type": "integer"}
