"""KServe's Python client, unchanged, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

REFERENCE = Path(__file__).parents[1] / "reference"

PICTURES = np.random.default_rng(0).integers(0, 17, (3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def kserve() -> Any:
    return pytest.importorskip("kserve", reason="kserve 0.21 refuses Python 3.14")


def asked(kserve: Any, question: Callable[[Any], Awaitable[Any]]) -> Any:
    """Send one request with a new client."""

    async def ask() -> Any:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", timeout=30))
        try:
            return await question(client)
        finally:
            await client.close()

    return asyncio.run(ask())


def test_it_finds_the_server_alive_and_ready(kserve: Any, digits_server: Server) -> None:
    url = digits_server.url
    assert asked(kserve, lambda client: client.is_server_live(url))
    assert asked(kserve, lambda client: client.is_server_ready(url))
    assert asked(kserve, lambda client: client.is_model_ready(url, "digits"))
    assert not asked(kserve, lambda client: client.is_model_ready(url, "nope"))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_it_gets_what_plain_http_gets(kserve: Any, digits_server: Server, binary: bool) -> None:
    tensor = kserve.InferInput("image", [3, 8, 8], "FP32")
    tensor.set_data_from_numpy(PICTURES, binary_data=binary)
    request = kserve.InferRequest("digits", [tensor], request_id="three")
    answer = asked(
        kserve, lambda client: client.infer(digits_server.url, request, model_name="digits")
    )
    plain = digits_server.infer(
        "digits", name="image", datatype="FP32", shape=[3, 8, 8], data=PICTURES.tolist()
    )
    assert answer.id == "three"
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    expected = {output["name"]: output["data"] for output in plain.json()["outputs"]}
    assert outputs["label"].ravel().tolist() == expected["label"]
    np.testing.assert_allclose(
        outputs["probabilities"].ravel(), expected["probabilities"], atol=1e-6
    )


@pytest.mark.parametrize("shape", [[5], [5, 1]], ids=["as-it-is", "with-an-axis"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_texts_become_the_references_embeddings(
    kserve: Any, demo_server: Server, binary: bool, shape: list[int]
) -> None:
    sentences = json.loads((REFERENCE / "sentences.json").read_text(encoding="utf-8"))[:5]
    tensor = kserve.InferInput("text", shape, "BYTES")
    tensor.set_data_from_numpy(np.array(sentences, object).reshape(shape), binary_data=binary)
    request = kserve.InferRequest("minilm", [tensor])
    answer = asked(
        kserve, lambda client: client.infer(demo_server.url, request, model_name="minilm")
    )
    expected = np.load(REFERENCE / "minilm.npy")[:5]
    np.testing.assert_allclose(answer.outputs[0].as_numpy(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "status", "says"),
    [
        pytest.param("nope", 404, "unknown model 'nope'", id="no-such-model"),
        pytest.param("digits", 400, r"image: shape \[3, 8, 7\] does not fit", id="another-shape"),
    ],
)
def test_an_invalid_request_raises_the_servers_message(
    kserve: Any, digits_server: Server, model: str, status: int, says: str
) -> None:
    tensor = kserve.InferInput("image", [3, 8, 7], "FP32")
    tensor.set_data_from_numpy(PICTURES[:, :, :7])
    request = kserve.InferRequest(model, [tensor])
    with pytest.raises(httpx.HTTPStatusError, match=says) as refused:
        asked(kserve, lambda client: client.infer(digits_server.url, request, model_name=model))
    assert refused.value.response.status_code == status
