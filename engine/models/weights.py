"""Weights files: where they are, whether they are the right ones, and how they get into a module.

safetensors only: it holds arrays and nothing else, so a file from anywhere cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import ConfigError, LoadError
from engine.models.config import ModelConfig
from engine.models.tensors import Array

if TYPE_CHECKING:
    from flax import nnx

PACKAGE_PREFIX = "package:"


def resolve(config: ModelConfig) -> Path:
    """The file or directory that `path` names. Raises `ConfigError` when it is not there.

    Relative paths start from the config's directory. `package:NAME/DIR` is looked up among the
    installed packages, which are found and not imported.
    """
    text = str(config.source.path)
    if text.startswith(PACKAGE_PREFIX):
        name, _, inside = text.removeprefix(PACKAGE_PREFIX).partition("/")
        found = find_spec(name) if name.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise ConfigError("path", text, f"an installed package {name!r}")
        path = Path(found.submodule_search_locations[0]) / inside
    else:
        path = config.base / Path(text).expanduser()
    if not path.exists():
        raise ConfigError("path", text, f"an existing file or directory; {path} is not there")
    return path


class Stored(NamedTuple):
    """One array of a safetensors file, by the file's header."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def check_file(config: ModelConfig, path: Path) -> int:
    """Check a safetensors file against the pinned checksum; returns the bytes of its arrays. Reads
    the header only, unless a checksum is pinned. Raises `ConfigError`.
    """
    return sum(stored.nbytes for stored in check_files(config, [path]).values())


def check_files(config: ModelConfig, paths: Sequence[Path]) -> dict[str, Stored]:
    """The same for weights in several files. The checksum is that of all of them in a row."""
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise ConfigError("path", str(config.source.path), f"weights in {path}")
        if config.source.sha256 is not None:
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
    if config.source.sha256 not in (None, digest.hexdigest()):
        them = ", ".join(map(str, paths))
        expected = f"{digest.hexdigest()}, which is that of {them}"
        raise ConfigError("sha256", config.source.sha256, expected)
    return {name: stored for path in paths for name, stored in header(config, path).items()}


def header(config: ModelConfig, path: Path) -> dict[str, Stored]:
    """Read the header: 8 bytes of little-endian length, then JSON with byte offsets."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            content = json.loads(file.read(min(length, path.stat().st_size)))
        content.pop("__metadata__", None)
        spans = {name: tensor["data_offsets"] for name, tensor in content.items()}
        whole = 8 + length + max((end for _, end in spans.values()), default=0)
        if path.stat().st_size != whole:
            raise ValueError(f"it has {path.stat().st_size} bytes and should have {whole}")
        return {
            name: Stored(
                str(tensor["dtype"]), tuple(tensor["shape"]), spans[name][1] - spans[name][0]
            )
            for name, tensor in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        problem = f"a safetensors file; {path} is none: {error}"
        raise ConfigError("path", str(config.source.path), problem) from None


def read(path: Path) -> dict[str, Array]:
    """All arrays of a safetensors file, on the host."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path}: {error}") from error


def fill(build: Callable[[nnx.Rngs], nnx.Module], arrays: Mapping[str, Array]) -> tuple[Any, Any]:
    """Build an NNX module without computing anything and put `arrays` into it.

    `arrays` is keyed by the module's own paths joined with dots (`layers.0.linear.kernel`).
    Building a module for real compiles some twenty little random-number programs (2 s cold), so it
    is built abstractly. Returns `(graphdef, params)`; `params` is a plain nested dict. Raises
    `LoadError` for an array that is missing, surplus, or of another shape.
    """
    from flax import nnx

    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    flat = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    missing, surplus = flat.keys() - arrays.keys(), arrays.keys() - flat.keys()
    if missing or surplus:
        found = f"missing {sorted(missing)}, surplus {sorted(surplus)}"
        raise LoadError(f"the weights do not fit the module: {found}")
    params: dict[Any, Any] = {}
    for name, (path, leaf) in flat.items():
        if arrays[name].shape != leaf.shape:
            raise LoadError(f"{name} is {arrays[name].shape}, the module expects {leaf.shape}")
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = arrays[name]
    return graphdef, params
