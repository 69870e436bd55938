"""The weights of a BERT directory: which arrays its files must have, and their names here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from engine.errors import ConfigError
from engine.models import weights
from engine.models.config import ModelConfig
from engine.models.families.bert.directory import BertShape, Directory
from engine.models.families.bert.keys import INDEX, read, refused
from engine.models.families.bert.modules import Dense
from engine.models.tensors import Array
from engine.models.weights import Stored

SINGLE: Final = "model.safetensors"
SHARDED: Final = "model.safetensors.index.json"
FLOATS: Final = ("F64", "F32", "F16", "BF16")
"""How weights may be stored; they are computed with in float32."""


def files(config: ModelConfig, directory: Directory) -> tuple[Path, ...]:
    """The transformer's weights: one file, or the shards that an index names, by name."""
    root = directory.root
    if (root / SINGLE).is_file() or not (root / SHARDED).is_file():
        if not (root / SINGLE).is_file():
            raise ConfigError("path", str(config.source.path), f"a directory with {SINGLE}")
        return (root / SINGLE,)
    where = read(root, SHARDED, INDEX).get("weight_map")
    names = set(where.values()) if isinstance(where, dict) else set()
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise refused(SHARDED, "weight_map", where, "names of arrays and of files beside it")
    return tuple(root / name for name in sorted(names))


def check(config: ModelConfig, directory: Directory) -> int:
    """Compare the headers of all files with what the JSON files promise: an array that is missing,
    unknown, of another shape, or not of floats would change the numbers. Returns the arrays' bytes.
    """
    stored = weights.check_files(config, files(config, directory))
    found: dict[str, Stored] = {}
    for name, array in stored.items():
        if canonical(name) in found:
            raise ConfigError("path", name, "one array of this name, with or without 'bert.'")
        found[canonical(name)] = array
    layers = directory.shape.layers
    if layers > len(found):
        raise refused(
            "config.json", "num_hidden_layers", layers, "the layers that the weights have"
        )
    _compare(found, _transformer(directory.shape), str(directory.root / SINGLE))
    for dense in _dense(directory):
        own = weights.header(config, dense.weights) if dense.weights.is_file() else {}
        _compare(own, dense.shapes, str(dense.weights))
        stored |= {f"{dense.name}.{name}": array for name, array in own.items()}
    return sum(array.nbytes for array in stored.values())


def _compare(
    found: Mapping[str, Stored], promised: Mapping[str, tuple[int, ...]], where: str
) -> None:
    missing = sorted(promised.keys() - found.keys())
    surplus = sorted(
        name for name in found.keys() - promised.keys() if not name.startswith(LEFT_OUT)
    )
    if missing or surplus:
        differing = {"missing": missing[:8], "unknown": surplus[:8]}
        raise ConfigError(
            "path", differing, f"the arrays that the configuration promises, in {where}"
        )
    for name, shape in promised.items():
        array = found[name]
        if array.dtype not in FLOATS:
            known = ", ".join(FLOATS)
            raise ConfigError("path", array.dtype, f"one of {known} as type of {name!r} in {where}")
        if array.shape != shape:
            said = f"{list(shape)} as shape of {name!r} in {where}"
            raise ConfigError("path", list(array.shape), said)


LEFT_OUT: Final = (
    "pooler.",
    "cls.",
    "classifier.",
    "qa_outputs.",
    "embeddings.position_ids",
    "embeddings.token_type_ids",
)
"""What an embedding does not need: the heads of other tasks, and constants."""


def _transformer(shape: BertShape) -> dict[str, tuple[int, ...]]:
    """The arrays of a `BertModel`."""
    hidden, between = shape.hidden, shape.intermediate
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (shape.vocabulary, hidden),
        "embeddings.position_embeddings.weight": (shape.positions, hidden),
        "embeddings.token_type_embeddings.weight": (shape.token_types, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(shape.layers):
        stem = f"encoder.layer.{layer}"
        for name, out, into in (
            *((f"attention.self.{name}", hidden, hidden) for name in ("query", "key", "value")),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", between, hidden),
            ("output.dense", hidden, between),
        ):
            shapes[f"{stem}.{name}.weight"] = (out, into)
            shapes[f"{stem}.{name}.bias"] = (out,)
        for name in _NORM.values():
            shapes |= {f"{stem}.{name}.{part}": (hidden,) for part in ("weight", "bias")}
    return shapes


def _dense(directory: Directory) -> list[Dense]:
    return [stage for stage in directory.head.stages if isinstance(stage, Dense)]


def load(config: ModelConfig, directory: Directory) -> dict[str, Array]:
    """All weights under the names of `SentenceEncoder`, in float32."""
    arrays: dict[str, Array] = {}
    for path in files(config, directory):
        arrays |= weights.read(path)
    ours = rename(arrays, directory.shape.layers)
    for dense in _dense(directory):
        for name, array in weights.read(dense.weights).items():
            layer, _, part = name.partition(".")
            kernel = part == "weight"
            to = f"{dense.name}.{layer}.{'kernel' if kernel else part}"
            ours[to] = np.ascontiguousarray(array.T if kernel else array, np.float32)
    return ours


_IN_EMBEDDINGS: Final = {
    "word.embedding": "word_embeddings.weight",
    "position.embedding": "position_embeddings.weight",
    "token_type.embedding": "token_type_embeddings.weight",
    "norm.scale": "LayerNorm.weight",
    "norm.bias": "LayerNorm.bias",
}
_LINEAR: Final = {
    "attended": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
_NORM: Final = {
    "attended_norm": "attention.output.LayerNorm",
    "down_norm": "output.LayerNorm",
}


def rename(arrays: Mapping[str, Array], layers: int) -> dict[str, Array]:
    """From `BertModel`'s names to those of `SentenceEncoder`; `check` has compared them.

    A dense weight is stored [out, in] there and [in, out] here. Query, key and value become one.
    """
    found = {canonical(name): array for name, array in arrays.items()}
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
        for part, to in (("weight", "kernel"), ("bias", "bias")):
            names = [f"{theirs}attention.self.{n}.{part}" for n in ("query", "key", "value")]
            if all(name in found for name in names):
                ours[f"layers.{i}.qkv.{to}"] = np.concatenate([found[n] for n in names]).T
    return {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in ours.items()
        if array is not None
    }


def canonical(name: str) -> str:
    """Larger models put `bert.` in front; early ones call a norm's parameters gamma and beta."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )
