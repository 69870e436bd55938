"""Brim's public interface: all that a user's code imports.

A user's own model is a factory: a function that returns a `Model`. A config names it with
`factory = "my_model:create"`:

    from brim import Model, TensorSpec

    def create(factor=2.0):
        x = TensorSpec("x", "FP32", (4,))  # [rows, 4]
        def apply(params, inputs):
            return {"x": inputs["x"] * params}
        return Model(apply=apply, params=factor, inputs=(x,), outputs=(x,))

A `preprocess` or `postprocess` raises `InvalidRequest` for invalid input (400); a
factory raises `LoadError` for weights that do not fit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HOME = Path(__file__).resolve().parent


@contextmanager
def _first(name: str) -> Iterator[None]:
    """Import Brim's own package `name`, also when a directory that has another one of this name
    is earlier on the path. Raises ImportError if the other one was imported already.
    """
    for path in getattr(sys.modules.get(name), "__path__", ()):
        if Path(path).resolve() != _HOME / name:
            raise ImportError(
                f"{path} was imported as {name!r} and hides Brim's own package {_HOME / name}: "
                "rename yours"
            )
    sys.path.insert(0, str(_HOME))
    try:
        yield
    finally:
        sys.path.remove(str(_HOME))


with _first("engine"):
    from engine.errors import BrimError, ConfigError, InvalidRequest, LoadError
    from engine.models.model import Model, Params
    from engine.models.processor import HostProcessor, Prepared
    from engine.models.tensors import LENGTH, Array, Arrays, TensorSpec

__all__ = [
    "LENGTH",
    "Array",
    "Arrays",
    "BrimError",
    "ConfigError",
    "HostProcessor",
    "InvalidRequest",
    "LoadError",
    "Model",
    "Params",
    "Prepared",
    "TensorSpec",
]

# The rest starts servers; a factory does not need it.


def main() -> None:
    """Run the command `brim`."""
    with _first("app"):
        from app.cli.main import main as command
        from app.cli.main import program
    command(prog_name=program())


def gunicorn_options() -> dict[str, Any]:
    """Gunicorn's settings for the config that `BRIM_CONFIG` names; exits with 2 if it is wrong."""
    with _first("app"):
        from app.hosting import gunicorn
        from app.settings import exit_with
    try:
        return gunicorn.options_of_environment()
    except ConfigError as error:
        exit_with(error)


def engine_process(fds: list[str]) -> None:
    """Run the engine's process; gunicorn's master starts it with these file descriptors."""
    with _first("app"):
        from app.hosting.engine_process import run
    run(*map(int, fds))


if __name__ == "__main__":
    main()
