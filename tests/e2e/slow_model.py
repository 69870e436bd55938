"""A model whose speed the test controls, for tests of shutdown and disconnects.

Each row waits, on the device's thread, until the file `gate` is there; it counts its executions in
the file `count`. Real JAX, real executable: the wait is a host callback.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from brim import Model, TensorSpec


def create(gate: str, count: str) -> Model:
    """Rows `x` FP32 [1] come back doubled once the gate is open. Negative rows do not wait."""

    def wait(x: np.ndarray) -> np.ndarray:
        if (x > 0).any():
            with Path(count).open("a", encoding="utf-8") as file:
                file.write(f"{int((x > 0).sum())}\n")
            deadline = time.monotonic() + 60
            while not Path(gate).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        return 2 * x

    def apply(_params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        x = inputs["x"]
        return {"y": jax.pure_callback(wait, jax.ShapeDtypeStruct(x.shape, x.dtype), x)}

    return Model(
        apply=apply,
        params={},
        inputs=(TensorSpec("x", "FP32", (1,)),),
        outputs=(TensorSpec("y", "FP32", (1,)),),
        golden=lambda rng, _: {"x": -np.abs(rng.standard_normal(1).astype(np.float32))},
    )
