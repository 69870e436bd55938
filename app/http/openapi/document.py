"""Builds the OpenAPI document from the `Operation` of each route and from the models served.

Each READY model has its own path for inference, with its tensors' names, datatypes and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from flask import Flask
from werkzeug.routing import Rule

from app.http.codecs import openai
from app.http.errors import Error, error_type
from app.http.openapi.parts import (
    Components,
    Example,
    answer_schema,
    describe,
    example_answer,
    example_request,
    request_schema,
)
from app.http.responses.operation import Operation, operation_of
from app.http.services import MODEL_VERSION, VERSION
from engine.api import BrimError, EngineClient, InvalidRequest, Signature, TensorSpec

TAGS: Final = {
    "inference": "Open Inference Protocol",
    "models": "Open Inference Protocol",
    "openai": "OpenAI",
    "health": "Health",
}
"""Blueprint -> heading of its routes on the page; that of all other routes is "Server"."""
INFO: Final = {
    "title": "Brim",
    "version": VERSION,
    "description": "The Open Inference Protocol, version 2, and OpenAI's embeddings.",
}

_OURS: Final = __name__.partition(".")[0]

INFER: Final = "inference.infer"
EMBEDDINGS: Final = "openai.embeddings"


def document(
    app: Flask, engine: EngineClient, is_hidden: Callable[[str], bool], prefix: str
) -> dict[str, Any]:
    """Return the document of this moment; it shows the models that are READY, and leaves out the
    endpoints that are hidden. `prefix` comes before all paths.

    Raises LookupError if a route of Brim's does not declare its `Operation`.
    """
    models = dict(_serving(engine))
    components = Components()
    infer = operation_of(app.view_functions[INFER])
    paths: dict[str, dict[str, Any]] = {
        f"/v2/models/{name}/infer": {"post": _model_operation(infer, name, model, components)}
        for name, model in models.items()
    }
    examples = _examples(models)
    # allowed values of the parts of a path; the model of the example comes first
    names = sorted(engine.names, key=lambda name: name != examples.get("name"))
    known = {"name": names, "version": [MODEL_VERSION]}
    for rule, path, method in _routes(app, is_hidden):
        operation = _operation(app, rule, components, examples.get(rule.endpoint))
        operation["parameters"] += [_part(name, known[name]) for name in sorted(rule.arguments)]
        paths.setdefault(path, {})[method] = operation
    schemas = {"schemas": components.schemas}
    return {
        "openapi": "3.0.3",
        "info": INFO,
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": schemas,
    }


def _routes(app: Flask, is_hidden: Callable[[str], bool]) -> Iterator[tuple[Rule, str, str]]:
    """Yield the rule, path and method of each route that the document shows."""
    for rule in app.url_map.iter_rules():
        if not is_hidden(rule.endpoint) and _is_documented(app.view_functions[rule.endpoint]):
            for method in sorted((rule.methods or set()) & {"GET", "POST"}):
                yield rule, re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower()


def _is_documented(view: Callable[..., Any]) -> bool:
    """Whether the document shows this view. A user's own may declare an `Operation` or not."""
    return hasattr(view, "operation") or view.__module__.startswith(f"{_OURS}.")


def _serving(engine: EngineClient) -> Iterator[tuple[str, Signature]]:
    for name in engine.names:
        try:
            yield name, engine.endpoint(name).interface.signature
        except BrimError:
            continue  # not READY, so its tensors are not known


def _model_operation(
    infer: Operation, name: str, model: Signature, components: Components
) -> dict[str, Any]:
    """Return the operation of inference with one model."""
    return {
        "operationId": f"infer_{name}",
        "summary": f"Inference with {name}",
        "tags": ["Your models"],  # the first heading of the page
        **describe(
            infer,
            takes=components.add(f"{name}.InferRequest", request_schema(model)),
            answer=components.add(f"{name}.InferAnswer", answer_schema(model)),
            error=components.of(Error),
            example=Example(example_request(model), example_answer(name, model)),
        ),
    }


def _examples(models: Mapping[str, Signature]) -> dict[str, Any]:
    """Return the `Example` of each endpoint; `name` is the model of the infer example."""
    examples: dict[str, Any] = {}
    for name, model in models.items():
        if (body := example_request(model)) is None:
            continue
        examples = {"name": name, INFER: Example(body, example_answer(name, model))} | examples
        with suppress(InvalidRequest):  # raised for other models than those for embeddings
            _, vector = openai.tensors(name, model)
            texts = body["inputs"][0]["data"]
            answer = _embeddings(name, len(texts), vector)
            examples.setdefault(EMBEDDINGS, Example({"model": name, "input": texts}, answer))
    return examples


def _embeddings(name: str, rows: int, vector: TensorSpec) -> dict[str, Any]:
    """Return an answer of OpenAI's route, with zeros."""
    zeros = [0.0] * vector.shape[0]
    data = [{"object": "embedding", "index": row, "embedding": zeros} for row in range(rows)]
    usage = {"prompt_tokens": rows, "total_tokens": rows}
    return {"object": "list", "data": data, "model": name, "usage": usage}


def _operation(
    app: Flask, rule: Rule, components: Components, example: Example | None
) -> dict[str, Any]:
    """Return a route's operation without the parameters in its path."""
    view = app.view_functions[rule.endpoint]
    operation = operation_of(view)
    versioned = "_version" if "version" in rule.arguments else ""
    return {
        "operationId": rule.endpoint.replace(".", "_") + versioned,
        "summary": (view.__doc__ or rule.endpoint).strip().splitlines()[0],
        "tags": [TAGS.get(rule.endpoint.partition(".")[0], "Server")],
        **describe(
            operation,
            takes=None if operation.takes is None else components.of(operation.takes),
            answer=components.of(operation.answer),
            error=components.of(error_type(rule.rule)),
            example=example or Example(),
        ),
    }


def _part(name: str, values: list[str]) -> dict[str, Any]:
    schema = {"type": "string", "enum": values}
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": values[0]}
