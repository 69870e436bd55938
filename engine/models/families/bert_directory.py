"""A BERT sentence encoder's directory: its JSON files, and the names of its weights.

No JAX: this runs before any device is touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from engine.errors import ConfigError
from engine.models import weights
from engine.models.config import ModelConfig
from engine.models.tensors import Array

Pooling = Literal["mean", "cls", "max"]
Activation = Literal["gelu", "gelu_new", "relu"]

POOLING_KEYS: Final[Mapping[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


@dataclass(frozen=True, slots=True)
class BertShape:
    """The sizes that a config.json states."""

    vocabulary: int
    positions: int
    token_types: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    activation: Activation
    norm_epsilon: float


@dataclass(frozen=True, slots=True)
class Directory:
    """The content of the JSON files of one model directory."""

    weights: Path
    tokenizer: Path
    shape: BertShape
    pooling: Pooling
    normalize: bool
    max_length: int


def read_directory(config: ModelConfig) -> Directory:
    """Read and check the JSON files. Raises `ConfigError` for what this family cannot serve."""
    root = weights.resolve(config)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (root / name).is_file():
            raise ConfigError("path", str(config.source.path), f"a directory with {name}")
    content = _json(config, root / "config.json")
    kind = content.get("model_type")
    if kind != "bert" or content.get("position_embedding_type", "absolute") != "absolute":
        raise ConfigError("path", kind, "a config.json of model_type bert, absolute positions")
    shape = _read_shape(config, content)
    pooling, normalize = _read_pooling(config, root)
    limits = _json(config, root / "sentence_bert_config.json")
    limit = limits.get("max_seq_length") or shape.positions
    if type(limit) is not int or limit < 1:
        raise ConfigError("path", limit, "a whole number as 'max_seq_length'")
    return Directory(
        weights=root / "model.safetensors",
        tokenizer=root / "tokenizer.json",
        shape=shape,
        pooling=pooling,
        normalize=normalize,
        max_length=min(limit, shape.positions),  # some directories state a higher limit
    )


_SIZES: Final = {
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}


def _read_shape(config: ModelConfig, content: dict[str, Any]) -> BertShape:
    activation = content.get("hidden_act", "gelu")
    if activation not in get_args(Activation):
        known = f"hidden_act, one of {', '.join(get_args(Activation))}"
        raise ConfigError("path", activation, known)
    for key in (*_SIZES.values(), "layer_norm_eps"):
        if key not in content:
            raise ConfigError("path", str(config.source.path), f"{key!r} in config.json")
    for key in _SIZES.values():
        if type(content[key]) is not int or content[key] < 1:
            raise ConfigError("path", content[key], f"a whole number as {key!r} in config.json")
    epsilon = content["layer_norm_eps"]
    if not isinstance(epsilon, float | int):
        raise ConfigError("path", epsilon, "a number as 'layer_norm_eps' in config.json")
    if content["hidden_size"] % content["num_attention_heads"]:
        heads = content["num_attention_heads"]
        raise ConfigError("path", heads, "num_attention_heads that divide hidden_size")
    sizes = {ours: content[theirs] for ours, theirs in _SIZES.items()}
    return BertShape(**sizes, activation=activation, norm_epsilon=epsilon)


def _read_pooling(config: ModelConfig, root: Path) -> tuple[Pooling, bool]:
    """The pooling and whether to normalize. Without modules.json: mean, and no."""
    modules = _json(config, root / "modules.json", list)
    try:
        kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    except (KeyError, TypeError, AttributeError):
        raise ConfigError("path", modules, "modules.json with type and path of each") from None
    surplus = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
    if surplus:
        raise ConfigError("path", sorted(surplus), "modules Transformer, Pooling and Normalize")
    chosen: list[Pooling] = ["mean"]
    if "Pooling" in kinds:
        content = _json(config, root / kinds["Pooling"] / "config.json")
        on = [key for key, value in content.items() if key.startswith("pooling_mode_") and value]
        chosen = [POOLING_KEYS[key] for key in on if key in POOLING_KEYS]
        if len(on) != 1 or len(chosen) != 1:
            raise ConfigError("path", on, f"one pooling mode of {', '.join(POOLING_KEYS)}")
    return chosen[0], "Normalize" in kinds


def _json(config: ModelConfig, path: Path, kind: type[Any] = dict) -> Any:
    """The file's content, a dict unless it should be a list; empty where the file is missing."""
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problem = f"valid JSON in {path.name}: {error}"
        raise ConfigError("path", str(config.source.path), problem) from None
    if not isinstance(content, kind):
        raise ConfigError("path", str(config.source.path), f"a JSON {kind.__name__} in {path.name}")
    return content


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
        for part, to in (("weight", "kernel"), ("bias", "bias")):
            names = [f"{theirs}attention.self.{n}.{part}" for n in ("query", "key", "value")]
            if all(name in found for name in names):
                ours[f"layers.{i}.qkv.{to}"] = np.concatenate([found[n] for n in names]).T
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
