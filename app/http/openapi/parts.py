"""The parts of the OpenAPI document: schemas, a model's example, and what an `Operation` describes.

The dialect is OpenAPI 3.0: Swagger UI 4, the only version that is packaged for Python, reads no
newer one. msgspec and the functions for a model's tensors write JSON Schema 2020-12, which
`Components` converts.
"""

from __future__ import annotations

from inspect import cleandoc
from math import prod
from typing import Any, Final, NamedTuple

import msgspec

from app.http.codecs.messages import Verdict
from app.http.codecs.oip import BINARY_ONLY
from app.http.responses import operation as responses
from app.http.responses.operation import BINARY, HEADER_LENGTH, JSON, Operation
from app.http.services import MODEL_VERSION
from engine.api import LENGTH, LOWEST_PRIORITY, Signature, TensorSpec

Schema = dict[str, Any]

_NULL: Final = {"type": "null"}
_RETRY_AFTER: Final = {
    "description": "Seconds to wait before a retry",
    "schema": {"type": "integer", "minimum": 1},
}
_LENGTH: Final = {"type": "integer", "minimum": 0}
_BINARY_REQUEST: Final = {
    "name": HEADER_LENGTH,
    "in": "header",
    "description": "Bytes of JSON before the binary tensors. 0: the body is one row of the model's "
    "only input. Without this header the body is JSON alone.",
    "schema": _LENGTH,
}
_TIMEOUT: Final = {
    "name": responses.TIMEOUT_HEADER,
    "in": "header",
    "description": "Maximum milliseconds from the arrival of the request to the answer",
    "schema": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
}
_BINARY_RESPONSE: Final = {
    "description": "Bytes of JSON before the binary tensors; sent only with binary tensors",
    "schema": _LENGTH,
}
_BYTES: Final = {
    "type": "string",
    "format": "binary",
    "description": "The JSON, then the tensors in its order, little-endian",
}
_RETRIED: Final = frozenset({429, 503})

_VALUES: Final = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "O": "string"}
"""Kind of dtype -> JSON type of one value."""
_ZEROS: Final = {"boolean": False, "integer": 0, "number": 0.0, "string": ""}
_STRING: Final = {"type": "string"}

REF: Final = "#/components/schemas/{name}"


