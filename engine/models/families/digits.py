"""The family `digits`: a convolutional classifier of 8x8 handwritten digits.

`path` is a safetensors file that `examples/digits/train.py` made. Input `image` FP32 [rows, 8, 8],
values 0 to 16 as scikit-learn's `load_digits` has them; outputs `label` INT64 [rows] and
`probabilities` FP32 [rows, 10].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models import weights
from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.models.registry import Checked
from engine.models.tensors import Arrays, TensorSpec

if TYPE_CHECKING:
    import jax

CLASSES = 10
INPUTS = (TensorSpec("image", "FP32", (8, 8)),)
OUTPUTS = (TensorSpec("label", "INT64"), TensorSpec("probabilities", "FP32", (CLASSES,)))

# a seven, drawn here: something to send before one has data
EXAMPLE = [
    [0, 0, 0, 0, 0, 0, 0, 0],
    [0, 2, 14, 16, 16, 16, 4, 0],
    [0, 0, 4, 6, 8, 16, 4, 0],
    [0, 0, 0, 0, 8, 14, 0, 0],
    [0, 0, 6, 12, 16, 14, 4, 0],
    [0, 0, 4, 14, 14, 4, 0, 0],
    [0, 0, 4, 16, 4, 0, 0, 0],
    [0, 0, 8, 14, 0, 0, 0, 0],
]


def check(config: ModelConfig) -> Checked:
    """Look at the weights file."""
    weights_bytes = weights.check_file(config, weights.resolve(config))
    return Checked(weights_bytes, "convolutional classifier of 8x8 digits", (*INPUTS, *OUTPUTS))


def load(config: ModelConfig) -> Model:
    """Build the classifier from its weights file."""
    import jax
    from flax import nnx

    from engine.models.families.digit_classifier import DigitClassifier

    check(config)
    graphdef, params = weights.fill(DigitClassifier, weights.read(weights.resolve(config)))

    def apply(params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("float32"):
            logits = nnx.merge(graphdef, params)(inputs["image"])
        return {"label": logits.argmax(axis=-1), "probabilities": jax.nn.softmax(logits)}

    def golden(rng: np.random.Generator, _length: int | None) -> Arrays:
        return {"image": rng.integers(0, 17, (8, 8)).astype(np.float32)}

    return Model(
        apply=apply,
        params=params,
        inputs=INPUTS,
        outputs=OUTPUTS,
        golden=golden,
        example={"image": [EXAMPLE]},
    )
