"""A tiny embedding model, for tests of the routes that need one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from brim import Arrays, Model, Prepared, TensorSpec

LETTERS = TensorSpec("letters", "FP32", (8,))


def create() -> Model:
    """A text's vector counts its letters by their code modulo eight. Each letter is a token."""

    def preprocess(inputs: Arrays) -> Prepared:
        letters = [np.frombuffer(text, np.uint8) % 8 for text in inputs["text"]]
        counts = np.array([np.bincount(codes, minlength=8) for codes in letters], np.float32)
        return Prepared({"letters": counts}, tokens=int(counts.sum()))

    def detokenize(tokens: Sequence[int]) -> str:
        return "".join(chr(97 + token % 26) for token in tokens)

    def apply(_params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"embedding": inputs["letters"] * 1.0}

    return Model(
        apply=apply,
        params={},
        inputs=(TensorSpec("text", "BYTES"),),
        outputs=(TensorSpec("embedding", "FP32", (8,)),),
        preprocess=preprocess,
        detokenize=detokenize,
        device_inputs=(LETTERS,),
        example={"text": ["full to the brim"]},
    )
