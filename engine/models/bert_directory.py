"""What the JSON files of a BERT sentence encoder's directory say.

May touch: the file system. No JAX: this runs before any device is touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.models import weights

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
    """What the JSON files of one model directory say."""

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
    said = _json(config, root / "config.json")
    kind, activation = said.get("model_type"), said.get("hidden_act", "gelu")
    if kind != "bert" or said.get("position_embedding_type", "absolute") != "absolute":
        raise ConfigError("path", kind, "a config.json of model_type bert, absolute positions")
    if activation not in get_args(Activation):
        raise ConfigError(
            "path", activation, f"hidden_act, one of {', '.join(get_args(Activation))}"
        )
    shape = _read_shape(config, said, activation)
    pooling, normalize = _read_pooling(config, root)
    limits = _json(config, root / "sentence_bert_config.json")
    return Directory(
        weights=root / "model.safetensors",
        tokenizer=root / "tokenizer.json",
        shape=shape,
        pooling=pooling,
        normalize=normalize,
        max_length=_read_limit(limits.get("max_seq_length") or shape.positions, shape),
    )


def _read_limit(said: object, shape: BertShape) -> int:
    """The limit in tokens; some directories state more than there are positions for."""
    if type(said) is not int or said < 1:
        raise ConfigError("path", said, "a whole number as 'max_seq_length'")
    return min(said, shape.positions)


_SIZES: Final = {
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}


def _read_shape(config: ModelConfig, said: dict[str, Any], activation: Activation) -> BertShape:
    for key in (*_SIZES.values(), "layer_norm_eps"):
        if key not in said:
            raise ConfigError("path", str(config.source.path), f"{key!r} in config.json")
    for key in _SIZES.values():
        if type(said[key]) is not int or said[key] < 1:
            raise ConfigError("path", said[key], f"a whole number as {key!r} in config.json")
    epsilon = said["layer_norm_eps"]
    if not isinstance(epsilon, float | int):
        raise ConfigError("path", epsilon, "a number as 'layer_norm_eps' in config.json")
    if said["hidden_size"] % said["num_attention_heads"]:
        heads = said["num_attention_heads"]
        raise ConfigError("path", heads, "num_attention_heads that divide hidden_size")
    sizes = {ours: said[theirs] for ours, theirs in _SIZES.items()}
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
        said = _json(config, root / kinds["Pooling"] / "config.json")
        on = [key for key, value in said.items() if key.startswith("pooling_mode_") and value]
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
