"""A model with weights whose answers can be checked by hand."""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.models.model import Model
from engine.models.tensors import TensorSpec

SIZE: Final = 256
WEIGHTS_BYTES: Final = SIZE * SIZE * 4


def matrix_model() -> Model:
    """`y = x @ w` with a `w` of 256 KiB."""
    return Model(
        apply=lambda params, inputs: {"y": inputs["x"] @ params["w"]},
        params={"w": np.ones((SIZE, SIZE), np.float32)},
        inputs=(TensorSpec("x", "FP32", (SIZE,)),),
        outputs=(TensorSpec("y", "FP32", (SIZE,)),),
    )
