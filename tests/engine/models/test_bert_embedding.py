"""The sentence encoder against a BERT in plain numpy, and what it refuses to load."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import models
from engine.buckets import Bucket
from engine.config import ModelConfig
from engine.errors import ConfigError, InvalidRequest, LoadError
from engine.executable import Compiler
from engine.model import Model
from engine.spec import Array
from engine.state import ModelState
from engine.testing import texts

# --- a BERT in plain numpy, written from the paper; one row, no padding, float64 ----------------


def norm(x: Array, scale: Array, bias: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * scale + bias


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
}


def hidden_states(tensors: Mapping[str, Array], ids: Array, heads: int, activation: str) -> Array:
    """`ids` [L] -> [L, D]."""
    wide = {name: array.astype(np.float64) for name, array in tensors.items()}

    def dense(x: Array, name: str) -> Array:
        return x @ wide[f"{name}.weight"].T + wide[f"{name}.bias"]

    def normed(x: Array, name: str) -> Array:
        return norm(x, wide[f"{name}.weight"], wide[f"{name}.bias"])

    x = wide["embeddings.word_embeddings.weight"][ids]
    x = x + wide["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + wide["embeddings.token_type_embeddings.weight"][0]
    x = normed(x, "embeddings.LayerNorm")
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            np.split(dense(x, f"{at}.attention.self.{name}"), heads, axis=-1)
            for name in ("query", "key", "value")
        )
        mixed = [
            softmax(q @ k.T / math.sqrt(q.shape[-1])) @ v
            for q, k, v in zip(query, key, value, strict=True)
        ]
        attended = dense(np.concatenate(mixed, axis=-1), f"{at}.attention.output.dense")
        x = normed(x + attended, f"{at}.attention.output.LayerNorm")
        up = ACTIVATIONS[activation](dense(x, f"{at}.intermediate.dense"))
        x = normed(x + dense(up, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


POOLINGS: Mapping[str, Callable[[Array], Array]] = {
    "pooling_mode_mean_tokens": lambda x: x.mean(axis=0),
    "pooling_mode_cls_token": lambda x: x[0],
    "pooling_mode_max_tokens": lambda x: x.max(axis=0),
}

# --- the model against it -----------------------------------------------------------------------

TEXTS = ("full to the brim", "", "brims is a full brim goblet to the brim")
TOKENS = ([2, 4, 5, 6, 7, 3], [2, 3], [2, 7, 10, 9, 8, 4, 7, 1, 5, 6, 7, 3])


def embed(model: Model, length: int = 16) -> Array:
    """The embeddings of `TEXTS` in one bucket, padded to `length`."""
    assert model.preprocess is not None
    prepared = model.preprocess(texts(*TEXTS)).inputs
    staged = {
        name: np.pad(array, ((0, 0), (0, length - array.shape[1])))
        for name, array in prepared.items()
    }
    executable = Compiler(model).compile(Bucket(len(TEXTS), length))
    return executable.launch(staged).result()["embedding"]


def expected(tensors: Mapping[str, Array], pooling: str, normalize: bool, act: str) -> Array:
    rows = [POOLINGS[pooling](hidden_states(tensors, np.array(t), 4, act)) for t in TOKENS]
    pooled = np.stack(rows)
    return pooled / np.linalg.norm(pooled, axis=-1, keepdims=True) if normalize else pooled


@pytest.mark.parametrize(
    ("pooling", "normalize", "activation"),
    [
        ("pooling_mode_mean_tokens", True, "gelu"),
        ("pooling_mode_mean_tokens", False, "relu"),
        ("pooling_mode_cls_token", False, "gelu_new"),
        ("pooling_mode_max_tokens", False, "gelu"),
        ("pooling_mode_max_tokens", True, "gelu"),
    ],
)
def test_the_embedding_is_that_of_the_paper(
    tiny_bert: Any, tmp_path: Path, pooling: str, normalize: bool, activation: str
) -> None:
    root = tiny_bert.write(
        tmp_path / "model",
        config={"hidden_act": activation},
        pooling=pooling,
        normalize=normalize,
    )
    got = embed(models.load(tiny_bert.served(root)))
    wanted = expected(tiny_bert.tensors(), pooling, normalize, activation)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)
    assert np.ptp(wanted, axis=0).max() > 0.1, "different sentences differ"


def test_without_modules_it_is_the_plain_mean(tiny_bert: Any, tmp_path: Path) -> None:
    root = tiny_bert.write(tmp_path / "model", pooling=None)
    got = embed(models.load(tiny_bert.served(root)))
    wanted = expected(tiny_bert.tensors(), "pooling_mode_mean_tokens", False, "gelu")
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)


def test_a_checkpoint_of_another_age_and_a_larger_model_serves_the_same(
    tiny_bert: Any, tiny_directory: Path, tmp_path: Path
) -> None:
    old = {
        "bert." + name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): array
        for name, array in tiny_bert.tensors().items()
    }
    old["cls.predictions.bias"] = np.zeros(11, np.float32)
    root = tiny_bert.write(tmp_path / "model", tensors=old)
    one, other = (models.load(tiny_bert.served(path)) for path in (tiny_directory, root))
    np.testing.assert_array_equal(embed(one), embed(other))


# --- served -------------------------------------------------------------------------------------


def test_a_sentence_the_empty_one_and_one_that_is_no_text(
    tiny_bert: Any, tiny_directory: Path, serving: Any
) -> None:
    wanted = expected(tiny_bert.tensors(), "pooling_mode_mean_tokens", True, "gelu")
    with serving(tiny_bert.served(tiny_directory, rows=(1, 2))) as engine:
        assert engine.ready, engine.stats("tiny").reason
        for text, row in zip(TEXTS, wanted, strict=True):
            got = engine.infer("tiny", texts(text))["embedding"]
            np.testing.assert_allclose(got, row[None], rtol=0, atol=2e-5)
        with pytest.raises(InvalidRequest, match="text: row 2 is not UTF-8"):
            engine.infer("tiny", texts("full", "", b"\xc3"))
        assert engine.stats("tiny").counts.failed == 0, "it never reached the queue"
        example = engine.model("tiny").example
        assert example is not None
        assert engine.infer("tiny", texts(*example["text"]))["embedding"].shape == (1, 32)


def test_it_says_what_it_takes_and_gives(tiny_bert: Any, tiny_directory: Path) -> None:
    model = models.load(tiny_bert.served(tiny_directory))
    assert [(s.name, s.datatype, s.wire_shape) for s in model.inputs] == [("text", "BYTES", (-1,))]
    assert [(s.name, s.datatype, s.wire_shape) for s in model.outputs] == [
        ("embedding", "FP32", (-1, 32))
    ]
    assert model.dynamic
    assert model.max_length == 16


def test_its_golden_rows_are_inside_the_vocabulary_and_have_no_padding(
    tiny_bert: Any, tiny_directory: Path
) -> None:
    row = models.load(tiny_bert.served(tiny_directory)).golden_row(np.random.default_rng(0), 16)
    assert row["ids"].shape == row["mask"].shape == (1, 16)
    assert 0 <= row["ids"].min() <= row["ids"].max() < 11
    assert row["mask"].all()


# --- checked, without a device ------------------------------------------------------------------


def test_the_check_says_what_it_found(tiny_bert: Any, tiny_directory: Path) -> None:
    checked = models.check(tiny_bert.served(tiny_directory))
    assert checked.description == "BERT, 2 layers of 32, mean pooling, 16 tokens"
    assert checked.weights_bytes == sum(array.nbytes for array in tiny_bert.tensors().values())


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        pytest.param((), "lengths: got .*, expected bucket lengths in tokens", id="none"),
        pytest.param((8, 17), r"lengths: got \[8, 17\], expected 3 to 16 tokens", id="too-long"),
        pytest.param((1, 2), r"lengths: got \[1, 2\], expected 3 to 16 tokens", id="no-word-fits"),
    ],
)
def test_lengths_must_be_given_and_within_the_limit(
    tiny_bert: Any, tiny_directory: Path, lengths: tuple[int, ...], said: str
) -> None:
    config = tiny_bert.served(tiny_directory, lengths=lengths)
    for step in (models.check, models.load):
        with pytest.raises(ConfigError, match=said):
            step(config)


# --- weights that do not fit --------------------------------------------------------------------


WORDS = "embeddings.word_embeddings.weight"
DOWN = "encoder.layer.1.output.dense.weight"
QUERY = "encoder.layer.0.attention.self.query.bias"


@pytest.mark.parametrize(
    ("shapes", "config", "said"),
    [
        pytest.param({WORDS: None}, {}, r"missing \['word.embedding'\]", id="missing"),
        pytest.param(
            {QUERY: None}, {}, r"missing \['layers.0.qkv.bias'\]", id="a-missing-part-of-one"
        ),
        pytest.param(
            {WORDS: (10, 32)},
            {},
            r"word.embedding is \(10, 32\), .* expects \(11, 32\)",
            id="few-words",
        ),
        pytest.param(
            {DOWN: (31, 48)},
            {},
            r"layers.1.down.kernel is \(48, 31\), .* \(48, 32\)",
            id="a-narrow-layer",
        ),
        pytest.param(
            {},
            {"num_hidden_layers": 3},
            "missing .*'layers.2.attended.bias'",
            id="fewer-layers-than-stated",
        ),
    ],
)
def test_weights_that_do_not_fit_fail_the_model_and_are_named(
    tiny_bert: Any,
    tmp_path: Path,
    serving: Any,
    shapes: Mapping[str, tuple[int, ...] | None],
    config: Mapping[str, Any],
    said: str,
) -> None:
    tensors = tiny_bert.tensors()
    for name, shape in shapes.items():
        del tensors[name]
        if shape is not None:
            tensors[name] = np.ones(shape, np.float32)
    root = tiny_bert.write(tmp_path / "model", tensors=tensors, config=config)
    served: ModelConfig = tiny_bert.served(root)
    with pytest.raises(LoadError, match=said):
        models.load(served)
    with serving(served) as engine:
        assert engine.stats("tiny").state is ModelState.FAILED
        assert (engine.stats("tiny").reason or "").startswith("LoadError: ")
