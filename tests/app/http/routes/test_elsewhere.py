"""What a client is told that asks for what is not there, and at the root."""

from __future__ import annotations

import json

import pytest
from flask import abort

from engine.testing import puppet_config
from tests.app.conftest import Serve, Served, answer, body, error_of


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/v2/models/puppet/inferr", "/v2/models/puppet/infer"),
        ("/v2/models/pupet/infer/x", "/v2/models/puppet/infer"),
        ("/v2/models/puppet/versions/1/infr", "/v2/models/puppet/versions/1/infer"),
        ("/health", "/healthz"),
        ("/doc", "/docs"),
        ("/metric", "/metrics"),
        ("/v2/health/lives", "/v2/health/live"),
        ("/v2/repository", "/v2/repository/index"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/below"])
def test_an_unknown_url_is_404_and_names_the_nearest_routes(
    served: Served, path: str, nearest: str, prefix: str
) -> None:
    response = served.client.post(path, environ_overrides={"SCRIPT_NAME": prefix})
    assert response.status_code == 404
    said = error_of(response)
    assert said.startswith(f"POST {path} does not exist; did you mean {prefix}{nearest}")
    assert said.endswith(f"; this server has the models puppet; {prefix}/docs shows all routes")


@pytest.mark.parametrize("path", ["/predict", "/infer", "/api/v1/predict", "/predict/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_url_that_asks_for_inference_is_told_its_route(
    serve: Serve, method: str, path: str
) -> None:
    served = serve(*(puppet_config(name=name, rows=(4,)) for name in ("one", "two")))
    response = served.client.open(path, method=method, environ_overrides={"SCRIPT_NAME": "/below"})
    assert response.status_code == 404
    assert error_of(response) == (
        f"{method} {path} does not exist; inference is POST /below/v2/models/one/infer; this "
        "server has the models one, two; /below/docs shows all routes"
    )


def test_a_users_own_route_for_inference_is_used(served: Served) -> None:
    @served.app.post("/predict")
    def predict() -> str:
        return "mine"

    assert served.client.post("/predict").text == "mine"


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "/%00%ff", "/[{<(*", "/<name>"])
def test_an_unknown_url_is_repeated_to_a_length(served: Served, path: str) -> None:
    response = served.client.get(path)
    assert response.status_code == 404
    assert len(error_of(response)) < 300


def test_with_many_models_the_answer_is_as_quick_and_names_them(serve: Serve) -> None:
    served = serve(*(puppet_config(name=f"m{number}", rows=(4,)) for number in range(30)))
    said = error_of(served.client.get("/v2/models/m7/inferr"))
    assert "/v2/models/m7/infer" in said
    assert "m29" in said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v2/models/puppet/load", 501, "models are not loaded and unloaded by requests"),
        ("/v2/models/puppet/unload", 501, "send SIGHUP"),
        ("/v2/repository/models/puppet/load", 501, "this server has puppet;"),
        ("/v2/repository/models/other/unload", 501, "this server has puppet and no 'other'"),
        ("/v1/models/puppet:predict", 404, "inference is POST /v2/models/puppet/infer"),
        ("/v1/models/other:predict", 404, "inference is POST /v2/models/puppet/infer"),
        ("/v1/models/puppet/versions/1:classify", 404, "inference is POST"),
        ("/v1/models/puppet:explain", 404, "inference is POST"),
        ("/v2/models/puppet:predict", 404, "inference is POST /v2/models/puppet/infer"),
        ("/v2/models/puppet/versions/1:predict", 404, "inference is POST /v2/models/puppet/infer"),
        ("/predictions/puppet", 404, "inference is POST"),
        ("/invocations", 404, "inference is POST /v2/models/puppet/infer"),
        ("/v2/models/puppet/generate", 404, "inference is POST"),
        ("/v1/chat/completions", 404, "this server has /v1/embeddings and /v1/models"),
    ],
)
def test_the_urls_of_other_protocols_are_answered_with_the_right_ones(
    served: Served, path: str, status: int, words: str
) -> None:
    response = served.client.post(path, json={})
    assert response.status_code == status
    said = json.loads(response.data)["error"]
    if path.startswith("/v1/"):
        said = said["message"]
    assert words in said
    assert said.endswith("; /docs shows all routes")


@pytest.mark.parametrize("path", ["/v2/models/puppet/infer", "/v2/models/puppet/versions/1/infer"])
def test_a_slash_at_the_end_means_nothing(served: Served, path: str) -> None:
    for _ in range(2):  # the second time it is remembered
        response = served.client.post(f"{path}/", json=body(1.0))
        assert response.get_json()["outputs"][0]["data"] == answer(1.0)
    for probe in ("/healthz/", "/v2/", "/v2/models/puppet/", "/docs/"):
        assert served.client.get(probe).status_code == 200


def test_a_wrong_method_is_405_and_names_the_right_one(served: Served) -> None:
    response = served.client.delete("/v2/models/puppet")
    assert response.status_code == 405
    said = "/v2/models/puppet has GET, and not DELETE; /docs shows all routes"
    assert error_of(response) == said
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_the_404_of_a_users_own_view_keeps_its_words(served: Served) -> None:
    @served.app.get("/mine/<thing>")
    def mine(thing: str) -> str:
        abort(404, f"no {thing}")

    assert error_of(served.client.get("/mine/cat")) == "no cat"


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_the_root_says_what_this_is_and_where_to_go_on(served: Served, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    environ = {"SCRIPT_NAME": "/below"}
    response = served.client.get("/", headers=headers, environ_overrides=environ)
    assert response.get_json() | {"version": ""} == {
        "name": "brim",
        "version": "",
        "docs": "/below/docs",
        "openapi": "/below/openapi.json",
        "models": ["puppet"],
    }
    assert response.headers["Vary"] == "Accept"


def test_the_root_leads_a_browser_to_the_page(served: Served) -> None:
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    response = served.client.get("/", headers={"Accept": accept})
    assert response.mimetype == "text/html"
    assert 'content="0; url=/docs"' in response.text
