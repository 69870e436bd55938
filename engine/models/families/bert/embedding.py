"""The family `bert-embedding`: a Hugging Face directory of a BERT-type sentence encoder.

The directory holds config.json, tokenizer.json and the weights as safetensors, and beside them what
the sentence-transformers library writes: modules.json, the configuration of each module, prompts.
docs/directories.md lists what is used and what is refused. Input `text` BYTES [rows], output
`embedding` FP32 [rows, width].

A sentence beyond the limit is cut as the reference does: special tokens stay, the tail goes. The
limit is the directory's, or the longest bucket if that is shorter. The response then has the
parameters `truncated_rows` (how many), `truncated_row_indices` ("0,3") and `token_limit`. A text of
no tokens, which a tokenizer without special tokens makes of "", is pooled to zeros.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.errors import ConfigError
from engine.models import weights
from engine.models.config import ModelConfig
from engine.models.families.bert import checkpoint
from engine.models.families.bert.directory import Directory, read_directory
from engine.models.model import Model
from engine.models.processor import HostProcessor
from engine.models.registry import Checked
from engine.models.tensors import LENGTH, Arrays, TensorSpec

if TYPE_CHECKING:
    import jax

    from engine.models.families.bert.tokens.vocabulary import Vocabulary

log = logging.getLogger("brim.engine")

WIRE_INPUTS = (TensorSpec("text", "BYTES"),)
DEVICE_INPUTS = (
    TensorSpec("ids", "INT32", (LENGTH,)),
    TensorSpec("mask", "INT32", (LENGTH,)),
)
GUESS: Final = "a guess: the directory has no pooling module"


def check(config: ModelConfig) -> Checked:
    """Read the directory's JSON, the tokenizer, and the weights' headers and checksum."""
    return _check(config, read_directory(config))


def _check(config: ModelConfig, directory: Directory) -> Checked:
    weights_bytes = checkpoint.check(config, directory)
    vocabulary = _vocabulary(directory)
    if config.token_ids and directory.prompt:
        expected = f"false: the directory's prompt {directory.prompt!r} comes before texts, not ids"
        raise ConfigError("token_ids", True, expected)
    if not config.lengths:
        raise ConfigError("lengths", [], "bucket lengths in tokens, like [32, 128]")
    shortest = vocabulary.special_tokens + 1  # the longest bucket must hold a token of the text
    if not shortest <= config.lengths[-1] <= directory.max_length:
        allowed = f"{shortest} to {directory.max_length} tokens for the longest"
        raise ConfigError("lengths", list(config.lengths), allowed)
    return Checked(weights_bytes, _described(directory), (*DEVICE_INPUTS, _output(directory)))


def _vocabulary(directory: Directory) -> Vocabulary:
    from engine.models.families.bert.tokens import vocabulary

    return vocabulary.build(directory)


def _described(directory: Directory) -> str:
    shape, head = directory.shape, directory.head
    guess = f" ({GUESS})" if head.guessed else ""
    prompt = f", prompt {directory.prompt!r}" if directory.prompt else ""
    pooling = " + ".join(head.poolings)
    values = "" if directory.width == shape.hidden else f", {directory.width} values"
    return (
        f"BERT, {shape.layers} layers of {shape.hidden}, {pooling} pooling{guess}{values}, "
        f"{directory.max_length} tokens{prompt}"
    )


def _output(directory: Directory) -> TensorSpec:
    return TensorSpec("embedding", "FP32", (directory.width,), normalized=directory.normalized)


def load(config: ModelConfig) -> Model:
    """Build the encoder. The weights stay float32, and products are computed in float32 on every
    device (a GPU would use TF32 by itself, which is 1e-3 away from the reference).
    """
    import jax
    from flax import nnx

    from engine.models.families.bert.encoder import SentenceEncoder

    directory = read_directory(config)
    _check(config, directory)
    if directory.head.guessed:
        log.warning("model %s: mean pooling is %s", config.name, GUESS)
    graphdef, params = weights.fill(
        lambda rngs: SentenceEncoder(directory.shape, directory.head, rngs),
        checkpoint.load(config, directory),
    )

    def apply(params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("float32"):
            encoder = nnx.merge(graphdef, params)
            pooled = encoder(inputs["ids"], inputs["mask"])
        return {"embedding": pooled[:, : directory.width]}

    ids, mask = DEVICE_INPUTS

    def golden(rng: np.random.Generator, length: int | None) -> Arrays:
        return {
            "ids": rng.integers(0, directory.shape.vocabulary, length, dtype=np.int32),
            "mask": np.ones(length or 0, np.int32),
        }

    def edges(length: int | None) -> tuple[Arrays, ...]:
        """A row of no tokens."""
        return ({name: np.zeros(length or 0, np.int32) for name in ("ids", "mask")},)

    return Model(
        apply=apply,
        params=params,
        inputs=WIRE_INPUTS,
        outputs=(_output(directory),),
        host=f"{__name__}:host",
        device_inputs=(replace(ids, low=0, high=directory.shape.vocabulary - 1), mask),
        golden=golden,
        edges=edges,
        example={"text": ["full to the brim"]},
        max_length=directory.max_length,
        properties={"description": _described(directory)},
    )


QUICK_BYTES: Final = 1024
"""A text of 20 words takes 40 us, one of so many bytes 160 to 420 us."""


def host(config: ModelConfig) -> HostProcessor:
    """The tokenizer. It needs no weights, so every HTTP process has its own."""
    from engine.models.families.bert.tokens.tokenize import Tokenize

    directory = read_directory(config)
    limit = min(directory.max_length, config.lengths[-1])
    tokenize = Tokenize(_vocabulary(directory), limit, directory.prompt)
    smaller = tuple(size for size in directory.dimensions if size < directory.width)
    return HostProcessor(
        tokenize, preprocess_ids=tokenize.from_ids, quick_bytes=QUICK_BYTES, dimensions=smaller
    )
