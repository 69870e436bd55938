"""The digit classifier: what it knows, what it was shipped with, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from engine.compilation.compiler import JaxCompiler
from engine.errors import ConfigError, InvalidRequest, LoadError
from engine.models import registry as models
from engine.models import weights
from engine.models.config import ModelConfig, Source
from engine.models.families.digit_classifier import DigitClassifier, arrays
from engine.models.families.digits import CLASSES, EXAMPLE
from engine.models.model import ModelState
from engine.scheduling.buckets import Bucket
from engine.serving.client import InProcessClient
from engine.warmup.golden import golden_row
from examples.digits.dataset import held_out_split

SHIPPED = Path(__file__).parents[4] / "examples/digits/digits.safetensors"


def config_of(path: Path = SHIPPED, **changes: Any) -> ModelConfig:
    source = Source(family="digits", path=str(path))
    fields = {"name": "digits", "source": source, "rows": (1, 16, 64)}
    return ModelConfig(**(fields | changes))


@pytest.fixture(scope="module")
def shipped(serving: Any) -> Iterator[InProcessClient]:
    """The demo's digits."""
    with serving(config_of()) as client:
        assert client.ready, client.endpoint("digits").snapshot().reason
        yield client


def test_the_shipped_weights_read_97_of_100_digits_they_never_saw(shipped: InProcessClient) -> None:
    _, held_out = held_out_split()
    answer = shipped.infer("digits", {"image": held_out.images})
    assert len(held_out.labels) == 450
    assert (answer["label"] == held_out.labels).mean() >= 0.97


def test_the_label_is_the_most_probable_class_and_probabilities_add_up(
    shipped: InProcessClient,
) -> None:
    _, held_out = held_out_split()
    answer = shipped.infer("digits", {"image": held_out.images[:20]})
    assert answer["label"].dtype == np.int64
    assert answer["probabilities"].shape == (20, CLASSES)
    np.testing.assert_array_equal(answer["label"], answer["probabilities"].argmax(axis=1))
    np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1, rtol=0, atol=1e-6)


def test_the_example_to_try_is_read_as_the_seven_that_it_shows(shipped: InProcessClient) -> None:
    example = shipped.endpoint("digits").interface.signature.example
    assert example == {"image": [EXAMPLE]}
    answer = shipped.infer("digits", {"image": np.array([EXAMPLE], np.float32)})
    assert answer["label"].tolist() == [7]


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros((1, 64), np.float32), id="flat"),
        pytest.param(np.zeros((1, 8, 8), np.float64), id="doubles"),
        pytest.param(np.zeros((0, 8, 8), np.float32), id="no-rows"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(shipped: InProcessClient, image: np.ndarray) -> None:
    with pytest.raises(InvalidRequest, match=r"^image: "):
        shipped.infer("digits", {"image": image})


def test_what_a_trained_classifier_saves_is_what_it_is_served_with(tmp_path: Path) -> None:
    module = DigitClassifier(nnx.Rngs(5))
    path = tmp_path / "mine.safetensors"
    save_file(arrays(module), path)
    model = models.load(config_of(path))
    compiler = JaxCompiler(model)
    executable = compiler.compile(Bucket(3))
    images = np.random.default_rng(0).integers(0, 17, (3, 8, 8)).astype(np.float32)
    logits = np.asarray(module(images), np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    wanted = powers / powers.sum(axis=1, keepdims=True)
    got = executable.launch(compiler.weights, {"image": images}).result()["probabilities"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def test_the_shipped_weights_have_the_names_of_the_module() -> None:
    saved = weights.read(SHIPPED)
    fresh = arrays(DigitClassifier(nnx.Rngs(0)))
    assert {name: array.shape for name, array in saved.items()} == {
        name: array.shape for name, array in fresh.items()
    }


def test_its_golden_rows_look_like_images() -> None:
    model = models.load(config_of())
    row = golden_row(model.signature, model.program, np.random.default_rng(0), None)
    assert row["image"].shape == (1, 8, 8)
    assert row["image"].dtype == np.float32
    assert 0 <= row["image"].min() < row["image"].max() <= 16


def test_the_check_says_what_it_found() -> None:
    checked = models.check(config_of())
    assert checked.description == "convolutional classifier of 8x8 digits"
    assert checked.weights_bytes == sum(array.nbytes for array in weights.read(SHIPPED).values())


def test_weights_of_something_else_fail_the_model_and_are_named(
    tmp_path: Path, serving: Any
) -> None:
    path = tmp_path / "other.safetensors"
    others = weights.read(SHIPPED)
    others["conv3.bias"] = others.pop("conv2.bias")
    save_file(others, path)
    with pytest.raises(LoadError, match=r"missing \['conv2.bias'\], surplus \['conv3.bias'\]"):
        models.load(config_of(path))
    with serving(config_of(path)) as client:
        snapshot = client.endpoint("digits").snapshot()
        assert snapshot.state is ModelState.FAILED
        assert "conv2.bias" in (snapshot.reason or "")


def test_lengths_are_refused_because_an_image_has_none(serving: Any) -> None:
    with serving(config_of(lengths=(8,))) as client:
        snapshot = client.endpoint("digits").snapshot()
        assert snapshot.state is ModelState.FAILED
        assert "no input has a dynamic axis" in (snapshot.reason or "")


def test_a_checksum_that_is_not_that_of_the_file_fails_the_check() -> None:
    source = Source(family="digits", path=str(SHIPPED), sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"^sha256: "):
        models.check(config_of(source=source))
