"""The document is valid and lists exactly the statuses of each route."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from openapi_spec_validator import validate

from app.http import errors
from app.http.codecs.messages import Answer
from app.http.openapi import document as openapi
from app.http.responses.operation import REASONS
from app.http.routes.elsewhere import is_hidden
from app.http.routes.health import ServerProgress
from engine.models.config import ModelConfig
from engine.models.model import Model, Prepared
from engine.models.tensors import LENGTH, Arrays, TensorSpec
from engine.testing import PUPPET_SPEC_IN, PuppetCompiler, puppet_config, puppet_model
from tests.app.conftest import Serve, Served

TEXT = TensorSpec("text", "BYTES")
HALVES = (TensorSpec("half", "FP16", (4,)), TensorSpec("brain", "BF16", (4,)), TEXT)
HALF_NAMES = [spec.name for spec in HALVES]
IDS = TensorSpec("ids", "INT64", (LENGTH,))


def lengths(inputs: Arrays) -> Prepared:
    *_, texts = inputs.values()
    return Prepared({"x": np.array([[len(text), 0] for text in texts], np.float32)})


def load(config: ModelConfig) -> Model:
    """A model of every kind of tensor, by name."""
    hook = {"preprocess": lengths, "device_inputs": (PUPPET_SPEC_IN,)}
    models: dict[str, Model] = {
        "plain": puppet_model(example={"x": [[1.0, -1.0]]}),
        "texts": puppet_model(inputs=(TEXT,), example={"text": ["full to the brim"]}, **hook),
        "halves": puppet_model(
            inputs=HALVES,
            example={"half": [[1, 2, 3, 4]], "brain": [[1, 2, 3, 4]], "text": ["a"]},
            **hook,
        ),
        "ids": puppet_model(inputs=(IDS,), example={"ids": [[1, 2, 3]]}, **hook),
    }
    return models[config.name]


NAMES = ("plain", "texts", "halves", "ids")


@pytest.fixture
def many(serve: Serve) -> Served:
    return serve(*(puppet_config(name=name, rows=(4,)) for name in NAMES), model=load)


def document_of(served: Served) -> dict[str, Any]:
    response = served.client.get("/openapi.json")
    assert response.status_code == 200
    return dict(response.get_json())


def schema_of(served: Served, name: str) -> dict[str, Any]:
    return dict(document_of(served)["components"]["schemas"][name])


# --- the whole document ---------------------------------------------------------------------------


def test_the_document_of_many_models_is_valid(many: Served) -> None:
    validate(document_of(many))


def test_the_document_during_start_up_is_valid_and_has_no_model(
    serve: Serve,
) -> None:
    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    document = document_of(serve(compiler=compiler, wait=False))
    validate(document)
    assert "/v2/models/puppet/infer" not in document["paths"]
    assert "/v2/models/{name}/infer" in document["paths"]


def test_a_route_without_a_declaration_is_an_error(served: Served) -> None:
    def more() -> str:
        return "more"

    served.app.add_url_rule("/more", view_func=more)
    assert "/more" not in document_of(served)["paths"]  # a user's own
    more.__module__ = "app.http.routes.more"
    with pytest.raises(LookupError, match="does not declare its Operation"):
        openapi.document(served.app, served.engine, is_hidden, "")


@pytest.mark.parametrize(("prefix", "servers"), [("", "/"), ("/below", "/below")])
def test_the_document_says_where_its_paths_begin(served: Served, prefix: str, servers: str) -> None:
    response = served.client.get("/openapi.json", environ_overrides={"SCRIPT_NAME": prefix})
    assert response.get_json()["servers"] == [{"url": servers}]


def test_every_error_status_has_a_description() -> None:
    # 499 is for the log only: the client is gone. 408 and 413 are of limits
    assert set(REASONS) == set(errors.STATUS.values()) - {499} | {408, 413}


def kinds(root: type[Answer] = Answer) -> Iterator[type[Answer]]:
    yield root
    for child in root.__subclasses__():
        yield from kinds(child)


def test_no_field_of_an_answer_is_optional_because_of_a_default() -> None:
    found = list(kinds())
    assert ServerProgress in found
    defaults = {field.default for kind in found for field in msgspec.structs.fields(kind)}
    assert defaults == {msgspec.NODEFAULT, msgspec.UNSET}


# --- statuses of each route -----------------------------------------------------------------------

READ = {"200"}
VERDICT = {"200", "503"}
OF_A_MODEL = {"200", "404"}
OF_ONE_THAT_SERVES = {"200", "404", "503"}
INFERENCE = {"200", *map(str, REASONS)}

ENDS = {
    "/healthz": VERDICT,
    "/readyz": VERDICT,
    "/v2/health/live": VERDICT,
    "/v2/health/ready": VERDICT,
    "/v2": READ,
    "/v2/models": READ,
    "/v2/models/stats": READ,
    "/v2/models/{name}": OF_ONE_THAT_SERVES,
    "/v2/models/{name}/ready": OF_ONE_THAT_SERVES,
    "/v2/models/{name}/config": OF_ONE_THAT_SERVES,
    "/v2/models/{name}/stats": OF_A_MODEL,
    "/v2/models/{name}/infer": INFERENCE,
    "/v2/models/puppet/infer": INFERENCE,
    "/v2/repository/index": {"200", "400", "408", "413", "415", "503"},
    "/": READ,
    "/v1/models": READ,
    "/v1/models/{name}": OF_A_MODEL,
    "/v1/embeddings": INFERENCE,
    "/metrics": READ,
    "/docs": READ,
    "/openapi.json": READ,
}


def test_every_route_lists_its_statuses(served: Served) -> None:
    said = {
        path: set(operation["responses"])
        for path, operations in document_of(served)["paths"].items()
        for operation in operations.values()
    }
    versioned = {
        path.replace("{name}", "{name}/versions/{version}"): statuses
        for path, statuses in ENDS.items()
        if "{name}" in path and path.startswith("/v2/")
    }
    assert said == ENDS | versioned


@pytest.mark.parametrize("status", ["200", "503"])
def test_readiness_has_the_same_body_whether_ready_or_not(served: Served, status: str) -> None:
    said = document_of(served)["paths"]["/readyz"]["get"]["responses"][status]
    assert said["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ServerProgress"
    }


@pytest.mark.parametrize(
    ("path", "error"),
    [("/v1/embeddings", "OpenAIError"), ("/v2/models/{name}/infer", "Error")],
)
def test_errors_have_the_schema_of_their_route(served: Served, path: str, error: str) -> None:
    said = document_of(served)["paths"][path]["post"]["responses"]["400"]
    assert said["content"]["application/json"]["schema"] == {
        "$ref": f"#/components/schemas/{error}"
    }


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/docs", ["text/html"]),
        ("/metrics", ["text/plain", "application/openmetrics-text"]),
        ("/healthz", ["application/json"]),
    ],
)
def test_every_route_lists_its_content_types(served: Served, path: str, media: list[str]) -> None:
    said = document_of(served)["paths"][path]["get"]["responses"]["200"]["content"]
    assert list(said) == media
    response = served.client.get(path)
    assert response.mimetype == media[0]


# --- the examples ---------------------------------------------------------------------------------


def test_every_operation_answers_200_to_its_own_example(many: Served) -> None:
    """The `serve` fixture checks that the answers match their declared types."""
    statuses = {}
    for path, operations in document_of(many)["paths"].items():
        ((method, operation),) = operations.items()
        parts = [part for part in operation["parameters"] if part["in"] == "path"]
        url = path.format(**{part["name"]: part["example"] for part in parts})
        content = operation.get("requestBody", {}).get("content", {})
        example = content.get("application/json", {}).get("example")
        statuses[path] = many.client.open(url, method=method, json=example).status_code
    # binary-only tensors have no example in JSON
    assert {path for path, status in statuses.items() if status != 200} == {
        "/v2/models/halves/infer"
    }
    assert "/v1/embeddings" in statuses


def shape_of(value: Any) -> Any:
    """What is left of an answer without the model's numbers."""
    if isinstance(value, dict):
        # an answer may say more about the request than its example
        known = {key: shape_of(item) for key, item in value.items() if key != "parameters"}
        return known | {key: value[key] for key in ("name", "datatype", "shape") if key in value}
    return [shape_of(item) for item in value] if isinstance(value, list) else type(value)


