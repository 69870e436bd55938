"""A model of one's own: found beside the config, called with its options, and judged."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ConfigError, LoadError
from engine.models import registry as models
from engine.models.config import ModelConfig, Source
from engine.models.model import ModelState

MODULE = '''
"""A module beside a config."""
from engine.models.model import Model
from engine.models.tensors import TensorSpec


def times(factor=2):
    spec = (TensorSpec("x", "FP32", (1,)), )
    return Model(
        apply=lambda params, inputs: {"x": inputs["x"] * params["factor"]},
        params={"factor": __import__("numpy").float32(factor)},
        inputs=spec,
        outputs=spec,
    )


def wrong():
    return {"not": "a model"}


def broken():
    raise RuntimeError("out of paper")


def needs(weights: "str"):
    pass


def forgets():
    times()


number = 3
'''

Configure = Callable[..., ModelConfig]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Makes the config of a factory in `tmp_path`, where `my_models.py` stands."""
    (tmp_path / "my_models.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def make(factory: str, **options: Any) -> ModelConfig:
        source = Source(factory=factory, options=options)
        return ModelConfig(name="mine", source=source, rows=(1, 2), base=tmp_path)

    yield make
    for name in ("my_models", "my_package", "my_package.inside"):
        sys.modules.pop(name, None)


def test_a_module_beside_the_config_is_served_with_its_options(
    configure: Configure, serving: Any
) -> None:
    config = configure("my_models:times", factor=3)
    assert models.check(config).description == "factory my_models:times"
    with serving(config) as client:
        assert client.ready, client.endpoint("mine").snapshot().reason
        answer = client.infer("mine", {"x": np.array([[1], [5]], np.float32)})
        assert answer["x"].tolist() == [[3], [15]]


def test_without_options_the_function_s_own_defaults_hold(configure: Configure) -> None:
    assert models.load(configure("my_models:times")).program.params == {"factor": 2}


def test_the_check_runs_no_code_and_knows_no_size(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text("raise RuntimeError('imported')\n")
    checked = models.check(configure("my_models:times"))
    assert checked.weights_bytes is None
    assert "my_models" not in sys.modules


def test_a_directory_is_put_on_the_path_once(configure: Configure, tmp_path: Path) -> None:
    for _ in range(2):
        models.check(configure("my_models:times"))
        models.load(configure("my_models:times"))
    assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.parametrize(
    "text",
    ["my_models", "my_models.times", "my_models:", ":times", "my models:times", "a:b:c", "a..b:c"],
)
@pytest.mark.parametrize("step", [models.check, models.load])
def test_a_text_that_names_no_function_is_refused(
    configure: Configure, step: Callable[[ModelConfig], Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=r"expected 'package\.module:function'$") as raised:
        step(configure(text))
    assert (raised.value.key, raised.value.value) == ("factory", text)


@pytest.mark.parametrize(
    "module", ["no_such_module", "no_such_package.module", "my_models.inside", "json.no_such"]
)
def test_a_missing_module_is_named_by_the_check(configure: Configure, module: str) -> None:
    with pytest.raises(ConfigError, match=f"expected a module '{module}' that can be imported"):
        models.check(configure(f"{module}:times"))


@pytest.mark.parametrize(
    ("factory", "options", "error", "said"),
    [
        pytest.param(
            "no_such_module:times", {}, ModuleNotFoundError, "no_such_module", id="no-module"
        ),
        pytest.param(
            "my_models:no", {}, LoadError, "my_models has no function 'no'", id="no-function"
        ),
        pytest.param(
            "my_models:number", {}, LoadError, "my_models has no function 'number'", id="a-value"
        ),
        pytest.param(
            "my_models:wrong",
            {},
            LoadError,
            "my_models:wrong returned a dict, not a Model: it returns brim.Model(",
            id="dict",
        ),
        pytest.param(
            "my_models:times",
            {"size": 1},
            LoadError,
            "my_models:times takes (factor=2), but options has 'size'",
            id="an-option-it-does-not-take",
        ),
        pytest.param(
            "my_models:needs",
            {},
            LoadError,
            "my_models:needs takes (weights: 'str'), but options has nothing",
            id="an-option-it-needs",
        ),
        pytest.param(
            "my_models:forgets",
            {},
            LoadError,
            "my_models:forgets returned nothing, not a Model",
            id="nothing",
        ),
        pytest.param("my_models:broken", {}, RuntimeError, "out of paper", id="it-raises"),
    ],
)
def test_a_factory_that_gives_no_model_fails_it_and_says_why(
    configure: Configure,
    serving: Any,
    factory: str,
    options: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    config = configure(factory, **options)
    with pytest.raises(error, match=re.escape(said)):
        models.load(config)
    with serving(config) as client:
        snapshot = client.endpoint("mine").snapshot()
        assert snapshot.state is ModelState.FAILED
        assert (snapshot.reason or "").startswith(f"{error.__name__}: ")
        assert said in (snapshot.reason or "")


def test_the_check_of_a_module_in_a_package_that_cannot_be_imported_is_an_error_not_a_crash(
    configure: Configure, tmp_path: Path
) -> None:
    """To find a module in a package, Python imports the package."""
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('no licence')\n")
    (package / "inside.py").touch()
    with pytest.raises(ConfigError, match=r"'my_package\.inside' .*: no licence"):
        models.check(configure("my_package.inside:times"))
