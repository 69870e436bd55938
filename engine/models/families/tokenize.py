"""Text to token ids, in the request's own thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from engine.errors import InvalidRequest, LoadError
from engine.models.processor import Parameter, Prepared
from engine.models.tensors import Arrays


class Tokenize:
    """`text` BYTES [rows] -> `ids` and `mask` INT32 [rows, longest], padded within the request."""

    def __init__(self, path: Path, limit: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise LoadError(f"{path}: {error}") from error
        # the file carries a limit and a padding of its own (128 for MiniLM), which the reference
        # overrides too
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
        parameters: dict[str, Parameter] = {"truncated_rows": cut, "token_limit": self._limit}
        return Prepared(
            {"ids": ids, "mask": mask}, parameters if cut else {}, tokens=int(mask.sum())
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids. Raises `InvalidRequest` for an id that does not exist."""
        size = self._tokenizer.get_vocab_size()
        for token in ids:
            if not 0 <= token < size:
                problem = f"token {token} does not exist, expected 0 to {size - 1}"
                raise InvalidRequest("input", problem)
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def _utf8(row: int, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("text", f"row {row} is not UTF-8: {error}") from None
