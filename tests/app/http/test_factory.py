"""`create_app`: it puts together what it is given, starts nothing, and names every request."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry

from app.http.factory import create_app
from app.http.services import DisconnectWatcher
from app.telemetry.exporter import HttpExporter
from engine.serving.client import InProcessClient
from tests.app.conftest import Serve, Served, settings_of


def test_making_an_app_starts_no_thread_and_no_model() -> None:
    settings = settings_of()
    engine = InProcessClient(settings.models)
    disconnects = DisconnectWatcher()
    before = threading.active_count()
    app = create_app(settings, engine, HttpExporter(CollectorRegistry()), disconnects)
    assert threading.active_count() == before
    response = app.test_client().get("/readyz")
    assert response.status_code == 503
    assert response.get_json()["models"]["puppet"]["state"] == "loading"
    disconnects.close()


def test_two_apps_in_one_process_share_nothing(serve: Serve) -> None:
    one, other = serve(), serve(worker="gthread", threads=2)
    assert one.infer(1.0).status_code == 200
    one.observer.wait_for("batch_done")
    assert one.sample("brim_rows_total", model="puppet") == 1
    assert other.sample("brim_rows_total", model="puppet") == 0
    assert other.services.limiter.limit == 1


def test_keys_stay_in_the_order_in_which_they_were_written(served: Served) -> None:
    assert list(served.client.get("/v2/models/puppet").get_json()) == [
        "name",
        "versions",
        "platform",
        "inputs",
        "outputs",
    ]


PATHS = ["/healthz", "/metrics", "/nowhere", "/v2/models/nobody", "/v2/models/puppet/infer"]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_carries_the_clients_request_id(served: Served, path: str) -> None:
    response = served.client.get(path, headers={"X-Request-Id": "a-7/b"})
    assert response.headers.getlist("X-Request-Id") == ["a-7/b"]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_to_a_client_without_an_id_gets_one_of_ours(served: Served, path: str) -> None:
    first, second = (served.client.get(path).headers["X-Request-Id"] for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [
        pytest.param("x" * 128, True, id="as long as may be"),
        pytest.param("x" * 129, False, id="too long for a log line"),
        pytest.param("!~", True, id="the ends of what is printable"),
        pytest.param("", False, id="empty"),
        pytest.param("a b", False, id="a space splits a log line"),
        pytest.param("a\r\nSet-Cookie: b", False, id="header injection"),
        pytest.param("a\nb", False, id="log injection"),
        pytest.param("a\n", False, id="a newline at the end"),
        pytest.param("a\x00", False, id="a control character"),
        pytest.param("a\x7f", False, id="delete"),
        pytest.param("\xe9", False, id="beyond ASCII"),
    ],
)
def test_only_a_short_printable_id_is_taken_over(served: Served, theirs: str, kept: bool) -> None:
    # past the test client's own checks, as a careless proxy would send it
    response = served.client.get("/healthz", environ_overrides={"HTTP_X_REQUEST_ID": theirs})
    name = response.headers["X-Request-Id"]
    assert (name == theirs) is kept
    assert kept or re.fullmatch("[0-9a-f]{32}", name)
    assert "Set-Cookie" not in response.headers


def test_a_view_is_looked_at_once_and_a_coroutine_every_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []

    def plain() -> str:
        return "plain"

    async def coroutine() -> str:
        return "coroutine"

    def look(_app: Flask, view: Any) -> Any:
        looked.append(view)
        return view if view is plain else (lambda: "run")

    monkeypatch.setattr(Flask, "ensure_sync", look)
    assert [served.app.ensure_sync(plain) for _ in range(3)] == [plain] * 3
    assert [served.app.ensure_sync(coroutine)() for _ in range(2)] == ["run"] * 2
    assert looked == [plain, coroutine, coroutine]
