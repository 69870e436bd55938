"""A tiny embedding model, for tests of the routes that need one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from brim import Model, TensorSpec

LETTERS = TensorSpec("letters", "FP32", (8,))


def create() -> Model:
    """A text's vector counts its letters by their code modulo eight. Each letter is a token."""

    def apply(_params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"embedding": inputs["letters"] * 1.0}

    return Model(
        apply=apply,
        params={},
        inputs=(TensorSpec("text", "BYTES"),),
        outputs=(TensorSpec("embedding", "FP32", (8,)),),
        host="text_host:host",
        device_inputs=(LETTERS,),
        example={"text": ["full to the brim"]},
    )
