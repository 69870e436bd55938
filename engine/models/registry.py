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

from engine.errors import ConfigError, LoadError, reason_of
from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.models.processor import HostProcessor
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
    "bert-embedding": "engine.models.families.bert.embedding",
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
    checked = family(config).check(config)
    dynamic = any(spec.length_axis is not None for spec in checked.tensors)
    if checked.tensors and dynamic != bool(config.lengths):
        allowed = "bucket lengths, as [32, 128]" if dynamic else "none: no input has a dynamic axis"
        raise ConfigError("lengths", list(config.lengths), allowed)
    return checked


def load(config: ModelConfig) -> Model:
    """Build a model. Raises `ConfigError` or `LoadError`."""
    model = family(config).load(config)
    if model.host:
        model.processor = host_processor(config, model.host)
    if config.token_ids and model.processor.preprocess_ids is None:
        raise ConfigError("token_ids", True, "false: the model's host has no preprocess_ids")
    _check_dimensions(config, model)
    return model


def _check_dimensions(config: ModelConfig, model: Model) -> None:
    wanted = list(config.dimensions)
    if not wanted:
        return
    vector = model.signature.vector
    if vector is None:
        raise ConfigError("dimensions", wanted, "none: the model does not have one vector output")
    if wanted[-1] >= vector.shape[0]:
        expected = f"sizes below {vector.shape[0]}, that of the output {vector.name!r}"
        raise ConfigError("dimensions", wanted, expected)


def host_processor(config: ModelConfig, host: str) -> HostProcessor:
    """Make the hooks that `Model.host` names, in this process. A factory's function gets the
    config's options, a family's the config. Raises `LoadError`, or what the function raises.
    """
    source = config.source
    if source.factory is not None:
        family(config).check(config)  # makes the config's own directory importable
    function = _host_function(host)
    made = function(config) if source.factory is None else function(**source.options)
    if not isinstance(made, HostProcessor):
        raise LoadError(f"{host} returned {type(made).__name__}, not a HostProcessor")
    return made


def _host_function(host: str) -> Callable[..., object]:
    module, _, name = host.partition(":")
    if not module or not name:
        raise LoadError(f"host is {host!r}, not 'module:function'")
    try:
        found = import_module(module)
    except Exception as error:
        raise LoadError(f"host {host!r} cannot be imported: {reason_of(error)}") from error
    function: Callable[..., object] | None = getattr(found, name, None)
    if not callable(function):
        raise LoadError(f"host: {module} has no function {name!r}")
    return function
