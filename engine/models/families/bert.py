"""A BERT encoder and its sentence pooling, in Flax NNX.

The architecture is that of Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers
for Language Understanding" (2018), as Hugging Face's `BertModel` lays out its weights, and the
pooling is that of Reimers and Gurevych, "Sentence-BERT" (2019).

Shapes: B rows, L tokens, D hidden size, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from engine.models.families.bert_directory import Activation, BertShape, Pooling

ACTIVATIONS: Final[Mapping[Activation, Callable[[jax.Array], jax.Array]]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
"""`hidden_act` of a config.json -> function."""

LOWEST: Final = float(np.finfo(np.float32).min)


def _norm(shape: BertShape, rngs: nnx.Rngs) -> nnx.LayerNorm:
    epsilon = shape.norm_epsilon
    return nnx.LayerNorm(shape.hidden, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


class Layer(nnx.Module):
    """A transformer layer: self-attention, then a perceptron, each with residual and then norm."""

    def __init__(self, shape: BertShape, rngs: nnx.Rngs) -> None:
        self.heads = shape.heads
        self.activation = ACTIVATIONS[shape.activation]
        # query, key and value in one matrix: one large product instead of three
        self.qkv = nnx.Linear(shape.hidden, 3 * shape.hidden, rngs=rngs)
        self.attended = nnx.Linear(shape.hidden, shape.hidden, rngs=rngs)
        self.attended_norm = _norm(shape, rngs)
        self.up = nnx.Linear(shape.hidden, shape.intermediate, rngs=rngs)
        self.down = nnx.Linear(shape.intermediate, shape.hidden, rngs=rngs)
        self.down_norm = _norm(shape, rngs)

    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        """`x` [B, L, D]; `bias` [B, 1, 1, L], added to the attention scores."""
        rows, length, hidden = x.shape
        qkv = self.qkv(x).reshape(rows, length, 3, self.heads, hidden // self.heads)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scale = (hidden // self.heads) ** -0.5
        scores = jnp.einsum("bqhd,bkhd->bhqk", query * scale, key) + bias
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
        x = self.attended_norm(x + self.attended(mixed.reshape(rows, length, hidden)))
        out: jax.Array = self.down_norm(x + self.down(self.activation(self.up(x))))
        return out


class SentenceEncoder(nnx.Module):
    """Token ids and their mask -> one vector per row."""

    def __init__(self, shape: BertShape, pooling: Pooling, normalize: bool, rngs: nnx.Rngs) -> None:
        self.pooling = pooling
        self.normalize = normalize
        self.word = nnx.Embed(shape.vocabulary, shape.hidden, rngs=rngs)
        self.position = nnx.Embed(shape.positions, shape.hidden, rngs=rngs)
        self.token_type = nnx.Embed(shape.token_types, shape.hidden, rngs=rngs)
        self.norm = _norm(shape, rngs)
        self.layers = nnx.List([Layer(shape, rngs) for _ in range(shape.layers)])

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """`ids` int32 [B, L]; `mask` int32 [B, L], 1 for a token and 0 for padding -> [B, D].

        A masked token gets a score so low that its weight is exactly 0 in float32, so padding
        changes nothing. A row of padding only stays finite, and is discarded.
        """
        length = ids.shape[1]
        # a sentence by itself has token type 0 throughout
        x = self.word(ids) + self.position(jnp.arange(length)) + self.token_type(jnp.array(0))
        x = self.norm(x)
        bias = jnp.where(mask[:, None, None, :] > 0, 0.0, LOWEST)
        for layer in self.layers:
            x = layer(x, bias)
        pooled = self._pool(x, mask[:, :, None].astype(x.dtype))
        if self.normalize:
            norm = jnp.linalg.norm(pooled, axis=-1, keepdims=True)
            pooled = pooled / jnp.maximum(norm, 1e-12)
        return pooled

    def _pool(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "max":
            return jnp.where(mask > 0, x, LOWEST).max(axis=1)
        return (x * mask).sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1e-9)
