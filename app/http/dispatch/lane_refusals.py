"""Answers requests that Brim's worker refuses, or whose deadline passes while a hook runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from app.http import errors, hooks
from app.http.dispatch.cors import Cors
from app.http.dispatch.direct import DirectRequest
from app.http.dispatch.lane_errors import error_of
from app.http.dispatch.routing import RememberingMap
from app.http.hooks import HttpMetrics
from app.http.responses.prepared import Environ, StartResponse
from app.worker.calls.refusal import Refusal
from app.worker.suspension import EXCHANGE, Exchange
from engine.api import EngineClient, UnknownModel


class LaneRefusals:
    """Called by the worker in place of the app. Flask and users' hooks take no part: they may be
    what hangs.
    """

    def __init__(
        self, routes: RememberingMap, engine: EngineClient, metrics: HttpMetrics, cors: Cors
    ) -> None:
        self._routes = routes
        self._engine = engine
        self._metrics = metrics
        self._cors = cors

    def __call__(
        self, environ: Environ, start_response: StartResponse, refusal: Refusal
    ) -> Iterable[bytes]:
        """WSGI, with the reason."""
        request = DirectRequest(environ)
        exchange: Exchange = environ[EXCHANGE]
        error = error_of(refusal, exchange.deadline - exchange.read_at)
        with suppress(UnknownModel):  # not every lane is that of a model
            self._engine.endpoint(refusal.lane).count_refusal(error)
        response = errors.error_response(error, environ["PATH_INFO"], request.request_id)
        hooks.finish(request, response)
        known = self._routes.recall(environ)
        rule = None if known is None else known.rule.rule
        hooks.note(self._metrics, request, response, environ["REQUEST_METHOD"], str(rule))
        if self._cors.applies(environ):
            start_response = self._cors.start(environ, start_response)
        return response(environ, start_response)
