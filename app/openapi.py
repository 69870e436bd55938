"""The OpenAPI document: made of what the routes say of themselves, and of the models served.

May touch: flask's map of routes. Each model that serves has a path of its own for infer, with its
tensors' names, datatypes and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flask import Flask
from werkzeug.routing import Rule

from app.codec import openai
from app.errors import kind_of
from app.example import example_request
from app.openapi_operation import Components, described
from app.openapi_tensors import answer_schema, request_schema
from app.operation import operation_of
from app.services import MODEL_VERSION, VERSION
from engine.engine import Engine
from engine.errors import BrimError, InvalidRequest
from engine.model import Model

TAGS: Final = {
    "inference": "Open Inference Protocol",
    "models": "Open Inference Protocol",
    "openai": "OpenAI",
    "health": "Health",
}
"""Blueprint -> the heading under which the page shows its routes."""
YOUR_MODELS: Final = "Your models"
"""The heading of the served models' own paths, which come first."""
SERVER: Final = "Server"
"""The heading of everything else."""

INFER: Final = "inference.infer"
EMBEDDINGS: Final = "openai.embeddings"
HIDDEN: Final = "docs.asset"
"""A part of the page, nothing to call."""


def document(app: Flask, engine: Engine) -> dict[str, Any]:
    """The whole document, as of this moment: models appear in it when they serve.

    Raises LookupError when there is a route that does not say what it answers.
    """
    models = dict(_serving(engine))
    components = Components()
    paths: dict[str, dict[str, Any]] = {}
    for path, operation in _own_paths(app, models, components):
        paths[path] = {"post": operation}
    examples = _examples(models)
    # what a part of a path may be; first what the example of a body is for
    known = {
        "name": sorted(engine.names, key=lambda name: name != examples.get("name")),
        "version": [MODEL_VERSION],
    }
    for rule in app.url_map.iter_rules():
        if rule.endpoint == HIDDEN:
            continue
        path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) & {"GET", "POST"}):
            operation = _operation(app, rule, components, examples.get(rule.endpoint))
            operation["parameters"] += [_part(name, known[name]) for name in sorted(rule.arguments)]
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Brim",
            "version": VERSION,
            "description": "The Open Inference Protocol, version 2, and OpenAI's embeddings.",
        },
        "paths": paths,
        "components": {"schemas": components.schemas},
    }


def _serving(engine: Engine) -> Iterator[tuple[str, Model]]:
    for name in engine.names:
        try:
            yield name, engine.model(name)
        except BrimError:
            continue  # it does not serve, so its tensors are not known


def _own_paths(
    app: Flask, models: Mapping[str, Model], components: Components
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Inference with each model that serves: its path and what is posted to it."""
    infer = operation_of(app.view_functions[INFER])
    for name, model in models.items():
        path = f"/v2/models/{name}/infer"
        operation = {
            "operationId": f"infer_{name}",
            "summary": f"Inference with {name}",
            "tags": [YOUR_MODELS],
            **described(
                infer,
                takes=components.add(f"{name}.InferRequest", request_schema(model)),
                answer=components.add(f"{name}.InferAnswer", answer_schema(model)),
                error=components.of(kind_of(path)),
                example=example_request(model),
            ),
        }
        yield path, operation


def _examples(models: Mapping[str, Model]) -> dict[str, Any]:
    """Endpoint -> a body that it answers, and under `name` the model that the first one is for."""
    examples: dict[str, Any] = {}
    for name, model in models.items():
        body = example_request(model)
        if body is None:
            continue
        examples |= {"name": name, INFER: body} if INFER not in examples else {}
        try:
            openai.tensors(name, model)
        except InvalidRequest:
            continue  # it does not embed
        examples.setdefault(EMBEDDINGS, {"model": name, "input": body["inputs"][0]["data"]})
    return examples


def _operation(app: Flask, rule: Rule, components: Components, example: Any) -> dict[str, Any]:
    """One route, without the parts of its path."""
    view = app.view_functions[rule.endpoint]
    operation = operation_of(view)
    versioned = "_version" if "version" in rule.arguments else ""
    return {
        "operationId": rule.endpoint.replace(".", "_") + versioned,
        "summary": (view.__doc__ or rule.endpoint).strip().splitlines()[0],
        "tags": [TAGS.get(rule.endpoint.partition(".")[0], SERVER)],
        **described(
            operation,
            takes=None if operation.takes is None else components.of(operation.takes),
            answer=components.of(operation.answer),
            error=components.of(kind_of(rule.rule)),
            example=example,
        ),
    }


def _part(name: str, values: list[str]) -> dict[str, Any]:
    schema = {"type": "string", "enum": values}
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": values[0]}
