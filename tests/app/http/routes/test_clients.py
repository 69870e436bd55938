"""What other clients send: bodies of theirs, each with its source, and the SDKs themselves."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from tests.app.conftest import Serve, Served, answer
from tests.app.http.routes.test_openai import reader

kserve = pytest.importorskip("kserve", reason="kserve 0.21 refuses Python 3.14")

EMBEDDINGS = "/v1/embeddings"
INFER = "/v2/models/puppet/infer"


@pytest.fixture
def reading(serve: Serve) -> Served:
    """A model that answers a text of n characters with `answer(n)`."""
    return serve(model=lambda _config: reader())


# --- embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            {"input": ["full"], "model": "puppet", "encoding_format": None},
            id="LiteLLM 1.80.11, github.com/BerriAI/litellm/issues/19174",
        ),
        pytest.param(
            {
                "input": "full",
                "model": "puppet",
                "user": "default_user_id",
                "cache": {"no-cache": True},
                "metadata": {"headers": {"host": "here"}, "user_api_key_user_id": None},
            },
            id="LiteLLM's proxy, github.com/BerriAI/litellm/issues/3458",
        ),
        pytest.param(
            {"model": "puppet", "input": ["full"], "encoding_format": "float"},
            id="Vercel's AI SDK, packages/openai-compatible/src/embedding",
        ),
        pytest.param(
            {
                "model": "puppet",
                "input": ["full"],
                "encoding_format": "float",
                "dimensions": None,
                "user": None,
            },
            id="one that writes undefined as null",
        ),
        pytest.param(
            {"input": "full", "model": "puppet", "encoding_format": "float"},
            id="Haystack's OpenAITextEmbedder",
        ),
        pytest.param(
            {"input": ["full"], "model": "puppet", "encoding_format": "float"},
            id="LangChain with check_embedding_ctx_length=False, langchain_openai/embeddings",
        ),
        pytest.param(
            {"input": ["full"], "model": "puppet", "dimensions": 2, "input_type": "query"},
            id="one that names the size, and a field of another vendor",
        ),
    ],
)
def test_an_embeddings_request_as_a_client_sends_it_is_answered(
    reading: Served, body: dict[str, Any]
) -> None:
    response = reading.client.post(EMBEDDINGS, json=body)
    assert response.status_code == 200
    assert [each["embedding"] for each in response.get_json()["data"]] == [answer(4.0)]


def test_token_ids_as_langchain_sends_them_by_default_are_refused_with_what_to_set(
    reading: Served,
) -> None:
    """`_get_len_safe_embeddings` of langchain_openai/embeddings/base.py, with cl100k_base."""
    body = {"input": [[9054], [998, 279]], "model": "puppet", "encoding_format": "base64"}
    response = reading.client.post(EMBEDDINGS, json=body)
    assert response.status_code == 400
    message = response.get_json()["error"]["message"]
    assert "LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)" in message


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({}, id="base64 by default, as LlamaIndex and LangChain leave it"),
        pytest.param({"encoding_format": "float"}, id="floats"),
        pytest.param({"dimensions": 2, "user": "someone"}, id="with every option"),
        pytest.param({"extra_body": {"novel": {"a": [None]}, "user": 7}}, id="with more"),
        pytest.param({"extra_body": {"encoding_format": None}}, id="null, as LiteLLM has it"),
    ],
)
def test_openais_sdk_gets_its_numbers(reading: Served, asked: dict[str, Any]) -> None:
    transport = httpx.WSGITransport(app=reading.app)
    with (
        httpx.Client(transport=transport) as http,
        openai.OpenAI(base_url="http://brim/v1", api_key="none", http_client=http) as client,
    ):
        said = client.embeddings.create(model="puppet", input=["full", "to"], **asked)
    assert [each.embedding for each in said.data] == [answer(4.0), answer(2.0)]


# --- inference ------------------------------------------------------------------------------------

X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, -1.0]}
NUMPY = {"content_type": "np"}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            {
                "id": None,
                "parameters": None,
                "inputs": [X | {"parameters": None}],
                "outputs": None,
            },
            id="MLServer's types without exclude_none, mlserver/types/dataplane.py",
        ),
        pytest.param(
            {
                "id": "seven",
                "parameters": {"content_type": None, "headers": {"host": "here", "x": ["a", "b"]}},
                "inputs": [X | {"parameters": {"content_type": None, "headers": None}}],
                "outputs": [{"name": "y", "parameters": {"content_type": None}}],
            },
            id="MLServer's headers, mlserver/types/dataplane.py",
        ),
        pytest.param(
            {"parameters": NUMPY, "inputs": [X | {"parameters": NUMPY}]},
            id="MLServer's NumpyRequestCodec, docs/user-guide/content-type.md",
        ),
        pytest.param(
            {
                "id": "seven",
                "inputs": [X],
                "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
                "parameters": {"triton_enable_empty_final_response": True, "custom": [1, None]},
            },
            id="Triton's HTTP extension with parameters of a backend",
        ),
    ],
)
def test_an_infer_request_as_a_client_sends_it_is_answered(
    served: Served, body: dict[str, Any]
) -> None:
    assert y_of(served.client.post(INFER, json=body)) == answer(1.0)


def y_of(response: TestResponse) -> list[float]:
    """The output."""
    assert response.status_code == 200
    (output,) = response.get_json()["outputs"]
    data: list[float] = output["data"]
    return data


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="the shortest"),
        pytest.param({"request_id": "seven", "priority": 2, "timeout": 10**7}, id="its own"),
        pytest.param({"parameters": {"tag": "a", "tries": 2, "last": True}}, id="more"),
    ],
)
def test_what_tritons_client_sends_is_answered(
    served: Served, binary: bool, more: dict[str, Any]
) -> None:
    x = triton.InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.float32([[1, -1]]), binary_data=binary)
    wanted = [triton.InferRequestedOutput("y", binary_data=False)]
    body, length = triton.InferenceServerClient.generate_request_body([x], wanted, **more)
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
    assert y_of(served.client.post(INFER, data=body, headers=headers)) == answer(1.0)


@pytest.mark.parametrize("parameters", [None, {"tag": "a", "tries": 2, "rate": 0.5, "last": True}])
def test_what_kserves_sdk_sends_is_answered(
    served: Served, parameters: dict[str, Any] | None
) -> None:
    x = kserve.InferInput("x", [1, 2], "FP32", data=[1.0, -1.0], parameters=parameters)
    request = kserve.InferRequest("puppet", [x], request_id="seven", parameters=parameters)
    body, _ = request.to_rest()
    assert y_of(served.client.post(INFER, data=json.dumps(body))) == answer(1.0)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES)
def test_any_value_of_an_unknown_parameter_changes_no_byte_of_the_answer(
    served: Served, value: Any
) -> None:
    more = {"parameters": {"headers": value}}
    body = {"inputs": [X | more], "outputs": [{"name": "y", **more}], **more}
    plain = served.client.post(INFER, json={"inputs": [X]})
    assert served.client.post(INFER, json=body).data == plain.data


@pytest.mark.parametrize("body", [b'{"ready": null}', b"{}", b"", b'{"ready": false, "more": 1}'])
def test_tritons_repository_index_lists_every_model(served: Served, body: bytes) -> None:
    response = served.client.post("/v2/repository/index", data=body)
    assert [each["name"] for each in response.get_json()] == ["puppet"]
