"""The family `bert-embedding`: a Hugging Face directory of a BERT-type sentence encoder.

The directory holds config.json, model.safetensors and tokenizer.json, and beside them, as the
sentence-transformers library writes them, modules.json, sentence_bert_config.json and the pooling's
config.json. Input `text` BYTES [rows], output `embedding` FP32 [rows, hidden].

A sentence beyond the limit is cut as the reference does: special tokens stay, the tail goes. The
limit is the model's `max_seq_length`, or the longest bucket if that is shorter. The response then
has the parameters `truncated_rows` ("0,3") and `token_limit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.errors import ConfigError
from engine.models import weights
from engine.models.config import ModelConfig
from engine.models.families.bert_directory import Directory, read_directory, rename
from engine.models.model import Model
from engine.models.processor import HostProcessor
from engine.models.registry import Checked
from engine.models.tensors import LENGTH, Arrays, TensorSpec

if TYPE_CHECKING:
    import jax

WIRE_INPUTS = (TensorSpec("text", "BYTES"),)
SHORTEST = 3  # a sentence's first and last token are special ones; a bucket must hold one more
DEVICE_INPUTS = (
    TensorSpec("ids", "INT32", (LENGTH,)),
    TensorSpec("mask", "INT32", (LENGTH,)),
)


def check(config: ModelConfig) -> Checked:
    """Read the directory's JSON and the weights' header and checksum."""
    return _check(config, read_directory(config))


def _check(config: ModelConfig, directory: Directory) -> Checked:
    weights_bytes = weights.check_file(config, directory.weights)
    if not config.lengths:
        raise ConfigError("lengths", [], "bucket lengths in tokens, like [32, 128]")
    if not SHORTEST <= config.lengths[-1] <= directory.max_length:
        allowed = f"{SHORTEST} to {directory.max_length} tokens for the longest"
        raise ConfigError("lengths", list(config.lengths), allowed)
    shape = directory.shape
    return Checked(
        weights_bytes,
        f"BERT, {shape.layers} layers of {shape.hidden}, {directory.pooling} pooling, "
        f"{directory.max_length} tokens",
        (*DEVICE_INPUTS, _output(directory)),
    )


def _output(directory: Directory) -> TensorSpec:
    return TensorSpec("embedding", "FP32", (directory.shape.hidden,))


def load(config: ModelConfig) -> Model:
    """Build the encoder. The weights stay float32, and products are computed in float32 on every
    device (a GPU would use TF32 by itself, which is 1e-3 away from the reference).
    """
    import jax
    from flax import nnx

    from engine.models.families.bert import SentenceEncoder

    directory = read_directory(config)
    _check(config, directory)
    graphdef, params = weights.fill(
        lambda rngs: SentenceEncoder(directory.shape, directory.pooling, directory.normalize, rngs),
        rename(weights.read(directory.weights), directory.shape.layers),
    )

    def apply(params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("float32"):
            encoder = nnx.merge(graphdef, params)
            return {"embedding": encoder(inputs["ids"], inputs["mask"])}

    def golden(rng: np.random.Generator, length: int | None) -> Arrays:
        return {
            "ids": rng.integers(0, directory.shape.vocabulary, length, dtype=np.int32),
            "mask": np.ones(length or 0, np.int32),
        }

    return Model(
        apply=apply,
        params=params,
        inputs=WIRE_INPUTS,
        outputs=(_output(directory),),
        host=f"{__name__}:host",
        device_inputs=DEVICE_INPUTS,
        golden=golden,
        example={"text": ["full to the brim"]},
        max_length=directory.max_length,
    )


QUICK_BYTES: Final = 1024
"""A text of 20 words takes 40 us, one of so many bytes 160 to 420 us."""


def host(config: ModelConfig) -> HostProcessor:
    """The tokeniser. It needs no weights, so every HTTP process has its own."""
    from engine.models.families.tokenize import Tokenize

    directory = read_directory(config)
    tokenize = Tokenize(directory.tokenizer, min(directory.max_length, config.lengths[-1]))
    return HostProcessor(tokenize, detokenize=tokenize.decode, quick_bytes=QUICK_BYTES)
