"""The way from a config to a family, and what a family that fails looks like from outside."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest

from engine.errors import ConfigError, LoadError, ModelFailed
from engine.models import registry as models
from engine.models.config import ModelConfig, Source
from engine.models.model import Model, ModelState, Prepared
from engine.models.processor import HostProcessor
from engine.models.registry import FAMILIES
from engine.models.tensors import LENGTH, TensorSpec
from engine.testing import PUPPET_SPEC_IN, puppet_model

ROOT: Final = Path(__file__).parents[3]


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


def test_lengths_are_refused_where_no_axis_of_the_family_is_dynamic() -> None:
    source = Source(family="digits", path=str(ROOT / "examples/digits/digits.safetensors"))
    assert models.check(config_of(source)).tensors
    with pytest.raises(ConfigError, match=r"lengths: got \[8\], expected none: no input has a dyn"):
        models.check(config_of(source, lengths=(8,)))


# --- what OpenAI's route needs --------------------------------------------------------------------

TEXT = TensorSpec("text", "BYTES")
VECTOR = TensorSpec("embedding", "FP32", (8,))


def host(**_options: Any) -> HostProcessor:
    return HostProcessor(preprocess_ids=lambda rows: Prepared({}))


def load(monkeypatch: pytest.MonkeyPatch, model: Model, **changes: Any) -> Model:
    """Load a model of a factory."""
    monkeypatch.setattr("engine.models.factory._call", lambda *_arguments: model)
    return models.load(config_of(Source(factory="engine.testing:puppet_model"), **changes))


def embedder(*outputs: TensorSpec, **changes: Any) -> Model:
    return puppet_model(
        inputs=(TEXT,), outputs=outputs or (VECTOR,), device_inputs=(PUPPET_SPEC_IN,), **changes
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nope:make", "host 'nope:make' cannot be imported: ModuleNotFoundError: No module named"),
        ("tests.engine.models.test_registry:nope", "host: .*test_registry has no function 'nope'"),
        ("tests.engine.models.test_registry", "host is '.*test_registry', not 'module:function'"),
        (":make", "host is ':make', not 'module:function'"),
    ],
)
def test_a_host_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    with pytest.raises(LoadError, match=problem):
        load(monkeypatch, embedder(host=name))


def test_token_ids_need_a_host_with_a_hook_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = embedder(host="tests.engine.models.test_registry:host")
    assert load(monkeypatch, hosted, token_ids=True).processor.preprocess_ids is not None
    with pytest.raises(ConfigError) as raised:
        load(monkeypatch, embedder(), token_ids=True)
    assert str(raised.value) == (
        "token_ids: got True, expected false: the model's host has no preprocess_ids"
    )


@pytest.mark.parametrize(
    ("outputs", "dimensions", "expected"),
    [
        pytest.param((VECTOR,), (2, 7), None, id="smaller-sizes"),
        pytest.param((VECTOR, TensorSpec("z", "FP32", (2, 2))), (2,), None, id="the-only-vector"),
        pytest.param(
            (VECTOR,), (2, 8), "sizes below 8, that of the output 'embedding'", id="all-of-it"
        ),
        *(
            pytest.param(outputs, (1,), "none: the model does not have one vector output", id=why)
            for why, outputs in {
                "two-vectors": (VECTOR, TensorSpec("z", "FP32", (2,))),
                "whole-numbers": (TensorSpec("z", "INT32", (2,)),),
                "a-matrix": (TensorSpec("z", "FP32", (2, 2)),),
                "any-length": (TensorSpec("z", "FP32", (LENGTH,)),),
            }.items()
        ),
    ],
)
def test_dimensions_need_a_larger_vector(
    monkeypatch: pytest.MonkeyPatch,
    outputs: tuple[TensorSpec, ...],
    dimensions: tuple[int, ...],
    expected: str | None,
) -> None:
    model = embedder(*outputs)
    if expected is None:
        assert load(monkeypatch, model, dimensions=dimensions) is model
        return
    with pytest.raises(ConfigError) as raised:
        load(monkeypatch, model, dimensions=dimensions)
    assert str(raised.value) == f"dimensions: got {list(dimensions)}, expected {expected}"
