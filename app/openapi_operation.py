"""What a route says of itself -> its bodies, statuses and headers in the OpenAPI document.

May touch: msgspec.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from app.answer import Readiness
from app.openapi_schema import as_openapi_3_0
from app.operation import BINARY, HEADER_LENGTH, JSON, REASONS, TIMEOUT_HEADER, Operation

Schema = dict[str, Any]

_RETRY_AFTER: Final = {
    "Retry-After": {
        "description": "Seconds after which another try makes sense",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_TAKES_BINARY: Final = {
    "name": HEADER_LENGTH,
    "in": "header",
    "description": "Bytes of JSON before the binary tensors. 0: the body is the model's one input, "
    "a single row, and nothing else. Not there: the body is JSON alone.",
    "schema": {"type": "integer", "minimum": 0},
}
_TAKES_TIMEOUT: Final = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "description": "Milliseconds that the answer may take, from arrival to answer",
    "schema": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
}
_GIVES_BINARY: Final = {
    HEADER_LENGTH: {
        "description": "Bytes of JSON before the binary tensors; there when there are any",
        "schema": {"type": "integer", "minimum": 0},
    }
}
_BYTES: Final = {
    "type": "string",
    "format": "binary",
    "description": "The JSON, and behind it the tensors in its order, little-endian",
}
_RETRIED: Final = frozenset({429, 503})

REF: Final = "#/components/schemas/{name}"
"""Where the schema of a name is."""


class Components:
    """The document's named schemas, in its own dialect."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}

    def add(self, name: str, schema: Schema) -> Schema:
        """Name a schema; what comes back refers to it. Raises AssertionError for a name twice."""
        written = as_openapi_3_0(schema)
        if self.schemas.setdefault(name, written) != written:
            raise AssertionError(f"two schemas are called {name}; this is a bug")
        return {"$ref": REF.format(name=name)}

    def of(self, kind: Any) -> Schema:
        """The schema of a type; the types that it is made of are named."""
        (schema,), found = msgspec.json.schema_components((kind,), ref_template=REF)
        for name, part in found.items():
            self.add(name, part)
        return dict(as_openapi_3_0(schema))


def described(
    operation: Operation, *, takes: Schema | None, answer: Schema, error: Schema, example: Any
) -> dict[str, Any]:
    """The operation's parameters, request body and responses.

    `takes`, `answer` and `error` are the schemas of the three bodies, `example` is a body to send.
    """
    parameters = [_TAKES_BINARY] * operation.binary + [_TAKES_TIMEOUT] * operation.timed
    said: dict[str, Any] = {"parameters": parameters}
    if takes is not None:
        said["requestBody"] = {
            "required": operation.body_needed,
            "content": _taken(operation, takes, example),
        }
    responses: dict[str, Any] = {
        "200": {"description": "The answer", "content": _given(operation, answer)}
    }
    if operation.binary:
        responses["200"]["headers"] = _GIVES_BINARY
    for status in operation.errors:
        responses[str(status)] = {
            "description": REASONS[status],
            "content": {JSON: {"schema": error}},
            **({"headers": _RETRY_AFTER} if status in _RETRIED else {}),
        }
    if isinstance(operation.answer, type) and issubclass(operation.answer, Readiness):
        responses["503"] = {"description": "Not ready", "content": _given(operation, answer)}
    return said | {"responses": responses}


def _taken(operation: Operation, takes: Schema, example: Any) -> dict[str, Any]:
    body = {"schema": takes} | ({} if example is None else {"example": example})
    return {JSON: body} | ({BINARY: {"schema": _BYTES}} if operation.binary else {})


def _given(operation: Operation, answer: Schema) -> dict[str, Any]:
    return {media: {"schema": _BYTES if media == BINARY else answer} for media in operation.media}
