"""KServe's Python client, unchanged, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tests.e2e.server import Server

pytestmark = [
    pytest.mark.e2e,
    # the SDK imports half of a cluster's clients, some of which warn about others
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

PICTURES = np.random.default_rng(0).integers(0, 17, (3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def kserve() -> Any:
    import kserve

    return kserve


def asked(kserve: Any, question: Callable[[Any], Awaitable[Any]]) -> Any:
    """The answer to one question, on a client of its own."""

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
