"""From Hugging Face's names to ours: every weight goes to one place, whatever its age."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.models.families.bert.checkpoint import rename
from engine.models.tensors import Array

LAYERS = 2


@pytest.fixture
def theirs(tiny_bert: Any) -> dict[str, Array]:
    """The tiny BERT's weights."""
    tensors: dict[str, Array] = tiny_bert.tensors()
    return tensors


def assert_equal(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        ("word.embedding", "embeddings.word_embeddings.weight"),
        ("position.embedding", "embeddings.position_embeddings.weight"),
        ("token_type.embedding", "embeddings.token_type_embeddings.weight"),
        ("norm.scale", "embeddings.LayerNorm.weight"),
        ("norm.bias", "embeddings.LayerNorm.bias"),
        ("layers.1.attended.bias", "encoder.layer.1.attention.output.dense.bias"),
        ("layers.1.attended_norm.scale", "encoder.layer.1.attention.output.LayerNorm.weight"),
        ("layers.1.attended_norm.bias", "encoder.layer.1.attention.output.LayerNorm.bias"),
        ("layers.0.up.bias", "encoder.layer.0.intermediate.dense.bias"),
        ("layers.0.down.bias", "encoder.layer.0.output.dense.bias"),
        ("layers.0.down_norm.scale", "encoder.layer.0.output.LayerNorm.weight"),
        ("layers.0.down_norm.bias", "encoder.layer.0.output.LayerNorm.bias"),
    ],
)
def test_a_weight_that_is_only_renamed(theirs: dict[str, Array], ours: str, name: str) -> None:
    np.testing.assert_array_equal(rename(theirs, LAYERS)[ours], theirs[name])


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        ("layers.0.attended.kernel", "encoder.layer.0.attention.output.dense.weight"),
        ("layers.1.up.kernel", "encoder.layer.1.intermediate.dense.weight"),
        ("layers.1.down.kernel", "encoder.layer.1.output.dense.weight"),
    ],
)
def test_a_dense_weight_is_transposed(theirs: dict[str, Array], ours: str, name: str) -> None:
    np.testing.assert_array_equal(rename(theirs, LAYERS)[ours], theirs[name].T)


def test_query_key_and_value_stand_side_by_side_in_one(theirs: dict[str, Array]) -> None:
    ours = rename(theirs, LAYERS)
    kernel, bias = ours["layers.1.qkv.kernel"], ours["layers.1.qkv.bias"]
    for place, name in enumerate(("query", "key", "value")):
        columns = slice(32 * place, 32 * (place + 1))
        stem = f"encoder.layer.1.attention.self.{name}"
        np.testing.assert_array_equal(kernel[:, columns], theirs[f"{stem}.weight"].T)
        np.testing.assert_array_equal(bias[columns], theirs[f"{stem}.bias"])


def test_a_checkpoint_with_the_prefix_of_a_larger_model_is_the_same(
    theirs: dict[str, Array],
) -> None:
    prefixed = {f"bert.{name}": array for name, array in theirs.items()}
    assert_equal(rename(prefixed, LAYERS), rename(theirs, LAYERS))


def test_a_checkpoint_that_says_gamma_and_beta_is_the_same(theirs: dict[str, Array]) -> None:
    early = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in theirs.items()
    }
    assert early.keys() != theirs.keys()
    assert_equal(rename(early, LAYERS), rename(theirs, LAYERS))


def test_every_weight_arrives_once_and_only_the_pooler_is_left_out(
    theirs: dict[str, Array],
) -> None:
    ours = rename(theirs, LAYERS)
    pooler = sum(array.size for name, array in theirs.items() if name.startswith("pooler."))
    total = sum(array.size for array in theirs.values())
    assert sum(array.size for array in ours.values()) == total - pooler


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("embeddings.word_embeddings.weight", {"word.embedding"}),
        ("encoder.layer.0.output.dense.weight", {"layers.0.down.kernel"}),
        ("encoder.layer.1.attention.self.key.bias", {"layers.1.qkv.bias"}),
    ],
)
def test_a_missing_weight_is_missing_here_too(
    theirs: dict[str, Array], name: str, ours: set[str]
) -> None:
    whole = rename(theirs, LAYERS)
    del theirs[name]
    assert whole.keys() - rename(theirs, LAYERS).keys() == ours


def test_what_comes_out_is_float32_and_contiguous_whatever_came_in(
    theirs: dict[str, Array],
) -> None:
    half = {name: array.astype(np.float16) for name, array in theirs.items()}
    for name, array in rename(half, LAYERS).items():
        assert array.dtype == np.float32, name
        assert array.flags["C_CONTIGUOUS"], name
