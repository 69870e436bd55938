"""Weights files: found, checked, read, and put into a module."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from engine.compilation.guard import watch_compiles
from engine.errors import ConfigError, LoadError
from engine.models import weights
from engine.models.config import ModelConfig, Source
from engine.models.tensors import Array

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(5, dtype=np.int16)}
NBYTES = 6 * 4 + 5 * 2


def config_of(
    path: Path | str, *, base: Path | None = None, sha256: str | None = None
) -> ModelConfig:
    source = Source(family="digits", path=str(path), sha256=sha256)
    return ModelConfig(name="some", source=source, base=base or Path())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good weights file, with metadata as the published ones have."""
    path = tmp_path / "weights.safetensors"
    save_file(ARRAYS, path, metadata={"format": "np"})
    return path


# --- where they are -----------------------------------------------------------------------------


def test_a_relative_path_starts_from_the_config_s_directory(file: Path) -> None:
    found = weights.resolve(config_of(file.name, base=file.parent))
    assert found == file


def test_an_absolute_path_is_taken_as_it_is(file: Path) -> None:
    assert weights.resolve(config_of(file, base=Path("/elsewhere"))) == file


def test_a_tilde_is_the_home_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    found = weights.resolve(config_of(f"~/{file.name}", base=Path("/elsewhere")))
    assert found == file


def test_a_package_s_data_is_found_without_importing_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "carries_data" / "model"
    data.mkdir(parents=True)
    (tmp_path / "carries_data" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert weights.resolve(config_of("package:carries_data/model")) == data
    assert "carries_data" not in sys.modules


@pytest.mark.parametrize(
    ("path", "said"),
    [
        pytest.param("package:no_such_package/x", "'no_such_package'", id="no-such-package"),
        pytest.param("package:no-name/x", "an installed package 'no-name'", id="not-a-name"),
        pytest.param("package:", "an installed package ''", id="no-name-at-all"),
        pytest.param("package:bisect/x", "an installed package 'bisect'", id="a-mere-module"),
        pytest.param("package:engine/nothing", "engine/nothing is not there", id="nothing-inside"),
        pytest.param("nowhere.safetensors", "/base/nowhere.safetensors is not there", id="no-file"),
    ],
)
def test_what_is_not_there_is_named(path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        weights.resolve(config_of(path, base=Path("/base")))
    assert (raised.value.key, raised.value.value) == ("path", path)


# --- whether they are the right ones ------------------------------------------------------------


def test_a_good_file_says_how_many_bytes_its_arrays_have(file: Path) -> None:
    assert weights.check_file(config_of(file), file) == NBYTES


def test_the_pinned_checksum_passes(file: Path) -> None:
    pinned = hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights.check_file(config_of(file, sha256=pinned), file) == NBYTES


def test_another_checksum_is_refused_with_the_one_that_came(file: Path) -> None:
    came = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match=f"^sha256: got '{'0' * 64}', expected {came}"):
        weights.check_file(config_of(file, sha256="0" * 64), file)


def test_the_checksum_of_several_files_is_that_of_all_of_them_in_a_row(
    file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "more.safetensors"
    save_file({"c": np.zeros(3, np.float16)}, other)
    pinned = hashlib.sha256(file.read_bytes() + other.read_bytes()).hexdigest()
    config = config_of(file, sha256=pinned)
    found = weights.check_files(config, [file, other])
    assert found["c"] == weights.Stored("F16", (3,), 6)
    assert list(found) == ["a", "b", "c"]
    with pytest.raises(ConfigError, match=r"^sha256: "):
        weights.check_files(config, [other, file])


def test_a_directory_is_no_weights_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"expected weights in {tmp_path}"):
        weights.check_file(config_of(tmp_path), tmp_path)


def with_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


BROKEN = {
    "empty": b"",
    "shorter-than-a-length": b"1234567",
    "no-json": with_header(b"hello"),
    "no-text": with_header(b"\xff\xfe\xfd"),
    "a-header-longer-than-the-file": struct.pack("<Q", 2**60) + b"{}x",
    "a-list": with_header(b"[]"),
    "a-number": with_header(b"3"),
    "an-array-that-is-a-list": with_header(b'{"a": []}'),
    "no-offsets": with_header(b'{"a": {}}'),
    "offsets-of-text": with_header(b'{"a": {"data_offsets": ["0", "4"]}}'),
    "three-offsets": with_header(b'{"a": {"data_offsets": [0, 4, 8]}}'),
    "a-pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_header_is_refused_and_the_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"expected a safetensors file; {path} is none: "):
        weights.check_file(config_of(path), path)
    with pytest.raises(LoadError, match=str(path)):
        weights.read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "__metadata__", "data_offsets"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(content=st.binary(max_size=64) | JSON.map(lambda v: with_header(json.dumps(v).encode())))
def test_whatever_a_file_holds_it_is_weights_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.safetensors"
    path.write_bytes(content)
    try:
        nbytes = weights.check_file(config_of(path), path)
    except ConfigError:
        return
    assert isinstance(nbytes, int)


# --- reading ------------------------------------------------------------------------------------


def test_what_was_saved_is_read(file: Path) -> None:
    read = weights.read(file)
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


@pytest.mark.parametrize(
    "content", [pytest.param(save(ARRAYS)[:-1], id="cut"), pytest.param(None, id="gone")]
)
def test_a_file_that_cannot_be_read_is_a_load_error_that_names_it(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadError, match=str(path)):
        weights.read(path)


# --- into a module ------------------------------------------------------------------------------


class Pair(nnx.Module):
    """Two linear layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.parts = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)])

    def __call__(self, x: Array) -> Any:
        return self.parts[1](self.parts[0](x))


def pair() -> dict[str, Array]:
    """Weights for `Pair`."""
    return {
        "parts.0.kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "parts.0.bias": np.ones(3, np.float32),
        "parts.1.kernel": np.array([[1], [2], [3]], np.float32),
        "parts.1.bias": np.array([7], np.float32),
    }


def test_weights_get_into_the_module_by_their_names() -> None:
    graphdef, params = weights.fill(Pair, pair())
    answer = nnx.merge(graphdef, params)(np.array([[1, 1]], np.float32))
    # [1, 1] @ [[0, 1, 2], [3, 4, 5]] + 1 = [4, 6, 8]; 4 + 2 * 6 + 3 * 8 + 7 = 47
    assert answer.tolist() == [[47]]


def test_filling_computes_nothing_and_copies_nothing() -> None:
    compiles: list[str] = []
    unwatch = watch_compiles(lambda: compiles.append("compiled"))
    # sizes that nothing else has, so that making them for real would compile
    arrays = {"kernel": np.ones((17, 19), np.float32), "bias": np.ones(19, np.float32)}
    _, params = weights.fill(lambda rngs: nnx.Linear(17, 19, rngs=rngs), arrays)
    unwatch()
    assert compiles == []
    assert params["kernel"] is arrays["kernel"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"parts.1.bias": None},
            r"missing \['parts.1.bias'\], surplus \[\]",
            id="missing",
        ),
        pytest.param(
            {"parts.2.bias": np.ones(1, np.float32)},
            r"missing \[\], surplus \['parts.2.bias'\]",
            id="surplus",
        ),
        pytest.param(
            {"parts.0.kernel": np.ones((3, 2), np.float32)},
            r"parts.0.kernel is \(3, 2\), the module expects \(2, 3\)",
            id="transposed",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(changes: dict[str, Array | None], said: str) -> None:
    arrays = {name: a for name, a in (pair() | changes).items() if a is not None}
    with pytest.raises(LoadError, match=said):
        weights.fill(Pair, arrays)
