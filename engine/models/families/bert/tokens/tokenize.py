"""Text, or token ids, to the encoder's inputs, in the request's own thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from engine.errors import InvalidRequest
from engine.models.families.bert.tokens.vocabulary import Vocabulary
from engine.models.processor import Parameter, Prepared
from engine.models.tensors import Arrays

CHARACTERS_PER_TOKEN: Final = 256
LEAST_CHARACTERS: Final = 65536
"""A text is looked through until its tokens are known, but no further than so many characters for
each token of the limit, or the least."""

AT_ONCE_CHARACTERS: Final = 262144


class Tokenize:
    """`text` BYTES [rows] -> `ids` and `mask` INT32 [rows, longest], padded within the request.

    `limit` is in tokens, special ones included; `prompt` comes before every text. The response has
    parameters if rows were cut: how many, which ("0,3"), and the limit.
    """

    def __init__(self, vocabulary: Vocabulary, limit: int, prompt: str = "") -> None:
        self._begin, self._end = vocabulary.ends()
        self._last_id = max(vocabulary.tokenizer.get_vocab().values())
        self._cut_left = vocabulary.cut_left
        self._tokenizer = vocabulary.tokenizer
        self._tokenizer.enable_truncation(
            limit, direction="left" if vocabulary.cut_left else "right"
        )
        self._limit = limit
        self._prompt = prompt
        self._pieces = vocabulary.pieces
        self._room = max(1, limit - vocabulary.special_tokens)
        self._most = max(LEAST_CHARACTERS, CHARACTERS_PER_TOKEN * limit)

    def __call__(self, inputs: Arrays) -> Prepared:
        """Raises `InvalidRequest` for a row that is not UTF-8, or too long to be looked through."""
        texts = [self._enough(row, text) for row, text in enumerate(inputs["text"])]
        batches = map(self._tokenizer.encode_batch_fast, _groups(texts))
        encoded = [encoding for batch in batches for encoding in batch]
        cut = [row for row, encoding in enumerate(encoded) if encoding.overflowing]
        return self._prepared([encoding.ids for encoding in encoded], cut)

    def from_ids(self, rows: Sequence[Sequence[int]]) -> Prepared:
        """The same for token ids of this vocabulary.

        As a text's tokens, they are cut at the limit and put between special tokens; a row that
        begins and ends with these has them already. Raises `InvalidRequest` for an id that does not
        exist.
        """
        begin, end = self._begin, self._end
        room = self._limit - len(begin) - len(end)
        kept, cut = [], []
        for row, ids in enumerate(rows):
            self._check(row, ids)
            inner = _inner(list(ids), begin, end)
            if len(inner) > room:
                cut.append(row)
                inner = inner[len(inner) - room :] if self._cut_left else inner[:room]
            kept.append([*begin, *inner, *end])
        return self._prepared(kept, cut)

    def _check(self, row: int, ids: Sequence[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) <= self._last_id:
            odd = next(token for token in ids if not 0 <= token <= self._last_id)
            problem = f"token {odd} of row {row} does not exist, expected 0 to {self._last_id}"
            raise InvalidRequest("input", problem)

    def _prepared(self, rows: Sequence[Sequence[int]], cut: Sequence[int]) -> Prepared:
        # a row may have no tokens, but a tensor of no columns has no place in a bucket
        ids = np.zeros((len(rows), max(1, *map(len, rows)) if rows else 1), np.int32)
        mask = np.zeros_like(ids)
        for row, kept in enumerate(rows):
            ids[row, : len(kept)] = kept
            mask[row, : len(kept)] = 1
        parameters: dict[str, Parameter] = {
            "truncated_rows": len(cut),
            "truncated_row_indices": ",".join(map(str, cut)),
            "token_limit": self._limit,
        }
        return Prepared(
            {"ids": ids, "mask": mask}, parameters if cut else {}, tokens=int(mask.sum())
        )

    def _enough(self, row: int, text: bytes) -> str:
        """As much of a row as its tokens are made of. Tokenizing all of it and cutting afterwards
        would take 1.1 s of CPU and 100 to 300 MB for each megabyte.
        """
        whole = self._prompt + _utf8(row, text)
        if self._pieces is None:
            piece = whole if len(whole) <= self._most else None
        else:
            piece = self._pieces.enough(whole, self._room, self._most)
        if piece is None:
            problem = (
                f"row {row} has {len(whole)} characters, and {self._most} are not enough to know "
                f"the {self._limit} tokens that this model reads of it; expected a shorter text"
            )
            raise InvalidRequest("text", problem)
        return piece


def _inner(ids: list[int], begin: list[int], end: list[int]) -> list[int]:
    """The ids without the special tokens around them, if these are there."""
    stop = len(ids) - len(end)
    if len(begin) <= stop and ids[: len(begin)] == begin and ids[stop:] == end:
        return ids[len(begin) : stop]
    return ids


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in order, some at a time: the tokenizer needs 160 bytes for each character."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > AT_ONCE_CHARACTERS:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


def _utf8(row: int, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("text", f"row {row} is not UTF-8: {error}") from None
