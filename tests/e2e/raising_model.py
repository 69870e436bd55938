"""A model whose program and hooks raise for certain numbers, for tests of answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from brim import Arrays, Model, Prepared, TensorSpec

VALUE = TensorSpec("value", "FP32", (1,))
EXIT_BEFORE, EXIT_AFTER, FAIL_ON_DEVICE, NAN = 11.0, 12.0, 13.0, 14.0


def create() -> Model:
    """Gives back what it gets."""

    def preprocess(inputs: Arrays) -> Prepared:
        if (inputs["value"] == EXIT_BEFORE).any():
            sys.exit("told to")
        return Prepared(inputs)

    def postprocess(outputs: Arrays) -> Arrays:
        if (outputs["value"] == EXIT_AFTER).any():
            sys.exit("told to")
        return outputs

    def called_back(value: Any) -> Any:
        value = np.asarray(value)
        if (value == FAIL_ON_DEVICE).any():
            raise RuntimeError("told to")
        return np.where(value == NAN, np.nan, value).astype(np.float32)

    def apply(_params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        value = inputs["value"]
        same = jax.ShapeDtypeStruct(value.shape, value.dtype)
        return {"value": jax.pure_callback(called_back, same, value)}

    return Model(
        apply=apply,
        params={},
        inputs=(VALUE,),
        outputs=(VALUE,),
        preprocess=preprocess,
        postprocess=postprocess,
        device_inputs=(VALUE,),
        device_outputs=(VALUE,),
    )
