"""`/openapi.json`, and a page at `/docs` that shows it without loading anything else."""

from __future__ import annotations

from typing import Any

import swagger_ui_bundle
from flask import Blueprint, Response, current_app, jsonify, send_from_directory

from app.http.openapi import document as openapi
from app.http.responses.operation import Operation
from app.http.services import services

blueprint = Blueprint("docs", __name__)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Brim</title>
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
<link rel="icon" href="docs/assets/favicon-32x32.png">
<div id="page"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true,
                 defaultModelsExpandDepth: 0, validatorUrl: null})
</script>
"""


@blueprint.get("/openapi.json")
@Operation(answer=dict[str, Any])
def openapi_json() -> Response:
    """The OpenAPI document of this server and its models."""
    return jsonify(openapi.document(current_app, services().engine))


@blueprint.get("/docs")
@Operation(answer=str, media=("text/html",))
def docs() -> Response:
    """A page to read this document and try the routes."""
    return Response(PAGE, content_type="text/html; charset=utf-8")


@blueprint.get("/docs/assets/<name>")
def asset(name: str) -> Response:
    """A file of the page."""
    return send_from_directory(swagger_ui_bundle.swagger_ui_path, name, max_age=3600)
