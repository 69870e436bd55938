"""Writes the directory of a BERT encoder with random weights, for measurements only.

The speed of an encoder depends on its sizes and not on its weights. The files are those that the
family `bert-embedding` reads: config.json, model.safetensors and tokenizer.json; the tokenizer is
copied from another directory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

from engine.models.families.bert.directory import BertShape
from engine.models.tensors import Array

MINILM: Final = BertShape(
    vocabulary=30522,
    positions=512,
    token_types=2,
    hidden=384,
    intermediate=1536,
    layers=6,
    heads=12,
    activation="gelu",
    norm_epsilon=1e-12,
)
"""The demo's encoder, all-MiniLM-L6-v2."""
BERT_BASE: Final = replace(MINILM, hidden=768, intermediate=3072, layers=12)


def write(folder: Path, shape: BertShape, tokenizer: Path) -> Path:
    """Write the directory `folder`; `tokenizer` is a tokenizer.json. Returns `folder`."""
    folder.mkdir(parents=True)
    content = {
        "model_type": "bert",
        "hidden_act": shape.activation,
        "layer_norm_eps": shape.norm_epsilon,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.token_types,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
    }
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    rng = np.random.default_rng(0)
    arrays = {name: _random(rng, name, sizes) for name, sizes in _tensors(shape)}
    save_file(arrays, folder / "model.safetensors")
    return folder


def _tensors(shape: BertShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as `BertModel` has them; a dense weight is [out, in]."""
    hidden, between = shape.hidden, shape.intermediate
    tables = {
        "word": shape.vocabulary,
        "position": shape.positions,
        "token_type": shape.token_types,
    }
    for name, size in tables.items():
        yield f"embeddings.{name}_embeddings.weight", (size, hidden)
    yield from _with_bias("embeddings.LayerNorm", hidden)
    for layer in range(shape.layers):
        stem = f"encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _with_bias(f"{stem}.attention.{name}", hidden, hidden)
        yield from _with_bias(f"{stem}.attention.output.LayerNorm", hidden)
        yield from _with_bias(f"{stem}.intermediate.dense", between, hidden)
        yield from _with_bias(f"{stem}.output.dense", hidden, between)
        yield from _with_bias(f"{stem}.output.LayerNorm", hidden)


def _with_bias(name: str, out: int, *into: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, *into)
    yield f"{name}.bias", (out,)


def _random(rng: np.random.Generator, name: str, sizes: tuple[int, ...]) -> Array:
    """As BERT is initialized before its training: small weights, norms of 1, no bias."""
    if name.endswith("LayerNorm.weight"):
        return np.ones(sizes, np.float32)
    if name.endswith(".bias"):
        return np.zeros(sizes, np.float32)
    return rng.standard_normal(sizes, np.float32) * np.float32(0.02)
