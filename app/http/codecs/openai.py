"""OpenAI's embeddings request and response."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec
import numpy as np
import orjson

from app.http.codecs.messages import Answer, decodable
from app.http.codecs.tensors import texts
from engine.api import (
    Array,
    InvalidRequest,
    ModelConfig,
    ModelInterface,
    Parameter,
    Signature,
    TensorSpec,
    TokenIds,
    too_many_rows,
)

_SEND_TEXTS: Final = "send texts (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"


@decodable
class EmbeddingsRequest(msgspec.Struct):
    """`input` is one text, several texts, the token ids of one text, or of several.

    `encoding_format` is `float` by default. `user` and unknown fields are ignored.
    """

    input: str | list[str | int | list[int]]
    model: str
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: Any = None


class Embedding(Answer, frozen=True):
    """One text's vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(Answer, frozen=True):
    """The number of tokens in the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer, frozen=True):
    """The response: one embedding per text, in the order of the texts.

    `parameters` are those of the Open Inference Protocol's response: which texts were cut.
    """

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    parameters: dict[str, Parameter] | msgspec.UnsetType = msgspec.UNSET


def tensors(name: str, signature: Signature) -> tuple[TensorSpec, TensorSpec]:
    """Return the text input and the vector output of an embedding model.

    Raises `InvalidRequest` for a model with other inputs, or without exactly one vector output.
    """
    one_text = len(signature.inputs) == 1 and signature.inputs[0].datatype == "BYTES"
    vector = signature.vector
    if not one_text or signature.inputs[0].shape or vector is None:
        raise InvalidRequest("model", f"{name!r} does not turn texts into embeddings")
    return signature.inputs[0], vector


def decode(
    request: EmbeddingsRequest,
    text: TensorSpec,
    interface: ModelInterface,
    config: ModelConfig,
    max_rows: int,
) -> dict[str, Array] | TokenIds:
    """Return the texts as the model's input, or the token ids. Raises `InvalidRequest`; for too
    many rows before any of them is read.
    """
    given: list[Any] = [request.input] if isinstance(request.input, str) else request.input
    if not given:
        raise InvalidRequest("input", "got an empty list, expected at least one text")
    kinds = {type(item) for item in given}
    if kinds not in ({str}, {int}, {list}):
        raise InvalidRequest("input", "expected texts, or token ids, and not both")
    rows: list[Any] = [given] if kinds == {int} else given
    if len(rows) > max_rows:
        raise too_many_rows("input", len(rows), max_rows)
    if kinds == {str}:
        return {text.name: texts("input", rows)}
    _check_token_ids(interface, config)
    if not all(rows):
        raise InvalidRequest("input", "got an empty list of tokens, expected at least one")
    return TokenIds(rows)


def _check_token_ids(interface: ModelInterface, config: ModelConfig) -> None:
    """Most lists of token ids are of OpenAI's vocabulary, which some clients use unasked: such ids
    would be answered by vectors without a meaning.
    """
    if interface.processor.preprocess_ids is None:
        problem = f"model {config.name!r} takes texts, and no token ids"
        raise InvalidRequest("input", f"{problem}; {_SEND_TEXTS}")
    if not config.token_ids:
        problem = f"got token ids, and model {config.name!r} takes texts; {_SEND_TEXTS}"
        remedy = "if all clients use this model's own tokenizer, set token_ids = true in its table"
        raise InvalidRequest("input", f"{problem}, or, {remedy} [[models]]")


def check_dimensions(
    request: EmbeddingsRequest, vector: TensorSpec, interface: ModelInterface, config: ModelConfig
) -> None:
    """Raises `InvalidRequest` for a size that the model does not have."""
    smaller = {*config.dimensions, *interface.processor.dimensions}
    allowed = (*sorted(smaller), *vector.shape)
    if request.dimensions is None or request.dimensions in allowed:
        return
    problem = f"got {request.dimensions}, expected {' or '.join(map(str, allowed))}"
    if not smaller:
        remedy = "if the model was trained for others (Matryoshka), list them as dimensions"
        problem = f"{problem}; {remedy} in its table [[models]]"
    raise InvalidRequest("dimensions", problem)


def encode(
    request: EmbeddingsRequest,
    vectors: Array,
    spec: TensorSpec,
    tokens: int,
    parameters: Mapping[str, Parameter],
) -> bytes:
    """Return the response body; base64 is of little-endian float32."""
    shown = _cut(vectors, spec, request.dimensions)
    embeddings: Iterable[Any] = np.ascontiguousarray(shown, "<f4")
    if request.encoding_format == "base64":
        embeddings = (base64.b64encode(vector.tobytes()).decode() for vector in embeddings)
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": embedding}
            for index, embedding in enumerate(embeddings)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    if parameters:
        answer["parameters"] = dict(parameters)
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _cut(vectors: Array, spec: TensorSpec, dimensions: int | None) -> Array:
    """The first numbers of each vector; of length 1 again where the model's vectors are."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    short = vectors[:, :dimensions]
    if not spec.normalized:
        return short
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    lengths[lengths == 0] = 1  # a vector of zeros has no direction, and stays
    cut: Array = short / lengths
    return cut
