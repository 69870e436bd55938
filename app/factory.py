"""`create_app`: everything arrives as an argument, nothing is started here.

May touch: flask.
"""

from __future__ import annotations

import re
import uuid

from flask import Flask, Response, g, request

from app import errors
from app.gate import Gate
from app.hangup import HangupWatcher
from app.metrics import Metrics
from app.routes import docs, health, inference, models, openai
from app.services import Services
from app.settings import Settings
from engine.engine import Engine

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def create_app(
    settings: Settings, engine: Engine, metrics: Metrics, hangups: HangupWatcher
) -> Flask:
    """The Flask app that speaks for `engine`."""
    app = Flask("brim", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["brim"] = Services(engine, Gate(settings.threads), hangups)
    errors.register(app)

    @app.before_request
    def name_request() -> None:
        """The client's id for this request, if it is printable and short, or one of ours."""
        theirs = request.headers.get("X-Request-Id", "")
        g.request_id = theirs if _REQUEST_ID.fullmatch(theirs) else uuid.uuid4().hex

    @app.after_request
    def say_name(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        return response

    app.register_blueprint(inference.blueprint)
    app.register_blueprint(models.blueprint)
    app.register_blueprint(openai.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(health.blueprint)
    metrics.watch(engine)
    metrics.serve(app)
    return app
