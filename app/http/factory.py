"""Builds the Flask app from its parts; starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from flask import Flask, Request, Response
from flask.typing import ResponseReturnValue
from typing_extensions import override
from werkzeug.routing import MapAdapter

from app.http import errors, hooks
from app.http.dispatch.cors import Cors
from app.http.dispatch.direct import DirectInference
from app.http.dispatch.lane_refusals import LaneRefusals
from app.http.dispatch.places import Places
from app.http.dispatch.refusals import refuse
from app.http.dispatch.routing import RememberingMap
from app.http.responses.prepared import PreparedResponse, StartResponse
from app.http.routes import docs, elsewhere, health, inference, models, openai
from app.http.services import ConcurrencyLimiter, DisconnectWatcher, Lanes, Services
from app.settings import Settings
from app.worker.calls.pool import Pool
from app.worker.limits.bounds import Bounds
from app.worker.limits.budget import ByteBudget
from app.worker.limits.limits import Limits
from engine.api import EngineClient


class BrimApp(Flask):
    """Flask with attributes for Brim's own worker, which others ignore.

    The overridden methods do what Flask's do, at less cost per request.
    """

    url_map_class = RememberingMap
    request_class = hooks.BrimRequest
    url_map: RememberingMap
    place: Places
    refuse_call: LaneRefusals
    attach: Callable[[Pool], object]
    """Called once with the worker's threads."""
    beat: Callable[[], object]
    """Called every second."""
    tick: Callable[[], AbstractContextManager[None]]
    """Makes the context manager around requests that run one after the other."""
    watch: Callable[[], tuple[int, Callable[[int], object]] | None]
    """Returns what the worker's loop watches, if there is anything."""
    bounds: Bounds
    refuse: Callable[..., PreparedResponse]
    """Makes the answer to what is no request, and to an exception that Flask does not handle."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self.direct: DirectInference | None = None  # until everything is registered
        self.cors = Cors(())
        self._synchronous: set[Callable[..., Any]] = set()
        super().__init__(*args, **named)

    @override
    def wsgi_app(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if self.cors.applies(environ):
            start_response = self.cors.start(environ, start_response)
        if self.direct is not None:
            answered = self.direct(environ, start_response)
            if answered is not None:
                return answered
        try:
            return super().wsgi_app(environ, start_response)
        except Exception:
            raise
        except BaseException as error:
            raise _of_the_request(error) from error

    @override
    def full_dispatch_request(self, *args: Any) -> Response:
        try:
            return super().full_dispatch_request(*args)
        except Exception:
            raise
        except BaseException as error:
            raise _of_the_request(error) from error

    @override
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        # Flask looks for coroutines at every call of a view or hook; this once for each function
        if func in self._synchronous:
            return func
        ensured = super().ensure_sync(func)
        if ensured is func:
            self._synchronous.add(func)
        return ensured

    @override
    def preprocess_request(self) -> ResponseReturnValue | None:
        if not self.before_request_funcs and not self.url_value_preprocessors:
            return None
        return super().preprocess_request()

    @override
    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None or self.config["TRUSTED_HOSTS"] is not None:
            return super().create_url_adapter(request)
        known = self.url_map.recall(request.environ)
        if known is not None:
            return known
        adapter = super().create_url_adapter(request)
        if adapter is not None:
            self.url_map.remember(request.environ, adapter)
        return adapter


def _of_the_request(error: BaseException) -> RuntimeError:
    """SystemExit and the like, of a view or a hook, is an error of its request alone: it ends
    neither the process nor the thread, and it is answered with 500.
    """
    return RuntimeError(f"{type(error).__name__} in a view or a hook")


def create_app(
    settings: Settings,
    engine: EngineClient,
    metrics: hooks.HttpMetrics,
    disconnects: DisconnectWatcher,
) -> BrimApp:
    """Return the Flask app that serves `engine`."""
    app = BrimApp("brim", static_folder=None)
    app.place = Places(engine)
    app.cors = Cors(settings.cors_origins)
    app.refuse_call = LaneRefusals(app.url_map, engine, metrics, app.cors)
    app.tick = engine.coalesce
    app.watch = engine.watch
    app.refuse = partial(refuse, metrics, app.cors)
    app.config["MAX_CONTENT_LENGTH"] = settings.limits.max_body_bytes
    app.url_map.strict_slashes = False  # a slash at the end means nothing
    app.json.sort_keys = False  # type: ignore[attr-defined]
    limiter = ConcurrencyLimiter(settings.max_concurrent_requests)
    lanes = Lanes()
    budget = ByteBudget(settings.limits.max_bytes_in_flight)
    limits = Limits(**{name: getattr(settings.limits, name) for name in Limits.__slots__})
    app.bounds = Bounds(limits, budget, metrics.limited)
    services = app.extensions["brim"] = Services(
        engine, limiter, disconnects, settings.limits, budget, metrics.limited, lanes
    )

    def beat() -> None:
        metrics.note_lanes(lanes.load())
        metrics.note_bytes(budget.held)

    app.attach, app.beat = lanes.attach, beat
    errors.register(app)
    hooks.register(app, metrics)
    for routes in (inference, models, openai, docs, health, elsewhere):
        app.register_blueprint(routes.blueprint)
    metrics.install(app, engine, beat)
    app.direct = DirectInference(app, app.url_map, services, metrics)
    return app