def test_the_answer_to_an_example_has_the_shape_of_the_example_answer(many: Served) -> None:
    compared = set()
    for path, operations in document_of(many)["paths"].items():
        ((method, operation),) = operations.items()
        (expected, *_) = (
            body.get("example") for body in operation["responses"]["200"]["content"].values()
        )
        if expected is None:
            continue
        parts = [part for part in operation["parameters"] if part["in"] == "path"]
        url = path.format(**{part["name"]: part["example"] for part in parts})
        example = operation["requestBody"]["content"]["application/json"]["example"]
        answer = many.client.open(url, method=method, json=example).get_json()
        assert shape_of(answer) == shape_of(expected), path
        compared.add(path)
    assert compared == {
        "/v2/models/plain/infer",
        "/v2/models/texts/infer",
        "/v2/models/ids/infer",
        "/v2/models/{name}/infer",
        "/v2/models/{name}/versions/{version}/infer",
        "/v1/embeddings",
    }


# --- tensors --------------------------------------------------------------------------------------


def tensors(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        tensor["properties"]["name"]["enum"][0]: tensor["properties"]
        | {"needs": tensor["required"]}
        for tensor in schema["properties"][kind]["items"]["oneOf"]
    }


def test_a_models_tensors_have_their_names_datatypes_and_shapes(many: Served) -> None:
    found = tensors(schema_of(many, "plain.InferRequest"), "inputs")
    assert list(found) == ["x"]
    assert found["x"]["datatype"] == {"enum": ["FP32"]}
    assert found["x"]["shape"] == {
        "type": "array",
        "description": "[-1, 2], where -1 is a size that varies",
        "minItems": 2,
        "maxItems": 2,
        "items": {"type": "integer", "minimum": 1},
    }
    assert found["x"]["data"]["items"]["oneOf"][0] == {"type": "number"}
    answered = tensors(schema_of(many, "plain.InferAnswer"), "outputs")
    assert answered["y"]["data"]["items"] == {"type": "number"}


