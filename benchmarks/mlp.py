"""A small dense network with random weights, for measurements only."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import jax
import numpy as np

from brim import Model, TensorSpec

SIZES: Final = (784, 512, 512, 10)


def create() -> Model:
    """The factory for a config: 784 floats -> 10."""
    rng = np.random.default_rng(0)
    params = [
        {
            "weights": rng.normal(0, into**-0.5, (into, out)).astype(np.float32),
            "bias": np.zeros(out, np.float32),
        }
        for into, out in pairwise(SIZES)
    ]

    def apply(layers: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        values = inputs["x"]
        for place, layer in enumerate(layers):
            values = values @ layer["weights"] + layer["bias"]
            if place < len(layers) - 1:
                values = jax.nn.relu(values)
        return {"y": values}

    return Model(
        apply=apply,
        params=params,
        inputs=(TensorSpec("x", "FP32", (SIZES[0],)),),
        outputs=(TensorSpec("y", "FP32", (SIZES[-1],)),),
    )
