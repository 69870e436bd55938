"""`/openapi.json`, a page at `/docs` that shows it without loading anything else, and `/`."""

from __future__ import annotations

import html
from typing import Any

import msgspec
import swagger_ui_bundle
from flask import Blueprint, Response, current_app, jsonify, send_from_directory

from app.http.codecs.messages import Answer
from app.http.hooks import this_request
from app.http.openapi import document as openapi
from app.http.responses.operation import JSON, Operation
from app.http.routes.elsewhere import is_hidden
from app.http.services import VERSION, services

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
const failed = problem => { document.body.innerText = "openapi.json: " + problem }
fetch("openapi.json").then(answer => answer.json()).then(spec => {
  // wherever a proxy has put this page, the routes are beside it
  spec.servers = [{url: new URL(".", document.baseURI).href.replace(/[/]$/, "")}]
  SwaggerUIBundle({spec, dom_id: "#page", deepLinking: true,
                   defaultModelsExpandDepth: 0, validatorUrl: null})
}).catch(failed)
</script>
"""


class Root(Answer, frozen=True):
    """What this is, and where to go on."""

    name: str
    version: str
    docs: str
    openapi: str
    models: tuple[str, ...]


ROOT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={docs}">
<title>Brim</title>
<p>Brim: <a href="{docs}">{docs}</a>
"""


@blueprint.get("/")
@Operation(answer=Root, media=(JSON, "text/html"))
def root() -> Response:
    """Where the documentation is: JSON, or for a browser a page that leads there."""
    request = this_request()
    docs = f"{request.root_path}/docs"
    kind = request.accept_mimetypes.best_match((JSON, "text/html"), JSON)
    if kind == JSON:
        names = services().engine.names
        said = Root("brim", VERSION, docs, f"{request.root_path}/openapi.json", names)
        answer = Response(msgspec.json.encode(said), content_type=JSON)
    else:
        page = ROOT.format(docs=html.escape(docs))
        answer = Response(page, content_type="text/html; charset=utf-8")
    answer.vary.add("Accept")
    return answer


@blueprint.get("/openapi.json")
@Operation(answer=dict[str, Any])
def openapi_json() -> Response:
    """The OpenAPI document of this server and its models."""
    root = this_request().root_path
    return jsonify(openapi.document(current_app, services().engine, is_hidden, root))


@blueprint.get("/docs")
@Operation(answer=str, media=("text/html",))
def docs() -> Response:
    """A page to read this document and try the routes."""
    return Response(PAGE, content_type="text/html; charset=utf-8")


@blueprint.get("/docs/assets/<name>")
def asset(name: str) -> Response:
    """A file of the page."""
    return send_from_directory(swagger_ui_bundle.swagger_ui_path, name, max_age=3600)
