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

from engine.models.families.bert.directory import Activation, BertShape
from engine.models.families.bert.modules import Dense, DenseActivation, Head, Pooling

_TANH: Final = partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: Final[Mapping[Activation, Callable[[jax.Array], jax.Array]]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_python": partial(jax.nn.gelu, approximate=False),
    "gelu_new": _TANH,
    "gelu_fast": _TANH,
    "gelu_pytorch_tanh": _TANH,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
"""`hidden_act` of a config.json -> function."""

DENSE_ACTIVATIONS: Final[Mapping[DenseActivation, Callable[[jax.Array], jax.Array]]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
}
"""A Dense module's activation -> function."""

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


class DenseStage(nnx.Module):
    """A dense layer on the pooled embedding: `activation(x W + b)`, plus `x` if it is residual."""

    def __init__(self, dense: Dense, rngs: nnx.Rngs) -> None:
        self.activation = DENSE_ACTIVATIONS[dense.activation]
        self.keeps = dense.residual
        self.linear = nnx.Linear(dense.inputs, dense.outputs, use_bias=dense.bias, rngs=rngs)
        if dense.residual and dense.inputs != dense.outputs:
            self.residual = nnx.Linear(dense.inputs, dense.outputs, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` [B, in] -> [B, out]."""
        out: jax.Array = self.activation(self.linear(x))
        if not self.keeps:
            return out
        return out + (self.residual(x) if hasattr(self, "residual") else x)


class Normalize(nnx.Module):
    """Scales each row to the length 1; a row of zeros stays as it is."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` [B, D] -> [B, D]."""
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _pool(pooling: Pooling, x: jax.Array, mask: jax.Array) -> jax.Array:
    """`x` [B, L, D] and `mask` [B, L, 1], 1 for a token and 0 for padding behind it -> [B, D].

    A row without a token gives zeros: that is what the reference gives for the sums, and it has no
    answer for the others.
    """
    count = mask.sum(axis=1)
    if pooling == "cls":
        return x[:, 0] * mask[:, 0]
    if pooling == "max":
        return jnp.where(count > 0, jnp.where(mask > 0, x, LOWEST).max(axis=1), 0.0)
    if pooling == "lasttoken":
        last = jnp.arange(x.shape[1])[None, :, None] == count[:, None] - 1
        return jnp.where(last, x, 0.0).sum(axis=1)
    if pooling == "weightedmean":
        mask = mask * jnp.arange(1, x.shape[1] + 1, dtype=x.dtype)[None, :, None]
        count = mask.sum(axis=1)
    count = jnp.maximum(count, 1e-9)
    total = (x * mask).sum(axis=1)
    return total / (jnp.sqrt(count) if pooling == "mean_sqrt_len_tokens" else count)


class SentenceEncoder(nnx.Module):
    """Token ids and their mask -> one vector per row."""

    def __init__(self, shape: BertShape, head: Head, rngs: nnx.Rngs) -> None:
        self.poolings = head.poolings
        self.word = nnx.Embed(shape.vocabulary, shape.hidden, rngs=rngs)
        self.position = nnx.Embed(shape.positions, shape.hidden, rngs=rngs)
        self.token_type = nnx.Embed(shape.token_types, shape.hidden, rngs=rngs)
        self.norm = _norm(shape, rngs)
        self.layers = nnx.List([Layer(shape, rngs) for _ in range(shape.layers)])
        self.stages = nnx.List(
            [
                DenseStage(stage, rngs) if isinstance(stage, Dense) else Normalize()
                for stage in head.stages
            ]
        )

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """`ids` int32 [B, L]; `mask` int32 [B, L], 1 for a token and 0 for padding -> [B, D].

        A masked token gets a score so low that its weight is exactly 0 in float32, so padding
        changes nothing.
        """
        length = ids.shape[1]
        # a sentence by itself has token type 0 throughout
        x = self.word(ids) + self.position(jnp.arange(length)) + self.token_type(jnp.array(0))
        x = self.norm(x)
        bias = jnp.where(mask[:, None, None, :] > 0, 0.0, LOWEST)
        for layer in self.layers:
            x = layer(x, bias)
        tokens = mask[:, :, None].astype(x.dtype)
        pooled = jnp.concatenate([_pool(name, x, tokens) for name in self.poolings], axis=-1)
        for stage in self.stages:
            pooled = stage(pooled)
        return pooled
