"""OpenAI's SDK, unchanged, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def client(demo_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_embeddings_equal_the_reference_in_either_form(
    client: openai.OpenAI, form: str | None
) -> None:
    sentences = json.loads((REFERENCE / "sentences.json").read_text(encoding="utf-8"))[:5]
    # without a form the SDK asks for base64 and unpacks it
    wanted = {"encoding_format": form} if form == "float" else {}
    answer = client.embeddings.create(model="minilm", input=sentences, **wanted)
    got = np.array([item.embedding for item in answer.data])
    np.testing.assert_allclose(got, np.load(REFERENCE / "minilm.npy")[:5], atol=1e-5, rtol=0)
    assert [item.index for item in answer.data] == [0, 1, 2, 3, 4]


def test_usage_counts_the_tokens_with_their_special_ones(client: openai.OpenAI) -> None:
    sentences = json.loads((REFERENCE / "sentences.json").read_text(encoding="utf-8"))
    tokens = json.loads((REFERENCE / "minilm_tokens.json").read_text(encoding="utf-8"))
    answer = client.embeddings.create(model="minilm", input=sentences)
    assert answer.usage.prompt_tokens == sum(min(count, 256) for count in tokens)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens


def test_tokens_stand_for_their_text(client: openai.OpenAI) -> None:
    text = client.embeddings.create(model="minilm", input="hello world").data[0].embedding
    for tokens in ([7592, 2088], [[7592, 2088]]):
        answer = client.embeddings.create(model="minilm", input=tokens)
        np.testing.assert_allclose(answer.data[0].embedding, text, atol=1e-6)


def test_the_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["digits", "minilm"]
    assert client.models.retrieve("minilm").owned_by == "brim"


@pytest.mark.parametrize(
    ("model", "text", "kind", "says"),
    [
        pytest.param("nope", "x", openai.NotFoundError, "unknown model 'nope'", id="no-such-model"),
        pytest.param("digits", "x", openai.BadRequestError, "does not turn texts", id="no-texts"),
        pytest.param("minilm", [], openai.BadRequestError, "empty list", id="nothing-to-embed"),
    ],
)
def test_errors_are_those_that_the_sdk_knows(
    client: openai.OpenAI, model: str, text: str, kind: type[openai.APIStatusError], says: str
) -> None:
    with pytest.raises(kind, match=says) as refused:
        client.embeddings.create(model=model, input=text)
    assert refused.value.type == "invalid_request_error"
