"""URLs that were requested before are matched from memory, with the same result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, request, url_for
from werkzeug.routing import Rule
from werkzeug.routing.converters import UnicodeConverter
from werkzeug.test import EnvironBuilder

from app.http.dispatch.routing import MAX_KNOWN
from app.http.factory import BrimApp


@pytest.fixture
def app() -> BrimApp:
    """An app with one route of each kind."""
    app = BrimApp("routes", static_folder=None)

    @app.get("/<name>/is/<int:count>")
    def counted(name: str, count: int) -> dict[str, Any]:
        assert request.view_args is not None
        request.view_args.clear()
        return {name: count, "rule": str(request.url_rule)}

    @app.get("/strict/")
    def strict() -> str:
        return "strict"

    @app.get("/where")
    def where() -> str:
        return f"{request.host} {url_for('where', _external=True)} {url_for('strict')}"

    return app


def known(app: BrimApp, path: str, **more: Any) -> bool:
    return app.url_map.recall(EnvironBuilder(path, **more).get_environ()) is not None


def test_a_request_that_was_answered_is_known_and_another_is_not(app: BrimApp) -> None:
    client = app.test_client()
    assert not known(app, "/a/is/1")
    assert client.get("/a/is/1").status_code == 200
    assert known(app, "/a/is/1")
    assert not known(app, "/a/is/1", method="HEAD")
    assert not known(app, "/a/is/2")
    assert not known(app, "/a/is/1", query_string="q=1")
    assert not known(app, "/a/is/1", base_url="https://localhost")
    assert not known(app, "/a/is/1", base_url="http://localhost/below")
    assert not known(app, "/a/is/1", base_url="http://other")
    assert not known(app, "/a/is/1", headers={"Upgrade": "websocket"})
    assert not known(app, "/a/is/1", environ_overrides={"HTTP_HOST": None})


def test_what_is_known_is_not_looked_for(app: BrimApp, monkeypatch: pytest.MonkeyPatch) -> None:
    client = app.test_client()
    client.get("/a/is/1")
    monkeypatch.setattr("werkzeug.routing.Map.bind_to_environ", lambda *_args, **_named: 1 // 0)
    assert client.get("/a/is/1").status_code == 200
    with pytest.raises(ZeroDivisionError):
        client.get("/a/is/2")


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        pytest.param("GET", "/a/is/1", 200, b'{"a":1,"rule":"/<name>/is/<int:count>"}\n', id="GET"),
        pytest.param("HEAD", "/a/is/1", 200, b"", id="HEAD"),
        pytest.param("GET", "/a/is/x", 404, None, id="nothing there"),
        pytest.param("POST", "/a/is/1", 405, None, id="another method"),
        pytest.param("OPTIONS", "/a/is/1", 200, b"", id="OPTIONS"),
        pytest.param("GET", "/strict", 308, None, id="a slash too few"),
        pytest.param("GET", "/strict?q=1", 308, None, id="a slash too few, with a query"),
        pytest.param("GET", "/a//is/1", 308, None, id="a slash too many"),
        pytest.param("GET", "/where?q=1", 200, None, id="a query"),
    ],
)
def test_an_answer_is_flasks_whenever_it_is_asked_for(
    app: BrimApp, method: str, path: str, status: int, said: bytes | None
) -> None:
    plain = Flask("plain", static_folder=None)
    plain.url_map = app.url_map
    plain.view_functions = app.view_functions
    (expected, *others) = [
        client.open(path, method=method)
        for client in (plain.test_client(), *[app.test_client()] * 3)
    ]
    for other in others:
        assert (other.status_code, other.data) == (status, expected.data)
        assert other.headers == expected.headers
        assert said is None or other.data == said


@pytest.mark.parametrize(
    "base", ["http://one", "http://two:8000", "https://one", "http://one/below"]
)
def test_urls_are_built_for_the_host_that_was_asked(app: BrimApp, base: str) -> None:
    client = app.test_client()
    client.get("/where", base_url="http://one")
    for _ in range(2):
        host, external, inner = client.get("/where", base_url=base).text.split()
        assert host == base.split("/")[2]
        assert external == f"{base}/where"
        assert inner == f"{base.partition(host)[2]}/strict/"


def test_a_host_that_is_not_trusted_is_refused_however_often_it_was_served(app: BrimApp) -> None:
    client = app.test_client()
    assert client.get("/where", base_url="http://other").status_code == 200
    app.config["TRUSTED_HOSTS"] = ["one"]
    assert client.get("/where", base_url="http://other").status_code == 400
    assert client.get("/where", base_url="http://one").status_code == 200


def test_a_converter_of_the_users_own_is_asked_every_time() -> None:
    app = BrimApp("own", static_folder=None)
    rows = {"a": "first"}

    class Row(UnicodeConverter):
        def to_python(self, value: str) -> str:
            return rows[value]

    app.url_map.converters["row"] = Row

    @app.get("/<row:row>")
    def show(row: str) -> str:
        return row

    client = app.test_client()
    assert client.get("/a").text == "first"
    rows["a"] = "second"
    assert client.get("/a").text == "second"


def test_a_route_that_is_added_is_found_at_once(app: BrimApp) -> None:
    client = app.test_client()
    assert client.get("/a/is/1").get_json()["a"] == 1
    app.url_map.add(Rule("/a/is/1", endpoint="strict"))
    assert client.get("/a/is/1").text == "strict"


def test_no_more_is_remembered_than_fits(app: BrimApp) -> None:
    client = app.test_client()
    for count in range(MAX_KNOWN + 1):
        assert client.get(f"/a/is/{count}").get_json()["a"] == count
    kept = [count for count in range(MAX_KNOWN + 1) if known(app, f"/a/is/{count}")]
    assert kept == [MAX_KNOWN]


def test_a_blueprint_of_the_users_own_has_its_hooks_and_its_errors(app: BrimApp) -> None:
    called: list[str] = []
    blueprint = Blueprint("own", __name__, url_prefix="/own")
    steps: dict[str, Callable[..., Any]] = {
        "preprocessor": blueprint.url_value_preprocessor,
        "before": blueprint.before_request,
        "teardown": blueprint.teardown_request,
    }
    for name, register in steps.items():
        register(lambda *_args, name=name: called.append(name))

    @blueprint.errorhandler(KeyError)
    def say(error: KeyError) -> tuple[str, int]:
        return f"no {error.args[0]}", 418

    @blueprint.get("/<what>")
    def fail(what: str) -> str:
        raise KeyError(what)

    app.register_blueprint(blueprint)
    for _ in range(2):
        said = app.test_client().get("/own/tea")
        assert (said.status_code, said.text) == (418, "no tea")
        assert called == [*steps]
        called.clear()
