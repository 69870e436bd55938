"""A model of one's own, whole: copy this folder and change what is inside.

Brim needs a function that returns a `Model`: a pure `apply(params, inputs)`, its weights, and what
its tensors are called. `brim.toml` names the function and passes `options` to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from safetensors.numpy import load_file

from brim import Model, TensorSpec

SPECIES = ("setosa", "versicolor", "virginica")
HERE = Path(__file__).parent


class IrisClassifier(nnx.Module):
    """Four measurements in cm -> three logits."""

    def __init__(self, hidden: int, rngs: nnx.Rngs) -> None:
        self.dense1 = nnx.Linear(4, hidden, rngs=rngs)
        self.dense2 = nnx.Linear(hidden, len(SPECIES), rngs=rngs)

    def __call__(self, measurements: jax.Array) -> jax.Array:
        """`measurements` [B, 4] -> logits [B, 3]."""
        return self.dense2(nnx.relu(self.dense1(measurements)))


def create(weights: str, hidden: int) -> Model:
    """What `brim.toml` names. Runs once, before the first bucket is compiled."""
    # eval_shape builds the module without computing anything; the weights come from the file
    graphdef, state = nnx.split(nnx.eval_shape(lambda: IrisClassifier(hidden, nnx.Rngs(0))))
    saved = load_file(HERE / weights)
    names = [(path, ".".join(map(str, path))) for path, _ in nnx.to_flat_state(state)]
    params = nnx.to_pure_dict(nnx.from_flat_state([(path, saved[name]) for path, name in names]))

    def apply(params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        logits = nnx.merge(graphdef, params)(inputs["measurements"])
        return {"species": logits.argmax(axis=-1), "probabilities": jax.nn.softmax(logits)}

    return Model(
        apply=apply,
        params=params,
        inputs=(TensorSpec("measurements", "FP32", (4,)),),
        outputs=(
            TensorSpec("species", "INT64"),
            TensorSpec("probabilities", "FP32", (len(SPECIES),)),
        ),
        example={"measurements": [[5.1, 3.5, 1.4, 0.2]]},
    )
