"""Answers to requests for what this server does not have: what it has instead, and where it is.

URLs of other servers' protocols have routes of their own here, which the OpenAPI document leaves
out. Any other unknown URL gets the routes that are spelled most like it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Final

from flask import Blueprint, Response, current_app
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from app.http import errors
from app.http.hooks import this_request
from app.http.services import services

blueprint = Blueprint("elsewhere", __name__)

NOT_IMPLEMENTED: Final = 501

METHODS: Final = frozenset(("GET", "POST"))
MANY: Final = 8
"""Models whose routes are compared with an unknown URL: each comparison costs time."""
LONGEST: Final = 100
"""Characters of an unknown URL that are compared and repeated."""
INFERENCE: Final = re.compile("/(predict|infer)/?$")
"""The end of a URL that asks for inference, as other servers have it."""
CUTOFF: Final = 0.6
"""The similarity, of 1, from which on a route is named; difflib's default."""


def _answer(status: int, problem: str) -> Response:
    request = this_request()
    where = f"{request.root_path}/docs shows all routes"
    return errors.response(request.path, f"{problem}; {where}", status)


def _models() -> str:
    return ", ".join(services().engine.names)


@blueprint.post("/v2/models/<name>/load")
@blueprint.post("/v2/models/<name>/unload")
@blueprint.post("/v2/repository/models/<name>/load")
@blueprint.post("/v2/repository/models/<name>/unload")
def load(name: str) -> Response:
    """Triton's and KServe's model control."""
    problem = f"models are not loaded and unloaded by requests: this server has {_models()}"
    change = "change the configuration file and send SIGHUP"
    known = "" if name in services().engine.names else f" and no {name[:LONGEST]!r}"
    return _answer(NOT_IMPLEMENTED, f"{problem}{known}; {change}")


VERBS: Final = "<any(predict, classify, regress, explain):verb>"


@blueprint.post(f"/v1/models/<name>:{VERBS}")
@blueprint.post(f"/v1/models/<name>/versions/<version>:{VERBS}")
@blueprint.post(f"/v2/models/<name>:{VERBS}")
@blueprint.post(f"/v2/models/<name>/versions/<version>:{VERBS}")
@blueprint.post("/predictions/<name>")
@blueprint.post("/invocations")
@blueprint.post("/v2/models/<name>/generate")
@blueprint.post("/v2/models/<name>/generate_stream")
def predict(name: str = "", **_parts: str) -> Response:
    """Inference in the protocols of TensorFlow Serving, KServe 1, TorchServe and SageMaker."""
    return _answer(errors.NOT_FOUND, f"{_inference(name)}; this server has {_models()}")


def _inference(name: str = "") -> str:
    names = services().engine.names
    used = name if name in names else names[0]
    return f"inference is POST {this_request().root_path}/v2/models/{used}/infer"


@blueprint.post("/v1/chat/completions")
@blueprint.post("/v1/completions")
@blueprint.post("/v1/responses")
def generate() -> Response:
    """OpenAI's routes for text."""
    return _answer(
        errors.NOT_FOUND, "of OpenAI's routes this server has /v1/embeddings and /v1/models"
    )


@blueprint.app_errorhandler(NotFound)
def not_found(error: NotFound) -> Response:
    """A URL that no route has; or a view's own 404, which is left as it is."""
    if not _is_of_routing(error):
        return errors.http_response(error, this_request().path)
    request = this_request()
    asked = f"{request.method} {request.path[:LONGEST]} does not exist"
    nearest = [f"{request.root_path}{path}" for path in _nearest(request.path)]
    instead = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    # no routes of their own, which could hide those of the user's application
    if not nearest and INFERENCE.search(request.path):
        instead = f"; {_inference()}"
    return _answer(errors.NOT_FOUND, f"{asked}{instead}; this server has the models {_models()}")


@blueprint.app_errorhandler(MethodNotAllowed)
def not_allowed(error: MethodNotAllowed) -> Response:
    """A URL that has other methods."""
    request = this_request()
    if _is_of_routing(error) and error.valid_methods:
        allowed = sorted(set(error.valid_methods) & METHODS)
        known = f"{request.path[:LONGEST]} has {' and '.join(allowed)}, and not {request.method}"
        error.description = f"{known}; {request.root_path}/docs shows all routes"
    return errors.http_response(error, request.path)


def _is_of_routing(error: HTTPException) -> bool:
    return this_request().routing_exception is error


def _nearest(path: str) -> list[str]:
    """The routes that are spelled most like this path, best first."""
    path = path[:LONGEST]
    return difflib.get_close_matches(path, sorted(set(_paths(path))), 3, CUTOFF)


def _paths(like: str) -> Iterator[str]:
    """The paths of all routes, those of the first models spelled out."""
    names = services().engine.names[:MANY]
    for rule in current_app.url_map.iter_rules():
        if is_hidden(rule.endpoint) or ("version" in rule.arguments and "/versions" not in like):
            continue
        path = rule.rule.replace("<version>", "1")
        spelled = [path.replace("<name>", name) for name in names] if "<" in path else [path]
        yield from (each for each in spelled if not re.search("[<>]", each))


def is_hidden(endpoint: str) -> bool:
    """Whether the OpenAPI document leaves this route out."""
    return endpoint == "docs.asset" or endpoint.startswith(f"{blueprint.name}.")
