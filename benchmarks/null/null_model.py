"""The null model: y = 2 x + 0.1 on 16 floats."""

from __future__ import annotations

from brim import Model, TensorSpec


def create() -> Model:
    """The factory; the model has no weights."""
    return Model(
        apply=lambda _params, inputs: {"y": inputs["x"] * 2 + 0.1},
        params={},
        inputs=(TensorSpec("x", "FP32", (16,)),),
        outputs=(TensorSpec("y", "FP32", (16,)),),
    )
