"""The modules of docs/models.md are saved, checked and served as they stand there."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from engine.errors import InvalidRequest
from engine.models.config import ModelConfig, Source
from engine.serving.examination import examine

PAGE: Final = Path(__file__).parents[3] / "docs" / "models.md"
MODULES: Final = dict(
    re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
)
X: Final = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
HIDDEN: Final = 6

Import = Callable[[str], ModuleType]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Imports a module of the page, written beside a config."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    def load(name: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(MODULES[name], encoding="utf-8")
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield load
    for name in MODULES:
        sys.modules.pop(name, None)


def linen(code: Any, path: str) -> Any:
    network = code.Classifier(HIDDEN)
    variables = network.init(jax.random.key(1), jnp.ones((1, 4)))
    code.save(path, variables)
    return lambda x: network.apply(variables, x)


def nnx_by_orbax(code: Any, path: str) -> Any:
    network = code.Classifier(HIDDEN, nnx.Rngs(1))
    network.norm.mean[...] = jnp.full(HIDDEN, 0.5)
    code.save(path, network)
    network.eval()
    return network


def by_equinox(code: Any, path: str) -> Any:
    network = code.build(HIDDEN, jax.random.key(1))
    assert isinstance(network, equinox.Module)
    code.save(path, network)
    return jax.vmap(network)


CLASSIFIERS: Final = {
    "nnx_model": nnx_by_orbax,
    "linen_model": linen,
    "equinox_model": by_equinox,
}


def test_every_module_of_the_page_is_tested() -> None:
    assert MODULES.keys() == {"bag_model", *CLASSIFIERS}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_answers_as_its_network_did_when_it_was_saved(
    module: Import, serving: Any, tmp_path: Path, name: str
) -> None:
    path = str(tmp_path / "weights")
    network = CLASSIFIERS[name](module(name), path)
    config = ModelConfig(
        name=name,
        source=Source(factory=f"{name}:create", options={"path": path, "hidden": HIDDEN}),
        rows=(1, 4),
        base=tmp_path,
    )
    assert examine(config).weights_bytes
    with serving(config) as client:
        assert client.ready, client.endpoint(name).snapshot().reason
        answer = client.infer(name, {"x": X})["logits"]
    np.testing.assert_allclose(answer, network(X), atol=1e-5)


def test_the_plain_function_answers_and_refuses_what_its_table_does_not_have(
    module: Import, serving: Any, tmp_path: Path
) -> None:
    path = str(tmp_path / "table.npz")
    table = np.random.default_rng(4).normal(size=(500, 3)).astype(np.float32)
    module("bag_model").save(path, table)
    config = ModelConfig(
        name="bag",
        source=Source(factory="bag_model:create", options={"path": path}),
        rows=(1, 2),
        lengths=(4, 8),
        base=tmp_path,
    )
    examine(config)
    with serving(config) as client:
        assert client.ready, client.endpoint("bag").snapshot().reason
        ids, mask = np.array([[0, 499, 7]]), np.array([[1, 1, 0]], np.float32)
        answer = client.infer("bag", {"ids": ids, "mask": mask})["mean"]
        np.testing.assert_allclose(answer, table[[0, 499]].mean(axis=0)[None], atol=1e-6)
        with pytest.raises(InvalidRequest, match=r"ids: value 500000 in row 0 .* 0 to 499"):
            client.infer("bag", {"ids": ids + 500_000, "mask": mask})
