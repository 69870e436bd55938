"""OpenAI's embeddings request and response."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import orjson

from app.http.codecs.messages import Answer, decodable
from app.http.codecs.tensors import texts
from engine.api import Array, InvalidRequest, Signature, TensorSpec, too_many_rows

Detokenizer: TypeAlias = Callable[[Sequence[int]], str]


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
    """The response: one embedding per text, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


def tensors(name: str, signature: Signature) -> tuple[TensorSpec, TensorSpec]:
    """Return the text input and the vector output of an embedding model.

    Raises `InvalidRequest` for a model with other inputs, or without exactly one vector output.
    """
    one_text = len(signature.inputs) == 1 and signature.inputs[0].datatype == "BYTES"
    vectors = [s for s in signature.outputs if s.datatype == "FP32" and len(s.shape) == 1]
    if not one_text or signature.inputs[0].shape or len(vectors) != 1:
        raise InvalidRequest("model", f"{name!r} does not turn texts into embeddings")
    return signature.inputs[0], vectors[0]


def sentences(request: EmbeddingsRequest, detokenize: Detokenizer | None, max_rows: int) -> Array:
    """Return the texts as a BYTES array [rows]. Token ids are of the model's own vocabulary."""
    given: list[Any] = [request.input] if isinstance(request.input, str) else request.input
    if not given:
        raise InvalidRequest("input", "got an empty list, expected at least one text")
    kinds = {type(item) for item in given}
    if int not in kinds and len(given) > max_rows:
        raise too_many_rows("input", len(given), max_rows)
    if kinds == {str}:
        return texts("input", list(given))
    if kinds not in ({int}, {list}):
        raise InvalidRequest("input", "expected texts, or token ids, and not both")
    if detokenize is None:
        raise InvalidRequest("input", "this model takes texts, and no token ids")
    lists: list[Any] = [given] if kinds == {int} else list(given)
    if not all(lists):
        raise InvalidRequest("input", "got an empty list of tokens, expected at least one")
    return texts("input", [detokenize(tokens) for tokens in lists])


def encode(request: EmbeddingsRequest, vectors: Array, tokens: int) -> bytes:
    """Return the response body; base64 is of little-endian float32."""
    embeddings: Iterable[Any] = np.ascontiguousarray(vectors, "<f4")
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
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
