"""OpenAI's SDK, unchanged, against a real server."""

from __future__ import annotations

import base64
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


def numbers(embedding: list[float] | str) -> np.ndarray:
    """The SDK decodes base64 only if it requested base64 itself."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4")
    return np.array(embedding)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        pytest.param({}, list, id="base64-that-the-sdk-unpacks"),
        pytest.param({"encoding_format": "base64"}, str, id="base64-as-it-is"),
        pytest.param({"encoding_format": "float"}, list, id="floats"),
    ],
)
def test_embeddings_equal_the_reference_in_every_form(
    client: openai.OpenAI, asked: dict[str, str], kind: type
) -> None:
    sentences = json.loads((REFERENCE / "sentences.json").read_text(encoding="utf-8"))[:5]
    answer = client.embeddings.create(model="minilm", input=sentences, **asked)
    assert {type(item.embedding) for item in answer.data} == {kind}
    got = np.array([numbers(item.embedding) for item in answer.data])
    np.testing.assert_allclose(got, np.load(REFERENCE / "minilm.npy")[:5], atol=1e-5, rtol=0)
    assert [item.index for item in answer.data] == [0, 1, 2, 3, 4]


def test_one_text_is_a_list_of_one(client: openai.OpenAI) -> None:
    sentences = json.loads((REFERENCE / "sentences.json").read_text(encoding="utf-8"))
    (item,) = client.embeddings.create(model="minilm", input=sentences[0]).data
    expected = np.load(REFERENCE / "minilm.npy")[0]
    np.testing.assert_allclose(item.embedding, expected, atol=1e-5, rtol=0)


def test_usage_counts_the_tokens_with_their_special_ones(client: openai.OpenAI) -> None:
    sentences = json.loads((REFERENCE / "sentences.json").read_text(encoding="utf-8"))
    tokens = json.loads((REFERENCE / "minilm_tokens.json").read_text(encoding="utf-8"))
    answer = client.embeddings.create(model="minilm", input=sentences)
    assert answer.usage.prompt_tokens == sum(min(count, 256) for count in tokens)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens


def test_the_token_lists_that_langchain_sends_are_refused_with_what_to_set(
    client: openai.OpenAI,
) -> None:
    hello_world = [[15339, 1917]]  # in cl100k_base
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model="minilm", input=hello_world)


def test_a_cut_text_is_reported_beside_the_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="minilm", input=["short", "word " * 300])
    assert answer.model_extra == {
        "parameters": {"truncated_rows": 1, "truncated_row_indices": "1", "token_limit": 256}
    }
    assert not client.embeddings.create(model="minilm", input="short").model_extra


def test_the_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["digits", "minilm"]
    assert client.models.retrieve("minilm").owned_by == "brim"
    with pytest.raises(openai.NotFoundError, match="unknown model 'nope'"):
        client.models.retrieve("nope")


@pytest.mark.parametrize(
    ("model", "text", "kind", "says"),
    [
        pytest.param("nope", "x", openai.NotFoundError, "unknown model 'nope'", id="no-such-model"),
        pytest.param("digits", "x", openai.BadRequestError, "does not turn texts", id="no-texts"),
        pytest.param("minilm", [], openai.BadRequestError, "empty list", id="nothing-to-embed"),
        pytest.param("minilm", [7592], openai.BadRequestError, "got token ids", id="token-ids"),
    ],
)
def test_errors_have_the_sdks_types(
    client: openai.OpenAI,
    model: str,
    text: str | list[str] | list[int],
    kind: type[openai.APIStatusError],
    says: str,
) -> None:
    with pytest.raises(kind, match=says) as refused:
        client.embeddings.create(model=model, input=text)
    assert refused.value.type == "invalid_request_error"
