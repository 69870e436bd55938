"""Inference without Flask's context: the same answers, and Flask wherever a user takes part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import flask
import numpy as np
import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from werkzeug.test import TestResponse

from app.http.dispatch.direct import ENDPOINT, SIGNALS
from app.http.factory import BrimApp, create_app
from app.http.services import DisconnectWatcher
from app.settings import Limits
from app.telemetry.exporter import HttpExporter
from engine.models.tensors import TensorSpec
from engine.serving.client import InProcessClient
from engine.testing import PUPPET_SPEC_IN, PuppetCompiler, puppet_config, puppet_model
from tests.app.conftest import answer, body, settings_of
from tests.app.wire import binary, request_of

INFER = "/v2/models/puppet/infer"
ID = {"X-Request-Id": "seven"}


class Pair:
    """Two apps of one engine: Flask answers every request of `flask`, and none that is plain of
    `direct`.
    """

    def __init__(self) -> None:
        config = puppet_config(max_queue_rows=100)
        self.engine = InProcessClient(
            [config],
            load=lambda _config: puppet_model(
                inputs=(replace(PUPPET_SPEC_IN, low=-1e3, high=1e3),)
            ),
            compiler=PuppetCompiler(),
            watch_compiles=lambda _alarm: lambda: None,
        )
        self.disconnects = DisconnectWatcher()
        self.registries: dict[str, CollectorRegistry] = {}
        self.flask, self.direct = self.make("flask"), self.make("direct")
        self.flask.before_request(lambda: None)
        self.engine.start()
        assert self.engine.wait_startup_finished(30)
        for app in (self.flask, self.direct):
            for path in (INFER, "/v2/models/puppet/versions/1/infer"):
                client_of(app).post(path, json=body(0.0))  # routes are remembered then

    def make(self, name: str) -> BrimApp:
        """An app of the engine."""
        registry = self.registries[name] = CollectorRegistry()
        settings = settings_of(
            *[self.engine.endpoint("puppet").config], limits=Limits(max_body_bytes=2000)
        )
        return create_app(settings, self.engine, HttpExporter(registry), self.disconnects)

    def close(self) -> None:
        self.engine.close()
        self.disconnects.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture
def by_flask(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that Flask's own request has handled."""
    seen: list[str] = []
    full = Flask.full_dispatch_request

    def dispatch(app: Flask) -> Response:
        seen.append(flask.request.path)
        return full(app)

    monkeypatch.setattr(Flask, "full_dispatch_request", dispatch)
    return seen


def client_of(app: Flask) -> FlaskClient:
    """A client whose server ends the body, as gunicorn does."""
    client = app.test_client()
    client.environ_base["wsgi.input_terminated"] = True
    return client


def told(response: TestResponse) -> tuple[Any, ...]:
    differ = ("X-Request-Id", "Content-Length")  # a length follows from the data
    headers = {name: value for name, value in response.headers if name not in differ}
    return response.status, headers, response.data


X = TensorSpec("x", "FP32", (2,))
_HEADER = request_of(binary(X, (2, 2), 16))
RAW, HEADER = _HEADER + np.ones((2, 2), np.float32).tobytes(), len(_HEADER)
PLAIN: dict[str, dict[str, Any]] = {
    "JSON": {"json": body(1.0, 2.0)},
    "with an id": {"json": body(1.0, id="mine")},
    "null wherever it may be": {"json": body(1.0, id=None, parameters=None, outputs=None)},
    "unknown parameters": {"json": body(1.0, parameters={"headers": {"host": ["a", None]}})},
    "a known parameter of another kind": {"json": body(1.0, parameters={"timeout": [1]})},
    "binary": {"data": RAW, "headers": {"Inference-Header-Content-Length": str(HEADER)}},
    "a header that is no number": {
        "data": RAW,
        "headers": {"Inference-Header-Content-Length": "many"},
    },
    "no JSON": {"data": b"{"},
    "a value out of the model's range": {"json": body(1.0, 1001.0)},
    "another tensor": {"json": {"inputs": [{"name": "z", "shape": [1], "datatype": "FP32"}]}},
    "a priority that does not exist": {"json": body(1.0, parameters={"priority": 10})},
    "no time": {"json": body(1.0), "headers": {"X-Request-Timeout-Ms": "0.000001"}},
    "a timeout that is no number": {"json": body(1.0), "headers": {"X-Request-Timeout-Ms": "1s"}},
    "NaN": {"json": body(1e39)},
    "more rows than the queue takes": {"json": body(*[1.0] * 101)},
}


@pytest.mark.parametrize("how", PLAIN.values(), ids=PLAIN)
def test_a_plain_request_is_answered_as_flask_answers_it(
    pair: Pair, by_flask: list[str], how: dict[str, Any]
) -> None:
    expected = client_of(pair.flask).post(INFER, **how)
    assert by_flask == [INFER]
    got = client_of(pair.direct).post(INFER, **how)
    assert by_flask == [INFER], "Flask has not seen the second one"
    status, headers, data = told(got)
    assert (status, headers) == told(expected)[:2]
    assert data == told(expected)[2] or "may take" in data.decode()  # the seconds of each differ


def test_it_has_the_clients_request_id_or_one_of_its_own(pair: Pair) -> None:
    client = client_of(pair.direct)
    for how in ({"json": body(1.0)}, {"data": b"{"}):
        assert client.post(INFER, headers=ID, **how).headers["X-Request-Id"] == "seven"  # type: ignore[arg-type]
        ids = {client.post(INFER, **how).headers["X-Request-Id"] for _ in range(3)}  # type: ignore[arg-type]
        assert len(ids) == 3
        assert {len(one) for one in ids} == {32}


