"""OpenAI's embeddings request and response.

May touch: msgspec, orjson, numpy.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import orjson

from app.answer import Answer
from app.codec.oip_json import texts
from app.codec.typed import parse, prepared
from engine.errors import InvalidRequest
from engine.model import Model
from engine.spec import Array, TensorSpec


@prepared
class EmbeddingsRequest(msgspec.Struct):
    """`input` is one text, several, the token ids of one, or those of several."""

    input: str | list[str | int | list[int]]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class Embedding(Answer, frozen=True):
    """One text's vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(Answer, frozen=True):
    """How many tokens the texts were."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer, frozen=True):
    """What `encode` writes: one embedding per text, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


def tensors(name: str, model: Model) -> tuple[TensorSpec, TensorSpec]:
    """The one text that goes in and the one vector that comes out.

    Raises `InvalidRequest` for a model that is not so.
    """
    one_text = len(model.inputs) == 1 and model.inputs[0].datatype == "BYTES"
    vectors = [spec for spec in model.outputs if spec.datatype == "FP32" and len(spec.shape) == 1]
    if not one_text or model.inputs[0].shape or len(vectors) != 1:
        raise InvalidRequest("model", f"{name!r} does not turn texts into embeddings")
    return model.inputs[0], vectors[0]


def decode(body: bytes) -> EmbeddingsRequest:
    """Raises `InvalidRequest` naming the field."""
    return parse(body, EmbeddingsRequest)


def sentences(
    request: EmbeddingsRequest, detokenize: Callable[[Sequence[int]], str] | None
) -> Array:
    """The texts, as a BYTES array [rows]. Token ids are those of the model's own vocabulary."""
    given = request.input
    if isinstance(given, str):
        return texts("input", [given])
    if not given:
        raise InvalidRequest("input", "got an empty list, expected at least one text")
    kinds = {type(one) for one in given}
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
    """The response; base64 is of little-endian float32."""
    packed = np.ascontiguousarray(vectors, "<f4")
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector
            if request.encoding_format == "float"
            else base64.b64encode(vector.tobytes()).decode(),
        }
        for index, vector in enumerate(packed)
    ]
    answer = {
        "object": "list",
        "data": data,
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
