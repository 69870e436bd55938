"""Directories as the reference library saves them, against the vectors that it computes."""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from engine.models import registry as models
from engine.models.config import ModelConfig, Source
from engine.models.tensors import Array, Arrays
from engine.scheduling.buckets import Bucket
from engine.testing import texts

REFERENCE = Path(__file__).parents[4] / "reference"
DIRECTORIES = REFERENCE / "directories"
CASES = sorted(path.name for path in DIRECTORIES.iterdir() if path.is_dir())
TEXTS: list[str] = json.loads((DIRECTORIES / "texts.json").read_text(encoding="utf-8"))


@cache
def recipe() -> ModuleType:
    """The reference's own way to a case's weights."""
    spec = spec_from_file_location("recipe", REFERENCE / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault("recipe", module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


def assembled(case: str, folder: Path) -> Path:
    """A whole directory of a case."""
    root = folder / case
    shutil.copytree(DIRECTORIES / case, root)
    inner = root / "0_Transformer"
    weights = inner if inner.is_dir() else root
    recipe().write_weights(weights, DIRECTORIES / "weights.safetensors", case)
    return root


def served(root: Path, **changes: Any) -> ModelConfig:
    source = Source(family="bert-embedding", path=str(root))
    fields: dict[str, Any] = {"name": "case", "source": source, "rows": (1, 8), "lengths": (8,)}
    return ModelConfig(**(fields | changes))


def limit(case: str) -> int:
    return {"limit-of-the-positions": 24}.get(case, 10 if case.startswith("old-") else 8)


@pytest.mark.parametrize("case", CASES)
def test_every_vector_is_that_of_the_reference_alone_in_company_and_at_the_limit(
    case: str, tmp_path: Path
) -> None:
    wanted = np.load(DIRECTORIES / case / "vectors.npy")
    config = served(assembled(case, tmp_path), lengths=(limit(case),))
    model = models.load(config)
    bucket = Bucket(len(TEXTS) + 1, limit(case))

    def embed(*rows: str) -> Array:
        """Operation by operation: the cases share what is compiled for each (48 s otherwise)."""
        prepared = model.processor.prepare(texts(*rows)).inputs
        outputs = model.program.apply(model.program.params, staged(prepared, bucket))
        return np.asarray(outputs["embedding"])[: len(rows)]

    together = embed(*TEXTS)
    np.testing.assert_allclose(together, wanted, rtol=0, atol=1e-5, err_msg="in company")
    for text, row in zip(TEXTS, wanted, strict=True):
        np.testing.assert_allclose(embed(text)[0], row, rtol=0, atol=1e-5, err_msg=text)
    assert model.signature.outputs[0].shape == wanted.shape[1:]


def staged(prepared: Arrays, bucket: Bucket) -> Arrays:
    return {
        name: np.pad(
            array,
            ((0, bucket.rows - array.shape[0]), (0, (bucket.length or 0) - array.shape[1])),
        )
        for name, array in prepared.items()
    }


def test_the_cases_differ_where_the_setting_matters() -> None:
    """A setting that is not read would give the vectors of another case."""
    vectors = {case: np.load(DIRECTORIES / case / "vectors.npy") for case in CASES}
    plain = vectors["saved"]
    same = {
        "cased-lowered-by-the-module", "defaults", "early-names", "halves", "in-a-folder",
        "prefixed", "prompts-without-a-default", "tokens-not-listed",
        "shards", "saved", "no-tokenizer-config",
        "cased-file-lowering-config",
    }  # fmt: skip
    for case, found in vectors.items():
        if found.shape == plain.shape and case not in same:
            assert np.abs(found - plain).max() > 2e-5, case
