"""From Hugging Face's names for a BERT's weights to those of `bert.SentenceEncoder`.

May touch: numpy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.spec import Array

_IN_EMBEDDINGS = {
    "word.embedding": "word_embeddings.weight",
    "position.embedding": "position_embeddings.weight",
    "token_type.embedding": "token_type_embeddings.weight",
    "norm.scale": "LayerNorm.weight",
    "norm.bias": "LayerNorm.bias",
}
_LINEAR = {"attended": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
_NORM = {"attended_norm": "attention.output.LayerNorm", "down_norm": "output.LayerNorm"}


def rename(arrays: Mapping[str, Array], layers: int) -> dict[str, Array]:
    """From `BertModel`'s names to those of `SentenceEncoder`.

    What the encoder has no use for is left out (a pooler, a language model's head), but not a layer
    beyond `layers`: a network that is cut short would answer, and wrongly.

    A dense weight is stored [out, in] there and [in, out] here. Query, key and value become one.
    """
    found = {name.removeprefix("bert."): array for name, array in arrays.items()}
    found = {_modern(name): array for name, array in found.items()}
    ours = {to: found.get(f"embeddings.{name}") for to, name in _IN_EMBEDDINGS.items()}
    for i in range(layers):
        theirs = f"encoder.layer.{i}."
        for to, name in _NORM.items():
            ours[f"layers.{i}.{to}.scale"] = found.get(f"{theirs}{name}.weight")
            ours[f"layers.{i}.{to}.bias"] = found.get(f"{theirs}{name}.bias")
        for to, name in _LINEAR.items():
            kernel = found.get(f"{theirs}{name}.weight")
            ours[f"layers.{i}.{to}.kernel"] = None if kernel is None else kernel.T
            ours[f"layers.{i}.{to}.bias"] = found.get(f"{theirs}{name}.bias")
        for part, axis, to in (("weight", 0, "kernel"), ("bias", 0, "bias")):
            names = [f"{theirs}attention.self.{n}.{part}" for n in ("query", "key", "value")]
            if all(name in found for name in names):
                ours[f"layers.{i}.qkv.{to}"] = np.concatenate([found[n] for n in names], axis).T
    surplus = (name for name in found if name.startswith("encoder.layer."))
    ours |= {name: found[name] for name in surplus if int(name.split(".")[2]) >= layers}
    return {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in ours.items()
        if array is not None
    }


def _modern(name: str) -> str:
    """Early checkpoints call a norm's parameters gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )
