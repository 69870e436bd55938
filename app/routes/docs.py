"""`/openapi.json`, and a page at `/docs` that shows it without any network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import swagger_ui_bundle
from flask import Blueprint, Response, current_app, jsonify, send_from_directory

from app import openapi
from app.operation import Operation, documented
from app.services import services

blueprint = Blueprint("docs", __name__)

ASSETS = Path(swagger_ui_bundle.swagger_ui_path)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Brim</title>
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
<link rel="icon" href="docs/assets/favicon-32x32.png">
</head>
<body>
<div id="page"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true,
                 defaultModelsExpandDepth: 0, validatorUrl: null})
</script>
</body>
</html>
"""


@blueprint.get("/openapi.json")
@documented(Operation(answer=dict[str, Any]))
def openapi_json() -> Response:
    """The OpenAPI document of this server and its models."""
    return jsonify(openapi.document(current_app, services().engine))


@blueprint.get("/docs")
@documented(Operation(answer=str, media=("text/html",)))
def docs() -> Response:
    """A page to read and to try."""
    return Response(PAGE, content_type="text/html; charset=utf-8")


@blueprint.get("/docs/assets/<name>")
def asset(name: str) -> Response:
    """What the page is made of."""
    return send_from_directory(ASSETS, name, max_age=3600)
