"""How much of a long text gives the tokens of all of it.

Tokenizing 16 MB and cutting afterwards took 18 s of CPU and up to 4.7 GB.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.normalizers import BertNormalizer, Lowercase, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer


def parts(part: Any) -> list[Any]:
    """The members of a sequence of normalizers or pre-tokenizers, in order."""
    if part is None:
        return []
    if not isinstance(part, Sequence | pre_tokenizers.Sequence):
        return [part]
    members: list[Any] = []
    with suppress(IndexError):  # a sequence of pre-tokenizers has no length
        for place in count():
            members += parts(part[place])
    return members


LOCAL_NORMALIZERS: Final = (
    *(BertNormalizer, Lowercase, normalizers.StripAccents, normalizers.Precompiled),
    *(normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD, normalizers.Nmt),
)
"""Normalizers that change a character by itself, or with the marks that follow it."""

SPLITTERS: Final = (
    *(BertPreTokenizer, pre_tokenizers.Whitespace),
    *(pre_tokenizers.WhitespaceSplit, pre_tokenizers.Punctuation),
)
"""Pre-tokenizers that divide a text from left to right into words; white space is between them."""


def pieces_of(tokenizer: Tokenizer) -> Pieces | None:
    """What can prove that a piece of a text is enough, or None.

    A word's tokens depend on the word alone, and the words of a piece are those of the text, except
    the last few: the piece may end inside a word, or inside an added token, which has as many words
    as characters at most.
    """
    splits = parts(tokenizer.pre_tokenizer)
    spaced = splits[:1] and isinstance(splits[0], SPLITTERS[:3])
    added = list(tokenizer.get_added_tokens_decoder().values())
    changes = [one for one in parts(tokenizer.normalizer) if not one_space(one)]
    local = (*LOCAL_NORMALIZERS, normalizers.Strip) if spaced else LOCAL_NORMALIZERS
    if (
        not all(isinstance(one, local) for one in changes)
        or not all(isinstance(one, (*SPLITTERS, pre_tokenizers.Metaspace)) for one in splits)
        or not splits
        # it takes white space in front of it away, however much that is
        or (not spaced and any(token.lstrip for token in added))
    ):
        return None
    normalize = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    lengths = [len(form) for one in added for form in (one.content, normalize(one.content))]
    words = Tokenizer(tokenizer.model)  # the vocabulary is shared
    words.normalizer, words.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    words.add_tokens(added)
    return Pieces(words, max(lengths, default=0) + 4)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Finds how much of a text gives the same first tokens as all of it.

    words   the tokenizer, without special tokens around a text
    margin  that many words at the end of a piece may be others in the text
    """

    words: Tokenizer
    margin: int

    def enough(self, text: str, tokens: int, most: int) -> str | None:
        """A beginning of the text that has more than `tokens` tokens, the first of which are those
        of the text; or the text itself. None if `most` characters are not enough.
        """
        size = PER_TOKEN * tokens
        while (size := min(size, most)) < len(text):
            if self._certain(text[:size]) > tokens:
                return text[:size]
            if size == most:
                return None
            size *= 4
        return text

    def _certain(self, piece: str) -> int:
        """How many of the piece's tokens any text that begins with it has."""
        numbers = self.words.encode(piece, add_special_tokens=False).word_ids
        last = numbers[-1] if numbers else None
        if last is None:
            return 0
        return bisect_left(numbers, last - self.margin + 1, key=lambda number: number or 0)


PER_TOKEN: Final = 8
"""Characters of the first piece for each token; an English token has 4 to 5."""


def one_space(part: Any) -> bool:
    """Whether it replaces several spaces by one."""
    if not isinstance(part, normalizers.Replace):
        return False
    state = json.loads(part.__getstate__())
    return bool(state["pattern"] == {"Regex": " {2,}"} and state["content"] == " ")
