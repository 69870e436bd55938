"""Text to token ids, in the request's own thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.errors import InvalidRequest
from engine.models.families.bert.vocabulary import Vocabulary
from engine.models.processor import Parameter, Prepared
from engine.models.tensors import Arrays


class Tokenize:
    """`text` BYTES [rows] -> `ids` and `mask` INT32 [rows, longest], padded within the request.

    `limit` is in tokens, special ones included; `prompt` comes before every text.
    """

    def __init__(self, vocabulary: Vocabulary, limit: int, prompt: str = "") -> None:
        self._tokenizer = vocabulary.tokenizer
        self._tokenizer.enable_truncation(
            limit, direction="left" if vocabulary.cut_left else "right"
        )
        self._limit = limit
        self._prompt = prompt

    def __call__(self, inputs: Arrays) -> Prepared:
        """Raises `InvalidRequest` for a row that is not UTF-8."""
        texts = [self._prompt + _utf8(row, text) for row, text in enumerate(inputs["text"])]
        encoded = self._tokenizer.encode_batch_fast(texts)
        # a row may have no tokens, but a tensor of no columns has no place in a bucket
        longest = max(1, *(len(e) for e in encoded)) if encoded else 1
        ids = np.zeros((len(encoded), longest), np.int32)
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
