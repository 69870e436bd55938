"""A model whose hooks hang until the test opens a gate, here or in the HTTP processes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hanging_host import host

from brim import Model, TensorSpec


def create(gate: str, beside_the_engine: bool) -> Model:
    """Rows `x` FP32 [1] come back doubled. Above zero they wait in `preprocess`, below -5 in
    `postprocess`.
    """
    hooks = host(gate)
    own: dict[str, Any] = {
        "preprocess": hooks.preprocess,
        "postprocess": hooks.postprocess,
    }
    x, y = TensorSpec("x", "FP32", (1,)), TensorSpec("y", "FP32", (1,))
    return Model(
        apply=lambda _params, inputs: {"y": 2 * inputs["x"]},
        params={},
        inputs=(x,),
        outputs=(y,),
        device_inputs=(x,),
        device_outputs=(y,),
        golden=lambda rng, _: {"x": -np.abs(rng.standard_normal(1).astype(np.float32))},
        **(own if beside_the_engine else {"host": "hanging_host:host"}),
    )
