"""Text to token ids, in the request's own thread.

May touch: tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from engine.errors import InvalidRequest, LoadError
from engine.model import Parameter, Prepared
from engine.spec import Arrays


class Tokenize:
    """`text` BYTES [rows] -> `ids` and `mask` INT32 [rows, longest], padded within the request."""

    def __init__(self, path: Path, limit: int) -> None:
        # the file carries a limit and a padding of its own (128 for MiniLM), which the reference
        # overrides too
        self._tokenizer = _read(path)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limit)
        self._limit = limit

    def __call__(self, inputs: Arrays) -> Prepared:
        """Raises `InvalidRequest` for a row that is not UTF-8."""
        texts = [_utf8(row, text) for row, text in enumerate(inputs["text"])]
        encoded = self._tokenizer.encode_batch_fast(texts)
        ids = np.zeros((len(encoded), max(len(e) for e in encoded)), np.int32)
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encoded):
            ids[row, : len(encoding)] = encoding.ids
            mask[row, : len(encoding)] = 1
        cut = ",".join(str(row) for row, encoding in enumerate(encoded) if encoding.overflowing)
        said: dict[str, Parameter] = {}
        if cut:
            said = {"truncated_rows": cut, "token_limit": self._limit}
        return Prepared({"ids": ids, "mask": mask}, said, tokens=int(mask.sum()))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids. Raises `InvalidRequest` for an id that does not exist."""
        size = self._tokenizer.get_vocab_size()
        for token in ids:
            if not 0 <= token < size:
                raise InvalidRequest(
                    "input", f"token {token} does not exist, expected 0 to {size - 1}"
                )
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise LoadError(f"{path}: {error}") from error


def _utf8(row: int, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("text", f"row {row} is not UTF-8: {error}") from None
