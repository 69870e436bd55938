"""Train the digit classifier that `configs/demo.toml` serves, and write `digits.safetensors`.

    make train-digits

Needs scikit-learn for its digits (1,797 images of 8x8). A quarter of them is held out, chosen by a
fixed seed; the suite asks the served model for exactly those. Takes ten seconds on two cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import save_file

from engine.models.families.digit_classifier import DigitClassifier, arrays
from examples.digits.dataset import held_out_split

EPOCHS, BATCH, REPORT_EVERY, SEED = 60, 64, 10, 0
OUT = Path(__file__).with_name("digits.safetensors")


@nnx.jit
def step(
    model: DigitClassifier, optimizer: nnx.Optimizer[Any], images: jax.Array, labels: jax.Array
) -> jax.Array:
    """One step of gradient descent; returns the loss."""

    def loss_of(model: DigitClassifier) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
        return jnp.mean(losses)

    loss: jax.Array
    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def shifted(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Each image moved by at most one pixel, so that the classifier learns shapes, not places."""
    moves = rng.integers(-1, 2, (len(images), 2))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return np.stack(
        [padded[i, 1 + dy : 9 + dy, 1 + dx : 9 + dx] for i, (dy, dx) in enumerate(moves)]
    )


def main() -> None:
    """Train, report the accuracy on the held-out quarter, write the weights."""
    train, held_out = held_out_split()
    rng = np.random.default_rng(SEED)
    model = DigitClassifier(nnx.Rngs(SEED))
    steps = EPOCHS * (len(train.labels) // BATCH)
    optimizer = nnx.Optimizer(
        model, optax.adamw(optax.cosine_decay_schedule(3e-3, steps)), wrt=nnx.Param
    )
    for epoch in range(EPOCHS):
        order = rng.permutation(len(train.labels))
        # whole batches only: one shape, one compilation
        for chosen in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            images = shifted(rng, train.images[chosen])
            loss = step(model, optimizer, jnp.asarray(images), jnp.asarray(train.labels[chosen]))
        if epoch % REPORT_EVERY == REPORT_EVERY - 1:
            print(f"epoch {epoch + 1}: loss {float(loss):.4f}")
    right = np.asarray(model(jnp.asarray(held_out.images)).argmax(-1)) == held_out.labels
    print(f"held out: {right.mean():.4f} of {len(right)}")
    save_file(arrays(model), OUT)
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