def as_openapi_3_0(schema: Any) -> Any:
    """Return an equivalent schema for OpenAPI 3.0.

    `const` becomes an `enum` of one value, a null among the types becomes `nullable` (and one of
    the values of an `enum`), an array gets `items`, an empty `required` is removed. Descriptions
    lose the indentation of docstrings.
    """
    if isinstance(schema, list):
        return [as_openapi_3_0(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: as_openapi_3_0(value) for key, value in schema.items()}
    if "const" in plain:
        plain["enum"] = [plain.pop("const")]
    if isinstance(plain.get("description"), str):
        plain["description"] = cleandoc(plain["description"])
    if plain.get("required") == []:
        del plain["required"]
    if plain.get("type") == "array":
        plain.setdefault("items", {})
    kinds = plain.get("anyOf")
    return _nullable(plain, kinds) if isinstance(kinds, list) and _NULL in kinds else plain


def _nullable(plain: Schema, kinds: list[Schema]) -> Schema:
    """In 3.0 null is a property of a type, and a `$ref` allows no other property beside it."""
    others = [kind for kind in kinds if kind != _NULL]
    if len(others) > 1:
        return plain | {"anyOf": others, "nullable": True}
    del plain["anyOf"]
    (only,) = others
    if "enum" in only:
        only = only | {"enum": [*only["enum"], None]}
    return plain | {"nullable": True} | ({"allOf": [only]} if "$ref" in only else only)


class Components:
    """The document's named schemas, in the dialect of OpenAPI 3.0."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}

    def add(self, name: str, schema: Schema) -> Schema:
        """Add a schema and return a reference to it. Raises AssertionError if the name is taken."""
        converted = as_openapi_3_0(schema)
        if self.schemas.setdefault(name, converted) != converted:
            raise AssertionError(f"two schemas are called {name}; this is a bug")
        return {"$ref": REF.format(name=name)}

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type; add those of the types that it contains."""
        (schema,), found = msgspec.json.schema_components((kind,), ref_template=REF)
        for name, part in found.items():
            self.add(name, part)
        return dict(as_openapi_3_0(schema))


class Example(NamedTuple):
    """A request body, and the answer to it with zeros in the place of what the model computes; None
    where JSON cannot carry it.
    """

    request: Any = None
    answer: Any = None


def describe(
    operation: Operation, *, takes: Schema | None, answer: Schema, error: Schema, example: Example
) -> dict[str, Any]:
    """Return the operation's parameters, request body and responses.

    `takes`, `answer` and `error` are the schemas of the bodies.
    """
    parameters = [_BINARY_REQUEST] * operation.binary + [_TIMEOUT] * operation.infers
    described: dict[str, Any] = {"parameters": parameters}
    if takes is not None:
        content = {JSON: _body(takes, example.request)} | (
            {BINARY: {"schema": _BYTES}} if operation.binary else {}
        )
        described["requestBody"] = {"required": operation.infers, "content": content}
    return described | {"responses": _responses(operation, answer, error, example.answer)}


def _body(schema: Schema, example: Any) -> dict[str, Any]:
    return {"schema": schema} | ({} if example is None else {"example": example})


def _responses(operation: Operation, answer: Schema, error: Schema, example: Any) -> dict[str, Any]:
    content = {
        media: {"schema": _BYTES} if media == BINARY else _body(answer, example)
        for media in operation.media
    }
    described: dict[str, Any] = {"200": {"description": "The answer", "content": content}}
    if operation.binary:
        described["200"]["headers"] = {HEADER_LENGTH: _BINARY_RESPONSE}
    for status in operation.errors:
        described[str(status)] = {
            "description": responses.REASONS[status],
            "content": {JSON: {"schema": error}},
            **({"headers": {"Retry-After": _RETRY_AFTER}} if status in _RETRIED else {}),
        }
    if isinstance(operation.answer, type) and issubclass(operation.answer, Verdict):
        described["503"] = {"description": "Not ready", "content": content}
    return described


def example_request(signature: Signature) -> dict[str, Any] | None:
    """Return a JSON request with flat data, or None if the model has no example in JSON."""
    if signature.example is None or any(spec.datatype in BINARY_ONLY for spec in signature.inputs):
        return None
    inputs = []
    for spec in signature.inputs:
        flat = signature.example[spec.name]
        shape = [len(flat)]
        while flat and isinstance(flat[0], list):
            shape.append(len(flat[0]))
            flat = [value for part in flat for value in part]
        inputs.append({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": flat})
    return {"inputs": inputs}


def example_answer(name: str, signature: Signature) -> dict[str, Any] | None:
    """Return an answer to `example_request` with the shapes that the model's has, and zeros; None
    if there is no such request, or JSON cannot carry the answer.
    """
    request = example_request(signature)
    if request is None or any(spec.datatype in BINARY_ONLY for spec in signature.outputs):
        return None
    rows = request["inputs"][0]["shape"][0]
    lengths = [
        size
        for spec, tensor in zip(signature.inputs, request["inputs"], strict=True)
        for axis, size in zip(spec.shape, tensor["shape"][1:], strict=False)
        if axis == LENGTH
    ]
    outputs = []
    for spec in signature.outputs:
        if LENGTH in spec.shape and not lengths:
            return None  # a preprocess decides the length
        shape = [rows, *(lengths[0] if axis == LENGTH else axis for axis in spec.shape)]
        data = [_ZEROS[_VALUES[spec.dtype.kind]]] * prod(shape)
        outputs.append({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data})
    return {"model_name": name, "model_version": MODEL_VERSION, "outputs": outputs}


def request_schema(signature: Signature) -> Schema:
    """Return the schema of an infer request."""
    inputs = [_input(spec) for spec in signature.inputs]
    output = _object(
        required=("name",),
        name={"enum": [spec.name for spec in signature.outputs]},
        parameters=_optional(_object(binary_data=_optional({"type": "boolean"}))),
    )
    parameters = _object(
        timeout=_optional({"type": "integer", "minimum": 0, "description": "Microseconds"}),
        priority=_optional({"type": "integer", "minimum": 0, "maximum": LOWEST_PRIORITY}),
        binary_data_output=_optional({"type": "boolean"}),
    )
    return _object(
        required=("inputs",),
        id=_optional(_STRING | {"description": "At most `max_id_bytes`, in UTF-8"}),
        parameters=_optional(parameters),
        inputs=_array({"oneOf": inputs}, minItems=len(inputs), maxItems=len(inputs)),
        outputs=_optional(_array(output)),
    )


def answer_schema(signature: Signature) -> Schema:
    """Return the schema of an infer response."""
    outputs = [_tensor(spec, "row-major, flat", len(spec.shape)) for spec in signature.outputs]
    return _object(
        required=("model_name", "model_version", "outputs"),
        model_name=_STRING,
        model_version=_STRING,
        id=_STRING,
        parameters={"type": "object"},
        outputs=_array({"oneOf": outputs}),
    )


def _input(spec: TensorSpec) -> Schema:
    """Rows of a single value may also have an axis of size 1. What is optional may be null."""
    tensor = _tensor(spec, "row-major, nested or flat", max(1, len(spec.shape)))
    fields = tensor["properties"]
    if data := fields.get("data"):
        ends = dict(zip(("minimum", "maximum"), spec.limits or (), strict=False))
        data["items"] = {"oneOf": [data["items"] | ends, {"type": "array"}]}
    if "parameters" not in tensor["required"]:
        fields["parameters"] = _object(binary_data_size=_optional(_LENGTH))
    optional = fields.keys() - set(tensor["required"])
    tensor["properties"] = {
        name: _optional(field) if name in optional else field for name, field in fields.items()
    }
    return tensor


def _optional(schema: Schema) -> Schema:
    """A field that may be missing may be null."""
    return {"anyOf": [schema, _NULL]}


def _tensor(spec: TensorSpec, order: str, max_axes: int) -> Schema:
    """Return the schema of a tensor with up to `max_axes` axes per row.

    A tensor that travels as binary only has no `data` and requires `parameters`.
    """
    binary_only = spec.datatype in BINARY_ONLY
    size = {"binary_data_size": _LENGTH}
    fields: dict[str, Any] = {
        "name": {"const": spec.name},
        "datatype": {"const": spec.datatype},
        "shape": _array(
            {"type": "integer", "minimum": 1},
            description=f"{list(spec.wire_shape)}, where -1 is a size that varies",
            minItems=1 + len(spec.shape),
            maxItems=1 + max_axes,
        ),
        "parameters": _object(required=tuple(size) if binary_only else (), **size),
    }
    required = ("name", "datatype", "shape", *(("parameters",) if binary_only else ()))
    if not binary_only:
        fields["data"] = _array({"type": _VALUES[spec.dtype.kind]}, description=order)
    return _object(required=required, **fields)


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items} | more


def _object(*, required: tuple[str, ...] = (), **properties: Any) -> Schema:
    schema = {"type": "object", "properties": properties}
    # OpenAPI 3.0 does not allow an empty list
    return schema | ({"required": list(required)} if required else {})