def test_it_is_counted_with_its_route_and_status(pair: Pair) -> None:
    def counted(status: str) -> float:
        labels = {"method": "POST", "url_rule": "/v2/models/<name>/infer", "status": status}
        name = "flask_http_request_duration_seconds_count"
        return pair.registries["direct"].get_sample_value(name, labels) or 0.0

    before = counted("200"), counted("400")
    client = client_of(pair.direct)
    client.post(INFER, json=body(1.0))
    client.post(INFER, data=b"{")
    assert (counted("200"), counted("400")) == (before[0] + 1, before[1] + 1)


def test_what_nobody_foresaw_is_told_by_the_request_id_only(
    pair: Pair,
    by_flask: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_arguments: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(pair.engine.endpoint("puppet"), "submit", broken)
    response = client_of(pair.direct).post(INFER, json=body(1.0), headers=ID)
    assert response.status_code == 500
    assert response.get_json() == {"error": "internal error; the log has request seven"}
    assert "ZeroDivisionError: secret" in caplog.text
    assert by_flask == []


NOT_PLAIN: dict[str, Callable[[Any], TestResponse]] = {
    "nothing": lambda c: c.post(INFER),
    "an encoding": lambda c: c.post(INFER, data=b"x", headers={"Content-Encoding": "gzip"}),
    "a body that is too long": lambda c: c.post(INFER, data=b"x" * 2001),
    "a query": lambda c: c.post(f"{INFER}?a=1", json=body(1.0)),
    "another method": lambda c: c.get(INFER),
    "another route": lambda c: c.get("/v2/models/puppet"),
    "a route that was not seen before": lambda c: c.post("/v2/models/other/infer", json={}),
}


@pytest.mark.parametrize("ask", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_flask_answers_what_is_not_plain(
    pair: Pair, by_flask: list[str], ask: Callable[[Any], TestResponse]
) -> None:
    assert told(ask(client_of(pair.direct))) == told(ask(client_of(pair.flask)))
    assert len(by_flask) == 2


# --- a user takes part ----------------------------------------------------------------------------


def nothing(*_arguments: Any, **_named: Any) -> None:
    """A hook."""


HOOKS: dict[str, Callable[[Flask], object]] = {
    "before a request": lambda app: app.before_request(nothing),
    "after a request": lambda app: app.after_request(lambda response: response),
    "at its teardown": lambda app: app.teardown_request(nothing),
    "at the context's teardown": lambda app: app.teardown_appcontext(nothing),
    "for values of the URL": lambda app: app.url_value_preprocessor(nothing),
    "for errors": lambda app: app.register_error_handler(ValueError, lambda _e: ("", 400)),
    "for errors of Brim": lambda app: app.register_error_handler(Exception, lambda _e: ("", 400)),
    "a session": lambda app: setattr(app, "secret_key", "secret"),
    "trusted hosts": lambda app: app.config.update(TRUSTED_HOSTS=["localhost"]),
}


@pytest.mark.parametrize("register", HOOKS.values(), ids=HOOKS)
def test_with_a_hook_flask_answers_everything(
    pair: Pair, by_flask: list[str], register: Callable[[Flask], object]
) -> None:
    app = pair.make("hooked")
    register(app)
    for _ in range(3):
        assert client_of(app).post(INFER, json=body(1.0)).status_code == 200
    assert len(by_flask) == 3


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
def test_with_a_listener_of_a_signal_flask_answers_everything(
    pair: Pair, by_flask: list[str], signal: Any
) -> None:
    client = client_of(pair.direct)
    with signal.connected_to(nothing):
        assert client.post(INFER, json=body(1.0)).status_code == 200
    assert len(by_flask) == 1
    client.post(INFER, json=body(1.0))
    assert len(by_flask) == 1, "nothing listens any more"


@pytest.mark.parametrize(
    "first", [(INFER, b"{"), ("/v2/models/none/infer", b"{}"), ("/nowhere", b"{}")], ids=str
)
def test_a_request_that_is_refused_first_changes_nothing_for_the_others(
    pair: Pair, by_flask: list[str], first: tuple[str, bytes]
) -> None:
    """Flask's look-up of a handler for the error leaves empty entries in its tables."""
    client = client_of(pair.make(f"first {first}"))
    assert client.post(first[0], data=first[1]).status_code in (400, 404)
    client.post(INFER, json=body(1.0))  # the route is remembered by then
    by_flask.clear()
    assert client.post(INFER, json=body(1.0)).status_code == 200
    assert by_flask == []


def test_with_a_view_in_its_place_flask_calls_that(pair: Pair) -> None:
    app = pair.make("viewed")
    client = client_of(app)
    assert client.post(INFER, json=body(1.0)).get_json()["outputs"][0]["data"] == answer(1.0)
    app.view_functions[ENDPOINT] = lambda **_names: "another view"
    assert client.post(INFER, json=body(1.0)).data == b"another view"


def test_a_body_is_read_from_the_server_as_it_comes(pair: Pair) -> None:
    content = json.dumps(body(3.0)).encode()
    response = client_of(pair.direct).post(INFER, data=content)
    assert response.get_json()["outputs"][0]["data"] == answer(3.0)


def test_a_value_out_of_the_range_is_refused_without_flask_too(
    pair: Pair, by_flask: list[str]
) -> None:
    response = client_of(pair.direct).post(INFER, json=body(1.0, 1001.0))
    assert by_flask == []
    assert (response.status_code, response.get_json()) == (
        400,
        {"error": "x: value 1001.0 in row 1 is out of range, expected -1000.0 to 1000.0"},
    )
