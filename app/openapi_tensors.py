"""The infer request and answer of one model as schemas: its tensors' names, datatypes and shapes.

May touch: nothing. Written in JSON Schema 2020-12, as msgspec writes; `openapi_schema.py` makes it
OpenAPI's.
"""

from __future__ import annotations

from typing import Any, Final

from app.codec.oip import BINARY_ONLY
from engine.model import Model
from engine.spec import TensorSpec

_VALUES: Final = {
    "b": {"type": "boolean"},
    "i": {"type": "integer"},
    "u": {"type": "integer"},
    "f": {"type": "number"},
    "O": {"type": "string"},
}
"""Numpy's kind of dtype -> one value in JSON."""


def request_schema(model: Model) -> dict[str, Any]:
    """The protocol's request, with this model's tensors."""
    return _object(
        required=("inputs",),
        id={"type": "string"},
        parameters={"type": "object"},
        inputs={
            "type": "array",
            "minItems": len(model.inputs),
            "maxItems": len(model.inputs),
            "items": {"oneOf": [_input(spec) for spec in model.inputs]},
        },
        outputs={
            "type": "array",
            "items": _object(
                required=("name",),
                name={"enum": [spec.name for spec in model.outputs]},
                parameters=_object(binary_data={"type": "boolean"}),
            ),
        },
    )


def answer_schema(model: Model) -> dict[str, Any]:
    """The protocol's answer, with this model's tensors."""
    return _object(
        required=("model_name", "model_version", "outputs"),
        model_name={"type": "string"},
        model_version={"type": "string"},
        id={"type": "string"},
        parameters={"type": "object"},
        outputs={"type": "array", "items": {"oneOf": [_output(spec) for spec in model.outputs]}},
    )


def _input(spec: TensorSpec) -> dict[str, Any]:
    """A row that is one value may have an axis of its own, too."""
    return _tensor(spec, axes=(1 + len(spec.shape), 1 + max(1, len(spec.shape))), nested=True)


def _output(spec: TensorSpec) -> dict[str, Any]:
    return _tensor(spec, axes=(1 + len(spec.shape), 1 + len(spec.shape)), nested=False)


def _tensor(spec: TensorSpec, *, axes: tuple[int, int], nested: bool) -> dict[str, Any]:
    """Name and datatype are fixed, the shape where the model's is; what is binary has no data."""
    binary_only = spec.datatype in BINARY_ONLY
    size = {"type": "integer", "minimum": 0}
    fields: dict[str, Any] = {
        "name": {"const": spec.name},
        "datatype": {"const": spec.datatype},
        "shape": {
            "type": "array",
            "description": f"{list(spec.wire_shape)}, where -1 is what varies",
            "minItems": axes[0],
            "maxItems": axes[1],
            "items": {"type": "integer", "minimum": 1},
        },
        "parameters": _object(
            required=("binary_data_size",) if binary_only else (), binary_data_size=size
        ),
    }
    required = ["name", "datatype", "shape"]
    if binary_only:
        required.append("parameters")
    else:
        value = _VALUES[spec.dtype.kind]
        fields["data"] = {
            "type": "array",
            "description": "row-major, nested or flat" if nested else "row-major, flat",
            "items": {"oneOf": [value, {"type": "array"}]} if nested else value,
        }
    return _object(required=tuple(required), **fields)


def _object(*, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    # an empty list is not allowed in OpenAPI 3.0
    return schema | ({"required": list(required)} if required else {})
