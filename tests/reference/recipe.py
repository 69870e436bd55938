"""How a case's weights files are made of the weights that all cases share; numpy alone.

`make_directories.py` and the tests use it, so both embed with the same weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

TRUNCATION: Final[dict[str, Any]] = {
    "direction": "Right",
    "max_length": 8,
    "strategy": "LongestFirst",
    "stride": 0,
}


def write_weights(folder: Path, origin: Path, case: str) -> None:
    """Write `folder`'s weights for a case: one file, unless the case is about something else."""
    arrays = load_file(origin)
    if case == "shards":
        _write_shards(folder, arrays)
        return
    if case == "prefixed":  # what a `BertForMaskedLM` saves
        arrays = {f"bert.{name}": array for name, array in arrays.items()}
        arrays["cls.predictions.bias"] = np.zeros(40, np.float32)
    elif case == "early-names":
        arrays = {
            name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): array
            for name, array in arrays.items()
        }
    elif case == "halves":
        arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})


def _write_shards(folder: Path, arrays: dict[str, Any]) -> None:
    where: dict[str, str] = {}
    for part in (0, 1):
        shard = {name: array for n, (name, array) in enumerate(arrays.items()) if n % 2 == part}
        file = f"model-0000{part + 1}-of-00002.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        where |= dict.fromkeys(shard, file)
    size = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
