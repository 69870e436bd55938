"""Families of models that can be served, and the way from a config to a `Model`.

Every family has two functions. `check` reads the files only, and returns how large the weights are:
it runs in `brim check` and before a server starts, where no device may be used. `load` builds the
model. To add one: `CONTRIBUTING.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final, Protocol, cast

from engine.errors import ConfigError
from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.models.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Checked:
    """What can be known of a model without a device. `weights_bytes` is None for a factory;
    `tensors` are those that each batch carries to the device and back.
    """

    weights_bytes: int | None
    description: str
    tensors: tuple[TensorSpec, ...] = ()


class Family(Protocol):
    """A module in this package."""

    check: Callable[[ModelConfig], Checked]
    load: Callable[[ModelConfig], Model]


FAMILIES: Final[Mapping[str, str]] = {
    "bert-embedding": "engine.models.families.bert_embedding",
    "digits": "engine.models.families.digits",
}
"""Name in a config -> module."""


def family(config: ModelConfig) -> Family:
    """The module that makes this model. Raises `ConfigError` for a family that does not exist."""
    if config.source.factory is not None:
        return cast("Family", import_module("engine.models.factory"))
    name = str(config.source.family)
    if name not in FAMILIES:
        raise ConfigError("family", name, "one of " + ", ".join(FAMILIES))
    return cast("Family", import_module(FAMILIES[name]))


def check(config: ModelConfig) -> Checked:
    """Look at a model's files. Raises `ConfigError`; touches no device."""
    return family(config).check(config)


def load(config: ModelConfig) -> Model:
    """Build a model. Raises `ConfigError` or `LoadError`."""
    return family(config).load(config)
