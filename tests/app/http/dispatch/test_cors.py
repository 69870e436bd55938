"""Pages of the configured origins may call every route, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.http.factory import BrimApp
from tests.app.conftest import Serve, Served, answer, body

PAGE = "https://app.example"
INFER = "/v2/models/puppet/infer"
EXPOSED = "X-Request-Id, Retry-After, Inference-Header-Content-Length"


@pytest.fixture
def allowed(serve: Serve) -> Served:
    return serve(cors_origins=(PAGE, "http://localhost:3000"))


def cors_of(response: TestResponse) -> dict[str, str]:
    prefix = "access-control-"
    found = {name.lower(): value for name, value in response.headers}
    return {name.removeprefix(prefix): v for name, v in found.items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", INFER, 200),
        ("POST", "/v1/embeddings", 400),
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nowhere", 404),
        ("DELETE", INFER, 405),
    ],
)
def test_every_answer_says_that_a_configured_page_may_read_it(
    allowed: Served, method: str, path: str, status: int
) -> None:
    sent: Any = {"json": body(1.0)} if method == "POST" else {}
    for _ in range(2):  # the second inference is answered without Flask
        response = allowed.client.open(path, method=method, headers={"Origin": PAGE}, **sent)
        assert response.status_code == status
        assert cors_of(response) == {"allow-origin": PAGE, "expose-headers": EXPOSED}
        assert "Origin" in response.headers["Vary"]
        assert "X-Request-Id" in response.headers


@pytest.mark.parametrize("path", [INFER, "/v1/embeddings", "/healthz", "/v2/models/puppet"])
def test_a_preflight_is_answered_for_every_route(allowed: Served, path: str) -> None:
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, x-request-timeout-ms",
    }
    response = allowed.client.options(path, headers=headers)
    assert response.status_code == 200
    assert cors_of(response) == {
        "allow-origin": PAGE,
        "allow-methods": response.headers["Allow"],
        "allow-headers": "content-type, x-request-timeout-ms",
        "max-age": "600",
    }


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil"])
def test_another_page_may_read_nothing(allowed: Served, origin: str) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for response in (
        allowed.client.options(INFER, headers=headers),
        allowed.client.get("/healthz", headers=headers),
        allowed.client.post(INFER, json=body(1.0), headers=headers),
    ):
        assert cors_of(response) == {}
        assert response.headers["Vary"] == "Origin"


def test_what_a_cache_may_keep_is_kept_for_each_origin(allowed: Served) -> None:
    assert allowed.client.get("/v2").headers["Vary"] == "Origin"
    assert allowed.client.get("/").headers["Vary"] == "Accept, Origin"


def test_any_page_may_read_where_any_is_configured(serve: Serve) -> None:
    served = serve(cors_origins=("*",))
    response = served.client.post(INFER, json=body(1.0), headers={"Origin": PAGE})
    assert cors_of(response) == {"allow-origin": "*", "expose-headers": EXPOSED}
    assert "Vary" not in response.headers


def test_without_the_setting_nothing_is_said(served: Served) -> None:
    response = served.client.post(INFER, json=body(1.0), headers={"Origin": PAGE})
    assert response.get_json()["outputs"][0]["data"] == answer(1.0)
    assert cors_of(response) == {}
    assert "Vary" not in response.headers


def test_a_refusal_outside_flask_may_be_read_too(allowed: Served) -> None:
    assert isinstance(allowed.app, BrimApp)
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "HTTP_ORIGIN": PAGE}
    refused = allowed.app.refuse(environ, 431, "too many headers", ValueError())
    assert ("Access-Control-Allow-Origin", PAGE) in refused.headers
