"""Calls inference views without Flask's context, where nothing could tell the difference.

Flask's own request (its context, its signals, dispatch, hooks and teardown) takes half of what an
inference request costs before it is submitted: 49 us of 90 for the null model. Nothing in it serves
the view: the route is remembered, the view needs neither `g` nor `request`, and Brim's one hook is
called here. So a plain inference request is answered directly, unless a user's code takes part in
requests: a hook, a handler of errors, a listener of Flask's signals, a view put in place of Brim's.
Then Flask does everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

import flask
from flask import Flask, Response

from app.http import bodies, errors, hooks
from app.http.dispatch.routing import RememberingMap
from app.http.hooks import HttpMetrics, Identified
from app.http.inference import WORTH_CHECKING_S, waited_too_long
from app.http.responses.deferred import PendingAnswer
from app.http.responses.prepared import Environ, PreparedResponse, StartResponse
from app.http.routes import inference
from app.http.services import Services
from app.worker.limits.limits import LimitExceeded
from engine.api import BrimError

ENDPOINT: Final = "inference.infer"

SIGNALS: Final = (
    flask.request_started,
    flask.request_finished,
    flask.request_tearing_down,
    flask.got_request_exception,
    flask.appcontext_pushed,
    flask.appcontext_popped,
    flask.appcontext_tearing_down,
)


class DirectRequest(Identified):
    """A request that Flask does not see."""

    __slots__ = ("begun_at", "environ", "exchange", "pending", "request_id", "reserved")

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.identify(environ)


class DirectInference:
    """Answers plain inference requests of one app. Make it when the app is complete otherwise."""

    def __init__(
        self, app: Flask, routes: RememberingMap, services: Services, metrics: HttpMetrics
    ) -> None:
        """`routes` are those of the app."""
        self._app = app
        self._routes = routes
        self._services = services
        self._metrics = metrics
        self._view = app.view_functions[ENDPOINT]
        self._own_parts = _parts(app)
        self._unchanged: bool | None = None  # known with the first request

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        """Answer a request, or return None: Flask has to answer it."""
        app = self._app
        known = self._routes.recall(environ)
        if known is None or known.rule.endpoint != ENDPOINT or not self._applies():
            return None
        length = bodies.plain_length(environ, app.config["MAX_CONTENT_LENGTH"])
        if length is None:
            return None
        request = DirectRequest(environ)
        refused = self._refuse_late(request, known.args)
        if refused is not None:
            hooks.note(self._metrics, request, refused, "POST", known.rule.rule)
            return refused(environ, start_response)
        response = self._respond(request, known.args, length)
        hooks.finish(request, response)
        hooks.note(self._metrics, request, response, "POST", known.rule.rule)
        return response(environ, start_response)

    def _refuse_late(
        self, request: DirectRequest, args: Mapping[str, Any]
    ) -> PreparedResponse | None:
        """Refuse a request that has waited too long, as cheaply as possible."""
        if request.waited_s < WORTH_CHECKING_S:
            return None
        try:
            endpoint = self._services.engine.endpoint(**args)
            late = waited_too_long(request, endpoint)
        except BrimError:  # the view answers it
            return None
        if late is None:
            return None
        endpoint.count_refusal(late)
        return errors.prepared_refusal(late, request.request_id)

    def _respond(
        self, request: DirectRequest, args: Mapping[str, Any], length: int
    ) -> Response | PendingAnswer:
        environ = request.environ
        read = partial(bodies.read_plain, request, self._services, length)
        try:
            return inference.submit(request, self._services, read, **args)
        except BaseException as error:  # SystemExit too: a hook ends its request alone
            if isinstance(error, LimitExceeded):
                self._services.limited(error.limit)
            return errors.error_response(error, environ["PATH_INFO"], request.request_id)
        finally:
            if request.reserved:
                self._services.budget.add(-request.reserved)

    def _applies(self) -> bool:
        """Whether no user's code takes part in this request."""
        app = self._app
        if app.view_functions[ENDPOINT] is not self._view or any(s.receivers for s in SIGNALS):
            return False
        if self._unchanged is None:
            # a route is remembered by its first request, and then Flask allows no change
            self._unchanged = _parts(app) == self._own_parts
        return self._unchanged


def _parts(app: Flask) -> list[Any]:
    """What takes part in every request of the app."""
    functions = (
        app.before_request_funcs,
        app.after_request_funcs,
        app.teardown_request_funcs,
        app.url_value_preprocessors,
    )
    # Flask's look-ups leave empty lists and tables behind, which change nothing
    parts: list[Any] = [[*each] for by_name in functions for each in by_name.values() if each]
    by_codes = app.error_handler_spec.values()
    parts += [dict(handlers) for by_code in by_codes for handlers in by_code.values() if handlers]
    return [*parts, [*app.teardown_appcontext_funcs], app.config["TRUSTED_HOSTS"], app.secret_key]
