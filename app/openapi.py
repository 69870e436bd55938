"""The OpenAPI document: made of the same types that decode requests, and of the models served.

May touch: msgspec. Each model that serves has a path of its own for infer, with its tensors' names,
datatypes and shapes; the rest of the routes are taken from the app's own map.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from flask import Flask

from app.codec import oip, openai
from app.openapi_schema import as_openapi_3_0
from app.services import MODEL_VERSION, VERSION
from engine.engine import Engine
from engine.errors import BrimError
from engine.model import Model
from engine.spec import TensorSpec

TAGS: Final = {
    "": "Your models",
    "inference": "Open Inference Protocol",
    "models": "Open Inference Protocol",
    "openai": "OpenAI",
    "health": "Health",
    "docs": "Server",
}
"""Blueprint -> the heading under which the page shows its routes; the served models come first."""

REF: Final = "#/components/schemas/{name}"

_VALUES: Final = {
    "b": {"type": "boolean"},
    "i": {"type": "integer"},
    "u": {"type": "integer"},
    "f": {"type": "number"},
    "O": {"type": "string"},
}
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_OPENAI_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": "string", "nullable": True},
                "code": {"type": "string", "nullable": True},
            },
        }
    },
}
# every way in which a request may end, beside 200
_STATUSES: Final = {
    "400": "The request is wrong",
    "404": "No such model or version",
    "411": "The request says nothing about its length",
    "413": "The body is too large",
    "415": "The body is encoded in a way that is not understood",
    "422": "These rows make NaN or infinity",
    "429": "The queue or the process is full",
    "500": "The device failed the batch",
    "503": "Starting, shutting down, or failed",
    "504": "No answer within the timeout",
}


def document(app: Flask, engine: Engine) -> dict[str, Any]:
    """The whole document, as of this moment: models appear in it when they serve."""
    _, components = msgspec.json.schema_components(
        (oip.WireRequest, openai.EmbeddingsRequest), ref_template=REF
    )
    schemas: dict[str, Any] = {**components, "Error": _ERROR, "OpenAIError": _OPENAI_ERROR}
    schemas["InferResponse"] = _object(
        required=("model_name", "outputs"),
        model_name={"type": "string"},
        model_version={"type": "string"},
        id={"type": "string"},
        parameters={"type": "object"},
        outputs={"type": "array", "items": {"type": "object"}},
    )
    paths: dict[str, Any] = {}
    for name in engine.names:
        try:
            model = engine.model(name)
        except BrimError:
            continue  # it does not serve, so its tensors are not known
        schemas |= {
            f"{name}.InferRequest": _request(model),
            f"{name}.InferResponse": _response(model),
        }
        paths[f"/v2/models/{name}/infer"] = {
            "post": _operation(
                f"infer_{name}",
                f"Inference with {name}",
                body=f"{name}.InferRequest",
                answer=f"{name}.InferResponse",
                tag=TAGS[""],
            )
        }
    paths |= _paths(app, {"name": list(engine.names), "version": [MODEL_VERSION]})
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Brim",
            "version": VERSION,
            "description": "The Open Inference Protocol, version 2, and OpenAI's embeddings.",
        },
        "paths": paths,
        "components": {"schemas": as_openapi_3_0(schemas)},
    }


def _paths(app: Flask, known: dict[str, list[str]]) -> dict[str, Any]:
    """One operation per route and method; the body and the answer where they have a schema.

    `known` are the values that a part of the path may have.
    """
    bodies = {
        "inference.infer": ("WireRequest", "InferResponse"),
        "openai.embeddings": ("EmbeddingsRequest", None),
    }
    paths: dict[str, Any] = {}
    for rule in app.url_map.iter_rules():
        if rule.endpoint == "docs.asset":
            continue  # a part of the page, nothing to call
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        view = app.view_functions[rule.endpoint]
        summary = (view.__doc__ or rule.endpoint).strip().splitlines()[0]
        body, answer = bodies.get(rule.endpoint, (None, None))
        methods = sorted((rule.methods or set()) & {"GET", "POST"})
        for method in methods:
            identity = rule.endpoint.replace(".", "_") + ("_version" if "version" in path else "")
            tag = TAGS.get(rule.endpoint.split(".")[0], TAGS["docs"])
            operation = _operation(identity, summary, body=body, answer=answer, tag=tag, path=path)
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": _text(known.get(name))}
                for name in sorted(rule.arguments)
            ]
            paths.setdefault(path, {})[method.lower()] = operation
    return paths


def _text(values: list[str] | None) -> dict[str, Any]:
    return {"type": "string"} if values is None else {"type": "string", "enum": values}


def _operation(
    identity: str,
    summary: str,
    *,
    body: str | None,
    answer: str | None,
    tag: str,
    path: str = "",
) -> dict[str, Any]:
    error = "OpenAIError" if path.startswith("/v1/") else "Error"
    responses: dict[str, Any] = {
        status: {"description": text, "content": _json(error)} for status, text in _STATUSES.items()
    }
    if path.endswith("ready") or path == "/readyz":
        responses["503"] = {"description": "Not ready", "content": {"application/json": {}}}
    responses["200"] = {"description": "The answer"}
    if answer is not None:
        responses["200"]["content"] = _json(answer) | {"application/octet-stream": {}}
    operation: dict[str, Any] = {
        "operationId": identity,
        "summary": summary,
        "tags": [tag],
        "responses": responses,
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return operation


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(name=schema)}}}


def _object(*, required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _request(model: Model) -> dict[str, Any]:
    """The protocol's request, with this model's tensors."""
    schema = _object(
        required=("inputs",),
        id={"type": "string"},
        parameters={"type": "object"},
        inputs={
            "type": "array",
            "minItems": len(model.inputs),
            "maxItems": len(model.inputs),
            "items": {"oneOf": [_tensor(spec) for spec in model.inputs]},
        },
        outputs={
            "type": "array",
            "items": _object(
                required=("name",),
                name={"enum": [spec.name for spec in model.outputs]},
                parameters={"type": "object"},
            ),
        },
    )
    if model.example is not None:
        schema["example"] = {
            "inputs": [
                {
                    "name": spec.name,
                    "datatype": spec.datatype,
                    "shape": [len(model.example[spec.name]), *spec.shape],
                    "data": model.example[spec.name],
                }
                for spec in model.inputs
            ]
        }
    return schema


def _response(model: Model) -> dict[str, Any]:
    return _object(
        required=("model_name", "outputs"),
        model_name={"type": "string"},
        model_version={"type": "string"},
        id={"type": "string"},
        parameters={"type": "object"},
        outputs={
            "type": "array",
            "items": {"oneOf": [_tensor(spec) for spec in model.outputs]},
        },
    )


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """One tensor of a model: its name and datatype are fixed, its shape where the model's is."""
    axes: list[dict[str, Any]] = [{"type": "integer", "minimum": 1}]
    axes += [{"type": "integer", "minimum": 1} if n < 0 else {"const": n} for n in spec.shape]
    return _object(
        required=("name", "datatype", "shape"),
        name={"const": spec.name},
        datatype={"const": spec.datatype},
        shape={
            "type": "array",
            "prefixItems": axes,
            "minItems": len(axes),
            "maxItems": len(axes),
        },
        data={
            "type": "array",
            "description": f"row-major, nested or flat: {list(spec.wire_shape)}",
            "items": {"oneOf": [_VALUES.get(spec.dtype.kind, {}), {"type": "array"}]},
        },
        parameters={"type": "object"},
    )