def test_binary_only_tensors_are_shown_without_data(many: Served) -> None:
    found = tensors(schema_of(many, "halves.InferRequest"), "inputs")
    for name in ("half", "brain"):
        assert "data" not in found[name]
        assert "parameters" in found[name]["needs"]
    assert "data" in found["text"]
    assert "parameters" not in found["text"]["needs"]


def test_a_row_of_one_value_may_have_an_axis(many: Served) -> None:
    shape = tensors(schema_of(many, "texts.InferRequest"), "inputs")["text"]["shape"]
    assert (shape["minItems"], shape["maxItems"]) == (1, 2)


def test_the_timeout_header_is_shown_only_where_a_model_runs(many: Served) -> None:
    header = "X-Request-Timeout-Ms"
    shown = {
        path
        for path, methods in document_of(many)["paths"].items()
        for said in methods.values()
        if any(part["name"] == header for part in said["parameters"])
    }
    runs = {path for path in document_of(many)["paths"] if path.endswith(("infer", "embeddings"))}
    assert shown == runs


@pytest.mark.parametrize("path", ["/v2/models/{name}/infer", "/v2/models/plain/infer"])
def test_binary_bodies_and_their_header_are_shown_both_ways(many: Served, path: str) -> None:
    said = document_of(many)["paths"][path]["post"]
    header = "Inference-Header-Content-Length"
    (taken,) = [part for part in said["parameters"] if part["name"] == header]
    assert taken["name"] == header
    assert not taken.get("required", False)
    for content in (said["requestBody"]["content"], said["responses"]["200"]["content"]):
        octets = content["application/octet-stream"]["schema"]
        assert (octets["type"], octets["format"]) == ("string", "binary")
    assert header in said["responses"]["200"]["headers"]
