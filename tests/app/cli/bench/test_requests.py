"""What is read from a server before it is loaded, and the requests made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

from app.cli.bench import requests
from app.cli.bench.plan import BenchError, Settings, Target
from engine.models.tensors import DTYPES, TensorSpec

Documents = dict[str, Any]
Ask = Callable[..., list[dict[str, Any]]]

MODELS: Documents = {
    "/v2/models": {"models": ["plain", "texts"]},
    "/v2/models/plain": {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
        ]
    },
    "/v2/models/texts": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}]},
    "/v2/models/every": {
        "inputs": [
            {"name": name.lower(), "datatype": name, "shape": [-1]}
            for name in DTYPES
            if name not in ("FP16", "BF16")
        ]
    },
    "/v2/models/odd": {"inputs": [{"name": "x", "datatype": "COMPLEX", "shape": [-1]}]},
    "/openapi.json": {
        "components": {
            "schemas": {
                "texts.InferRequest": {
                    "example": {
                        "inputs": [
                            {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}
                        ]
                    }
                }
            }
        }
    },
}


@pytest.fixture
def served() -> Iterator[tuple[str, Documents]]:
    """The URL of a server of documents, and the documents."""
    documents = dict(MODELS)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = documents.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(b"gone" if found is None else json.dumps(found).encode())

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), name="brim-test-server")
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", documents
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(served: tuple[str, Documents]) -> Ask:
    """The inputs of the first request of a plan."""

    def inputs(*targets: Target, length: int | None = None, seed: int = 1) -> list[dict[str, Any]]:
        plan = requests.plan(Settings(served[0], clients=1, seed=seed), targets, length)
        body = plan.requests[0].message.partition(b"\r\n\r\n")[2]
        found: list[dict[str, Any]] = json.loads(body)["inputs"]
        return found

    return inputs


def test_the_example_of_the_openapi_document_is_repeated_to_the_rows_asked_for(ask: Ask) -> None:
    (text,) = ask(Target("texts", 5))
    assert (text["shape"], text["data"]) == ([5], ["a", "b", "a", "b", "a"])


def test_a_model_without_an_example_gets_random_values(ask: Ask) -> None:
    x, ids = ask(Target("plain", 3))
    assert (x["shape"], ids["shape"]) == ([3, 2], [3, requests.LENGTH])
    assert len(set(x["data"])) == 6
    assert set(ids["data"]) == {0, 1}, "in every vocabulary"


def test_a_length_sets_dynamic_axes_and_the_words_of_texts(ask: Ask) -> None:
    assert ask(Target("plain"), length=7)[1]["shape"] == [1, 7]
    (text,) = ask(Target("texts"), length=7)
    assert len(text["data"][0].split()) == 7, "instead of the example"


def test_every_datatype_with_a_json_form_has_random_values(ask: Ask) -> None:
    assert len(ask(Target("every", 2))) == len(DTYPES) - 2


def test_the_same_seed_makes_the_same_values(ask: Ask) -> None:
    same, again, other = (ask(Target("plain"), seed=seed) for seed in (1, 1, 2))
    assert same == again != other


def test_without_targets_every_model_gets_one_row(served: tuple[str, Documents]) -> None:
    plan = requests.plan(Settings(served[0], clients=1), [], None)
    assert [request.target for request in plan.requests] == [Target("plain"), Target("texts")]


def test_a_server_needs_no_openapi_document(served: tuple[str, Documents], ask: Ask) -> None:
    del served[1]["/openapi.json"]
    assert ask(Target("texts"))[0]["shape"] == [1]


@pytest.mark.parametrize(
    ("change", "target", "problem"),
    [
        ({}, "gone", "URL does not serve a model 'gone' (now)"),
        ({}, "odd", "the inputs of 'odd' are not understood: x: datatype 'COMPLEX'"),
        ({"/v2/models/plain": {}}, "plain", "the inputs of 'plain' are not understood: 'inputs'"),
        ({"/v2/models/plain": [1]}, "plain", "URL does not serve a model 'plain' (now)"),
        ({"/v2/models": {}}, None, "URL does not list its models; name some with --model"),
    ],
)
def test_a_server_without_usable_metadata_is_refused_in_one_line(
    served: tuple[str, Documents], change: Documents, target: str | None, problem: str
) -> None:
    url, documents = served
    documents.update(change)
    targets = [] if target is None else [Target(target)]
    with pytest.raises(BenchError) as refusal:
        requests.plan(Settings(url, clients=1), targets, None)
    assert str(refusal.value).startswith(problem.replace("URL", url))


def test_an_example_that_does_not_fit_is_refused(served: tuple[str, Documents], ask: Ask) -> None:
    served[1]["/v2/models/texts"] = {
        "inputs": [{"name": "text", "datatype": "FP32", "shape": [-1]}]
    }
    with pytest.raises(BenchError, match=r"^the example of 'text' is not understood: "):
        ask(Target("texts"))


def test_no_server_at_the_url_is_one_line() -> None:
    with pytest.raises(BenchError, match=r"^no response from http://127.0.0.1:1: "):
        requests.plan(Settings("http://127.0.0.1:1", clients=1), [], None)


def test_random_values_have_their_datatype() -> None:
    rng = np.random.default_rng(1)
    for name, dtype in DTYPES.items():
        spec = TensorSpec("t", name, (3,))
        made = requests._random(spec, 2, 4, rng)
        assert (made.shape, made.dtype) == ((2, 3), dtype)
