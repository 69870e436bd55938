"""The way from a config to a family, and what a family that fails looks like from outside."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from engine.errors import ConfigError, ModelFailed
from engine.models import registry as models
from engine.models.config import ModelConfig, Source
from engine.models.model import ModelState
from engine.models.registry import FAMILIES


def config_of(source: Source, **changes: Any) -> ModelConfig:
    return ModelConfig(name="some", source=source, **changes)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_check_and_load(name: str) -> None:
    family = models.family(config_of(Source(family=name, path="weights")))
    assert family is import_module(FAMILIES[name])
    assert callable(family.check)
    assert callable(family.load)


def test_a_config_with_a_factory_goes_to_the_factory() -> None:
    family = models.family(config_of(Source(factory="module:function")))
    assert family is import_module("engine.models.factory")


@pytest.mark.parametrize("step", [models.family, models.check, models.load])
def test_an_unknown_family_is_refused_with_the_known_ones(step: Any) -> None:
    with pytest.raises(ConfigError, match=r"^family: got 'bart', expected one of bert-embedding, "):
        step(config_of(Source(family="bart", path="weights")))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        pytest.param("package:no_such_package/model", "an installed package", id="package"),
        pytest.param("/nowhere/weights", "an existing file or directory", id="path"),
    ],
)
def test_no_family_loads_what_is_not_there(name: str, path: str, said: str) -> None:
    config = config_of(Source(family=name, path=path))
    for step in (models.check, models.load):
        with pytest.raises(ConfigError, match=said) as raised:
            step(config)
        assert raised.value.key == "path"
        assert raised.value.value == path


def test_a_family_that_cannot_load_fails_its_model_and_every_request_gets_the_reason(
    serving: Any,
) -> None:
    with serving(config_of(Source(family="digits", path="/nowhere/weights"))) as client:
        snapshot = client.endpoint("some").snapshot()
        assert snapshot.state is ModelState.FAILED
        assert (snapshot.reason or "").startswith("ConfigError: path: got '/nowhere/weights'")
        assert not client.ready
        with pytest.raises(ModelFailed, match="/nowhere/weights is not there"):
            client.infer("some", {})
