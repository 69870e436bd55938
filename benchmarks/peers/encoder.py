"""The demo's sentence encoder at 32 tokens, as a function of jax and numpy alone.

Brim's own encoder is in Flax, which the other environments need not have. This one computes the
same from the same weights, which `save_weights` writes to a file for all servers. Its input is
token ids, so no server spends time on a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from engine.models.model import Model
from engine.models.tensors import Array, TensorSpec

TOKENS: Final = 32
HEADS: Final = 12
EPSILON: Final = 1e-12
WEIGHTS: Final = Path(__file__).parents[2] / ".peers" / "minilm.npz"

Weights = Mapping[str, jax.Array]


def create() -> Model:
    """`x` INT32 [32], token ids without padding -> `y` FP32, the normalized mean of the tokens."""
    with np.load(WEIGHTS) as file:
        params = dict(file)
    hidden = params["norm.scale"].shape[0]
    return Model(
        apply=encode,
        params=params,
        inputs=(TensorSpec("x", "INT32", (TOKENS,)),),
        outputs=(TensorSpec("y", "FP32", (hidden,)),),
    )


def encode(weights: Weights, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Compute the embeddings; weights are named as in Brim's `bert_names.py`."""
    ids = inputs["x"]
    x = weights["word.embedding"][ids] + weights["position.embedding"][: ids.shape[1]]
    x = _norm(weights, "norm", x + weights["token_type.embedding"][0])
    layers = sum(name.endswith(".qkv.kernel") for name in weights)
    with jax.default_matmul_precision("float32"):
        for layer in range(layers):
            x = _layer(weights, f"layers.{layer}", x)
    pooled = x.mean(axis=1)
    return {"y": pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)}


def save_weights(arrays: Mapping[str, Array]) -> None:
    """Write the weights for `create`."""
    WEIGHTS.parent.mkdir(exist_ok=True)
    named: dict[str, Any] = dict(arrays)
    np.savez(WEIGHTS, **named)


def _layer(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    rows, length, hidden = x.shape
    size = hidden // HEADS
    qkv = _linear(weights, f"{name}.qkv", x).reshape(rows, length, 3, HEADS, size)
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * size**-0.5, key)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
    attended = _linear(weights, f"{name}.attended", mixed.reshape(rows, length, hidden))
    x = _norm(weights, f"{name}.attended_norm", x + attended)
    up = jax.nn.gelu(_linear(weights, f"{name}.up", x), approximate=False)
    return _norm(weights, f"{name}.down_norm", x + _linear(weights, f"{name}.down", up))


def _linear(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    return x @ weights[f"{name}.kernel"] + weights[f"{name}.bias"]


def _norm(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(variance + EPSILON)
    return scaled * weights[f"{name}.scale"] + weights[f"{name}.bias"]
