"""`factory = "package.module:function"`: the user's own Python, returning a `Model`.

May touch: whatever the user's code touches.

The function is called on the engine's thread with the config's `options` as keyword arguments. The
config's own directory is importable, so a module beside the file is found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from engine.config import ModelConfig
from engine.errors import ConfigError, LoadError
from engine.model import Model
from engine.models import Checked


def check(config: ModelConfig) -> Checked:
    """Is there such a module? Its code is not run, so its weights are not known yet. (That of a
    package around it is: Python imports a package to look into it.)
    """
    module, _ = _parts(config)
    _make_importable(config)
    found, why = None, ""
    try:
        found = find_spec(module)
    except Exception as error:
        why = f": {error}"
    if found is None:
        raise ConfigError(
            "factory", config.source.factory, f"a module {module!r} that can be imported{why}"
        )
    return Checked(None, f"factory {config.source.factory}")


def load(config: ModelConfig) -> Model:
    """Import the module and call the function."""
    module, name = _parts(config)
    _make_importable(config)
    function: Callable[..., object] | None = getattr(import_module(module), name, None)
    if not callable(function):
        raise LoadError(f"{module} has no function {name!r}")
    model = function(**config.source.options)
    if not isinstance(model, Model):
        raise LoadError(f"{config.source.factory} returned {type(model).__name__}, not a Model")
    return model


def _parts(config: ModelConfig) -> tuple[str, str]:
    module, colon, name = str(config.source.factory).partition(":")
    parts = [*module.split("."), name]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ConfigError("factory", config.source.factory, "'package.module:function'")
    return module, name


def _make_importable(config: ModelConfig) -> None:
    directory = str(config.base.resolve())
    if directory not in sys.path:
        sys.path.append(directory)  # at the end: a file there must not hide an installed module
