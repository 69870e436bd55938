"""`create_app`: everything arrives as an argument, nothing is started here.

May touch: flask.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from flask import Flask, Request
from werkzeug.routing import MapAdapter

from app import errors, hooks
from app.gate import Gate
from app.hangup import HangupWatcher
from app.metrics import Metrics
from app.quick import Quick
from app.routes import docs, health, inference, models, openai
from app.routing import RememberingMap
from app.services import Services
from app.settings import Settings
from engine.engine import Engine

HOLD_S = 0.005
"""Seconds for which requests that came at once are read before the first is run. Handling
a batch costs Python as much as a request or two, whatever its size: in steps of 2 ms, which are
some ten requests, 64 clients of the null model took 5 to 10 % more CPU."""


class BrimApp(Flask):
    """A Flask app that can say which WSGI requests its server may run on a thread that others need.

    Another server than Brim's own worker does not ask.
    """

    url_map_class = RememberingMap
    url_map: RememberingMap
    quick: Quick
    turn: Callable[[int], AbstractContextManager[None]]
    """Entered with their number around quick requests that run one after the other."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self._synchronous: set[Callable[..., Any]] = set()
        super().__init__(*args, **named)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """As Flask's, which looks whether a view or a hook is a coroutine; here once for each."""
        if func in self._synchronous:
            return func
        ensured = super().ensure_sync(func)
        if ensured is func:
            self._synchronous.add(func)
        return ensured

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """As Flask's, which finds out about a request's URL; for most requests it is known."""
        if request is None or self.config["TRUSTED_HOSTS"] is not None:
            return super().create_url_adapter(request)
        known = self.url_map.recall(request.environ)
        if known is not None:
            return known
        adapter = super().create_url_adapter(request)
        if adapter is not None:
            self.url_map.remember(request.environ, adapter)
        return adapter


def create_app(
    settings: Settings, engine: Engine, metrics: Metrics, hangups: HangupWatcher
) -> BrimApp:
    """The Flask app that speaks for `engine`."""
    app = BrimApp("brim", static_folder=None)
    app.quick = Quick(engine)
    app.turn = lambda requests: engine.turn(HOLD_S if requests > 1 else 0.0)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["brim"] = Services(engine, Gate(settings.places), hangups)
    errors.register(app)
    hooks.register(app, metrics.http)
    app.register_blueprint(inference.blueprint)
    app.register_blueprint(models.blueprint)
    app.register_blueprint(openai.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(health.blueprint)
    metrics.watch(engine)
    metrics.serve(app)
    return app
