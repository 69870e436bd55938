"""What follows the transformer: pooling, dense layers, normalization, as in modules.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, cast, get_args

from engine.errors import ConfigError
from engine.models.families.bert.keys import (
    DENSE,
    DROPOUT,
    MODULE,
    NORMALIZE,
    POOLING,
    POOLING_MODES,
    check,
    read,
    read_json,
    refused,
    truth,
    whole,
)

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
DenseActivation = Literal["identity", "tanh", "relu", "gelu", "sigmoid", "silu"]

ACTIVATIONS: Final[Mapping[str, DenseActivation]] = {
    f"torch.nn.{module}{name}": cast("DenseActivation", name.lower())
    for module, names in (
        ("", ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")),
        ("modules.linear.", ("Identity",)),
        ("modules.activation.", ("Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")),
    )
    for name in names
}
"""`activation_function` of a Dense module -> its name here."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense layer on the embedding. `name` is where its weights are kept among all."""

    name: str
    weights: Path
    inputs: int
    outputs: int
    bias: bool
    activation: DenseActivation
    residual: bool

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays that its weights file must have."""
        shapes: dict[str, tuple[int, ...]] = {"linear.weight": (self.outputs, self.inputs)}
        if self.bias:
            shapes["linear.bias"] = (self.outputs,)
        if self.residual and self.inputs != self.outputs:
            shapes["residual.weight"] = (self.outputs, self.inputs)
        return shapes


Stage = Dense | Literal["normalize"]


@dataclass(frozen=True, slots=True)
class Head:
    """What makes one embedding of the tokens' vectors.

    poolings  computed side by side and concatenated
    stages    applied to the result, in this order
    guessed   no pooling is stated, and the mean is a guess
    """

    poolings: tuple[Pooling, ...] = ("mean",)
    stages: tuple[Stage, ...] = ()
    guessed: bool = True
    prompt_is_pooled: bool = True

    def width(self, hidden: int) -> int:
        """The size of the embedding."""
        widths = [stage.outputs for stage in self.stages if isinstance(stage, Dense)]
        return widths[-1] if widths else hidden * len(self.poolings)


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json: `kind` is the last part of its type."""

    kind: str
    path: str


def read_modules(root: Path) -> tuple[Module, ...]:
    """The entries of modules.json; only the transformer where there is no such file."""
    if not (root / "modules.json").is_file():
        return (Module("Transformer", ""),)
    entries = read_json(root, "modules.json", list)
    modules = tuple(_module(entry) for entry in entries)
    kinds = [module.kind for module in modules]
    if kinds[:1] != ["Transformer"] or "Transformer" in kinds[1:] or "Pooling" in kinds[2:]:
        expected = "Transformer, Pooling, then Dense, Normalize and Dropout, in modules.json"
        raise ConfigError("path", kinds, expected)
    return modules


KINDS: Final = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")


def _module(entry: Any) -> Module:
    if not isinstance(entry, dict) or not {"type", "path"} <= entry.keys():
        raise ConfigError("path", entry, "modules with type and path in modules.json")
    check("modules.json", entry, MODULE)
    name, path = entry["type"], entry["path"]
    package, _, kind = str(name).rpartition(".")
    if not package.startswith("sentence_transformers.") or kind not in KINDS:
        known = ", ".join(KINDS)
        raise refused("modules.json", "type", name, f"a module of sentence_transformers: {known}")
    inside = PurePosixPath(path) if isinstance(path, str) else None
    if inside is None or inside.is_absolute() or ".." in inside.parts:
        raise refused("modules.json", "path", path, "a folder inside the directory")
    return Module(kind, str(path))


def read_head(root: Path, modules: Sequence[Module], hidden: int) -> Head:
    """The pooling and all that follows it. Raises `ConfigError`."""
    rest = list(modules[1:])
    poolings: tuple[Pooling, ...] = ("mean",)
    pooled = True
    guessed = not rest or rest[0].kind != "Pooling"
    if not guessed:
        poolings, pooled = _read_pooling(root, rest.pop(0), hidden)
    width = hidden * len(poolings)
    stages: list[Stage] = []
    for module in rest:
        file = str(PurePosixPath(module.path) / "config.json")
        if module.kind == "Dense":
            dense = _read_dense(root, file, f"stages.{len(stages)}", width)
            stages.append(dense)
            width = dense.outputs
        elif module.kind == "Normalize":
            read(root, file, NORMALIZE)
            stages.append("normalize")
        else:
            read(root, file, DROPOUT)
    return Head(poolings, tuple(stages), guessed, pooled)


def _read_pooling(root: Path, module: Module, hidden: int) -> tuple[tuple[Pooling, ...], bool]:
    file = str(PurePosixPath(module.path) / "config.json")
    if not (root / file).is_file():
        raise ConfigError("path", str(root), f"one or more pooling modes in {file}")
    content = read(root, file, POOLING)
    for key in ("embedding_dimension", "word_embedding_dimension"):
        if content.get(key, hidden) != hidden:
            raise refused(file, key, content[key], f"{hidden}, the size of a token's vector,")
    pooled = truth(file, "include_prompt", content.get("include_prompt", True))
    return _modes(file, content), pooled


def _modes(file: str, content: Mapping[str, Any]) -> tuple[Pooling, ...]:
    """By the dialect since 5.4, one name or several; otherwise by the flags before it."""
    if "pooling_mode" in content:
        stated = content["pooling_mode"]
        modes = [stated] if isinstance(stated, str) else stated
        if (
            not isinstance(modes, list)
            or not modes
            or any(mode not in get_args(Pooling) for mode in modes)
        ):
            known = ", ".join(get_args(Pooling))
            raise refused(file, "pooling_mode", stated, f"one or more of {known}")
        return tuple(modes)
    flags = {key: truth(file, key, content[key]) for key in POOLING_MODES if key in content}
    on = [cast("Pooling", mode) for key, mode in POOLING_MODES.items() if flags.get(key)]
    if flags and not on:  # versions before 5.4 fail, later ones take the mean
        raise ConfigError("path", flags, f"one or more pooling modes in {file}")
    return tuple(on) or ("mean",)


def _read_dense(root: Path, file: str, name: str, width: int) -> Dense:
    content = read(root, file, DENSE)
    for key in ("in_features", "out_features"):
        if key not in content:
            raise ConfigError("path", str(root), f"{key!r} in {file}")
    inputs = whole(file, "in_features", content["in_features"])
    if inputs != width:
        raise refused(file, "in_features", inputs, f"{width}, the size of what comes before,")
    activation = content.get("activation_function", "torch.nn.Tanh")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(key for key in ACTIVATIONS if key.count(".") == 2)  # noqa: PLR2004
        raise refused(file, "activation_function", activation, f"one of {known}")
    return Dense(
        name=name,
        weights=root / PurePosixPath(file).parent / "model.safetensors",
        inputs=inputs,
        outputs=whole(file, "out_features", content["out_features"]),
        bias=truth(file, "bias", content.get("bias", True)),
        activation=ACTIVATIONS[activation],
        residual=truth(file, "use_residual", content.get("use_residual", False)),
    )
