"""The hooks of `text_model.py`. They run in every HTTP process, which has no JAX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brim import HostProcessor, Prepared


def host() -> HostProcessor:
    """Each letter is a token, and its code is the token's id."""
    return HostProcessor(
        preprocess=lambda inputs: count(inputs["text"].tolist()), preprocess_ids=count
    )


def count(texts: Sequence[Sequence[int]]) -> Prepared:
    """Count the letters of each text by their code modulo eight."""
    codes = [np.array([code % 8 for code in text], np.int64) for text in texts]
    counts = np.array([np.bincount(each, minlength=8) for each in codes], np.float32)
    return Prepared({"letters": counts}, tokens=int(counts.sum()))
