"""A model with 16-bit floats and bytes, for tests of clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brim import Arrays, Model, Prepared, TensorSpec

IN = (
    TensorSpec("half", "FP16", (4,)),
    TensorSpec("brain", "BF16", (4,)),
    TensorSpec("name", "BYTES"),
)
OUT = (
    TensorSpec("half", "FP16", (4,)),
    TensorSpec("brain", "BF16", (4,)),
    TensorSpec("greeting", "BYTES"),
)


def create() -> Model:
    """Doubles `half` and `brain`; a `name` comes back as a greeting, byte by byte on the device."""

    def preprocess(inputs: Arrays) -> Prepared:
        names = np.zeros((len(inputs["name"]), 32), np.uint8)
        for row, name in zip(names, inputs["name"], strict=True):
            row[: len(name)] = np.frombuffer(name, np.uint8)
        return Prepared({"half": inputs["half"], "brain": inputs["brain"], "letters": names})

    def postprocess(outputs: Arrays) -> Arrays:
        greetings = np.empty(len(outputs["letters"]), object)
        greetings[:] = [b"hello " + bytes(row[row > 0]) for row in outputs["letters"]]
        return {"half": outputs["half"], "brain": outputs["brain"], "greeting": greetings}

    def apply(_params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            "half": inputs["half"] * jnp.float16(2),
            "brain": inputs["brain"] * jnp.bfloat16(2),
            "letters": inputs["letters"],
        }

    letters = TensorSpec("letters", "UINT8", (32,))
    return Model(
        apply=apply,
        params={},
        inputs=IN,
        outputs=OUT,
        preprocess=preprocess,
        postprocess=postprocess,
        device_inputs=(IN[0], IN[1], letters),
        device_outputs=(OUT[0], OUT[1], letters),
    )
