"""Train the classifier of this folder and write `iris.safetensors`: `make train-iris`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import save_file
from sklearn.datasets import load_iris

from examples.iris.iris_model import HERE, IrisClassifier

HIDDEN, STEPS, SEED = 16, 500, 0


@nnx.jit
def step(
    model: IrisClassifier, optimizer: nnx.Optimizer[Any], x: jax.Array, y: jax.Array
) -> jax.Array:
    """One step over all flowers; returns the loss."""

    def loss_of(model: IrisClassifier) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(x), y))

    loss: jax.Array
    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def main() -> None:
    """Train and save."""
    x, y = (jnp.asarray(part) for part in load_iris(return_X_y=True))
    model = IrisClassifier(HIDDEN, nnx.Rngs(SEED))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    for _ in range(STEPS):
        loss = step(model, optimizer, x, y)
    right = float((model(x).argmax(-1) == y).mean())
    print(f"loss {float(loss):.4f}, {right:.3f} of the training flowers are right")
    _, state = nnx.split(model)
    arrays = {
        ".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)
    }
    save_file(arrays, HERE / "iris.safetensors")


if __name__ == "__main__":
    main()
