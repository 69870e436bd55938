"""The sentence encoder against a BERT in plain numpy, and what it refuses to load."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.compilation.compiler import JaxCompiler
from engine.errors import ConfigError, InvalidRequest
from engine.models import registry as models
from engine.models.config import ModelConfig
from engine.models.model import Model, ModelState
from engine.models.tensors import Array
from engine.scheduling.buckets import Bucket
from engine.testing import texts
from engine.warmup.golden import golden_row

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


def hidden_states(
    tensors: Mapping[str, Array], ids: Array, head_cache: int, activation: str
) -> Array:
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
            np.split(dense(x, f"{at}.attention.self.{name}"), head_cache, axis=-1)
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
    prepared = model.processor.prepare(texts(*TEXTS)).inputs
    staged = {
        name: np.pad(array, ((0, 0), (0, length - array.shape[1])))
        for name, array in prepared.items()
    }
    compiler = JaxCompiler(model)
    executable = compiler.compile(Bucket(len(TEXTS), length))
    return executable.launch(compiler.weights, staged).result()["embedding"]


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
    with serving(tiny_bert.served(tiny_directory, rows=(1, 2))) as client:
        assert client.ready, client.endpoint("tiny").snapshot().reason
        for text, row in zip(TEXTS, wanted, strict=True):
            got = client.infer("tiny", texts(text))["embedding"]
            np.testing.assert_allclose(got, row[None], rtol=0, atol=2e-5)
        with pytest.raises(InvalidRequest, match="text: row 2 is not UTF-8"):
            client.infer("tiny", texts("full", "", b"\xc3"))
        assert client.endpoint("tiny").snapshot().activity.counts.failed == 0, (
            "it never reached the queue"
        )
        example = client.endpoint("tiny").interface.signature.example
        assert example is not None
        assert client.infer("tiny", texts(*example["text"]))["embedding"].shape == (1, 32)


def test_it_says_what_it_takes_and_gives(tiny_bert: Any, tiny_directory: Path) -> None:
    signature = models.load(tiny_bert.served(tiny_directory)).signature
    inputs = [(spec.name, spec.datatype, spec.wire_shape) for spec in signature.inputs]
    outputs = [(spec.name, spec.datatype, spec.wire_shape) for spec in signature.outputs]
    assert inputs == [("text", "BYTES", (-1,))]
    assert outputs == [("embedding", "FP32", (-1, 32))]
    assert signature.dynamic
    assert signature.max_length == 16


def test_its_golden_rows_are_inside_the_vocabulary_and_have_no_padding(
    tiny_bert: Any, tiny_directory: Path
) -> None:
    model = models.load(tiny_bert.served(tiny_directory))
    row = golden_row(model.signature, model.program, np.random.default_rng(0), 16)
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
        pytest.param({WORDS: None}, {}, rf"'missing': \['{WORDS}'\]", id="missing"),
        pytest.param({QUERY: None}, {}, rf"'missing': \['{QUERY}'\]", id="a-missing-part"),
        pytest.param(
            {WORDS: (10, 32)}, {}, rf"got \[10, 32\], expected \[11, 32\] .*{WORDS}", id="few-words"
        ),
        pytest.param({DOWN: (31, 48)}, {}, rf"got \[31, 48\], .* '{DOWN}'", id="a-narrow-layer"),
        pytest.param(
            {},
            {"num_hidden_layers": 3},
            "'missing': .*'encoder.layer.2.attention.output.LayerNorm.bias'",
            id="fewer-layers-than-stated",
        ),
        pytest.param(
            {},
            {"num_hidden_layers": 1},
            "'unknown': .*'encoder.layer.1.attention.output.LayerNorm.bias'",
            id="more-layers-than-stated",
        ),
        pytest.param(
            {"encoder.layer.0.output.dense.weight_scale": (32,)},
            {},
            r"'unknown': \['encoder.layer.0.output.dense.weight_scale'\]",
            id="a-scale-of-quantized-weights",
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
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.ones(shape, np.float32)
    root = tiny_bert.write(tmp_path / "model", tensors=tensors, config=config)
    served: ModelConfig = tiny_bert.served(root)
    for step in (models.check, models.load):
        with pytest.raises(ConfigError, match=said):
            step(served)
    with serving(served) as client:
        assert client.endpoint("tiny").snapshot().state is ModelState.FAILED
        assert (client.endpoint("tiny").snapshot().reason or "").startswith("ConfigError: ")


def test_weights_of_integers_are_refused_although_they_could_be_converted(
    tiny_bert: Any, tmp_path: Path
) -> None:
    tensors = tiny_bert.tensors() | {DOWN: np.ones((32, 48), np.int8)}
    served = tiny_bert.served(tiny_bert.write(tmp_path / "model", tensors=tensors))
    with pytest.raises(ConfigError, match=rf"got 'I8', expected one of F64, .* of '{DOWN}'"):
        models.check(served)


def test_a_text_of_no_tokens_is_zeros_alone_and_in_company_and_is_a_golden_row(
    tiny_bert: Any, tmp_path: Path, serving: Any
) -> None:
    root = tiny_bert.write(tmp_path / "model", pooling="pooling_mode_max_tokens")
    path = root / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    said = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (root / "tokenizer_config.json").write_text(json.dumps(said))
    with serving(tiny_bert.served(root, rows=(1, 4))) as client:
        assert client.ready, client.endpoint("tiny").snapshot().reason
        alone = client.infer("tiny", texts(""))["embedding"]
        together = client.infer("tiny", texts("full to the brim", "", "full"))["embedding"]
    np.testing.assert_array_equal(alone, np.zeros((1, 32), np.float32))
    np.testing.assert_array_equal(together[1], alone[0])
    program = models.load(tiny_bert.served(root)).program
    assert program.edges is not None
    (row,) = program.edges(8)
    assert not row["mask"].any()


def test_a_directory_without_a_pooling_module_serves_the_mean_and_says_that_it_guesses(
    tiny_bert: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = tiny_bert.served(tiny_bert.write(tmp_path / "model", pooling=None))
    assert "mean pooling (a guess: the directory has no" in models.check(served).description
    said = models.load(served).signature.properties["description"]
    assert "mean pooling (a guess: the directory has no pooling module)" in said
    assert "model tiny: mean pooling is a guess" in caplog.text
