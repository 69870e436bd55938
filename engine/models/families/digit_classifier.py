"""A small convolutional classifier of 8x8 digits, in Flax NNX.

`examples/digits/train.py` trains it, the family `digits` serves it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from engine.models.tensors import Array


class DigitClassifier(nnx.Module):
    """Two 3x3 convolutions, a 2x2 maximum, two dense layers: 8x8 -> 10 logits."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.dense1 = nnx.Linear(4 * 4 * 32, 64, rngs=rngs)
        self.dense2 = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        """`image` [B, 8, 8], values 0 to 16 -> logits [B, 10]."""
        x = image[..., None] / 16.0
        x = jax.nn.relu(self.conv1(x))
        x = jax.nn.relu(self.conv2(x))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        x = jax.nn.relu(self.dense1(x.reshape(x.shape[0], -1)))
        return self.dense2(x)


def arrays(module: DigitClassifier) -> dict[str, Array]:
    """A trained classifier's weights, under the names that `load` expects."""
    _, state = nnx.split(module)
    return {
        ".".join(map(str, path)): np.asarray(jnp.asarray(leaf))
        for path, leaf in nnx.to_flat_state(state)
    }
