"""`factory = "package.module:function"`: the user's own Python, which returns a `Model`.

The function is called on the engine's thread with the config's `options` as keyword arguments. The
config's own directory is importable, so a module beside the file is found; but Brim's own packages
come before packages of the same names there.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from engine.errors import ConfigError, LoadError
from engine.models.config import ModelConfig
from engine.models.model import Model, check_call
from engine.models.registry import Checked

log = logging.getLogger("brim.engine")

HOME: Final = Path(__file__).resolve().parents[2]
OWN: Final = ("app", "brim", "engine")  # what Brim installs; imported before any factory


def check(config: ModelConfig) -> Checked:
    """Look for the module without running its code; its weights are not known. Code of a package
    around it runs: Python imports a package to find a module in it.
    """
    module, _ = _parts(config)
    found, why = None, ""
    try:
        found = find_spec(module)
    except Exception as error:
        why = f": {error}"
    if found is None:
        expected = f"a module {module!r} that can be imported{why}"
        raise ConfigError("factory", config.source.factory, expected)
    return Checked(None, f"factory {config.source.factory}")


def load(config: ModelConfig) -> Model:
    """Call the function. Raises `ConfigError`, `LoadError`, or what the user's code raises."""
    module, name = _parts(config)
    hidden = "; ".join(_hidden(config.base))
    if hidden:
        log.warning("model %s: %s if the factory imports it", config.name, hidden)
    try:
        model = _call(module, name, config)
    except (ImportError, AttributeError) as error:
        if not hidden:
            raise
        raise LoadError(f"{error} ({hidden})") from error
    if not isinstance(model, Model):
        returned = "nothing" if model is None else f"a {type(model).__name__}"
        remedy = "it returns brim.Model(apply=..., params=..., inputs=..., outputs=...)"
        raise LoadError(f"{config.source.factory} returned {returned}, not a Model: {remedy}")
    return model


def _call(module: str, name: str, config: ModelConfig) -> object:
    function: Callable[..., object] | None = getattr(import_module(module), name, None)
    if not callable(function):
        raise LoadError(f"{module} has no function {name!r}")
    options = config.source.options
    given = f"options has {', '.join(map(repr, options)) or 'nothing'}"
    check_call(str(config.source.factory), function, given, options=options)
    return function(**options)


def _parts(config: ModelConfig) -> tuple[str, str]:
    """The module and the function, once the config's directory is importable."""
    module, colon, name = str(config.source.factory).partition(":")
    parts = [*module.split("."), name]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ConfigError("factory", config.source.factory, "'package.module:function'")
    for hidden in _hidden(config.base, parts[0]):
        raise ConfigError("factory", config.source.factory, f"another module: {hidden}")
    directory = str(config.base.resolve())
    if directory not in sys.path:
        sys.path.append(directory)  # at the end: a file there must not hide an installed module
    return module, name


def _hidden(base: Path, *names: str) -> list[str]:
    """What the config's directory has of `names`, by default Brim's own, and cannot be imported."""
    directory = base.resolve()
    if directory == HOME:
        return []
    return [
        f"Brim's own {HOME / ('brim.py' if name == 'brim' else name)} hides {theirs}: "
        f"rename your {theirs.name}"
        for name in OWN
        for theirs in (directory / name, directory / f"{name}.py")
        if name in (names or OWN) and theirs.exists()
    ]
