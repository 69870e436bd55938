"""Text to token ids: special tokens stay, the tail goes, and the client hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError, InvalidRequest
from engine.models.families.bert import vocabulary
from engine.models.families.bert.directory import read_directory
from engine.models.families.bert.tokenize import Tokenize
from engine.testing import texts

PAD, UNK, CLS, SEP, FULL, TO, THE, BRIM = range(8)
PLURAL = 10
LIMIT = 6


@pytest.fixture(scope="module")
def tokenize(tiny_bert: Any, tiny_directory: Path) -> Tokenize:
    """A limit of six tokens, two of them special."""
    directory = read_directory(tiny_bert.served(tiny_directory))
    return Tokenize(vocabulary.build(directory), LIMIT)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        pytest.param(b"full", [CLS, FULL, SEP], id="a-word"),
        pytest.param(b"FULL to the", [CLS, FULL, TO, THE, SEP], id="upper-case-is-lowered"),
        pytest.param(b"brims", [CLS, BRIM, PLURAL, SEP], id="a-word-in-slices"),
        pytest.param(b"goblet", [CLS, UNK, SEP], id="an-unknown-word"),
        pytest.param("水".encode(), [CLS, UNK, SEP], id="beyond-ascii"),
        pytest.param(b"", [CLS, SEP], id="nothing"),
        pytest.param(b" \t\n", [CLS, SEP], id="only-space"),
        pytest.param(b"full to the brim", [CLS, FULL, TO, THE, BRIM, SEP], id="exactly-the-limit"),
    ],
)
def test_a_text_within_the_limit(tokenize: Tokenize, text: bytes, ids: list[int]) -> None:
    prepared = tokenize(texts(text))
    assert prepared.inputs["ids"].tolist() == [ids]
    assert prepared.inputs["mask"].tolist() == [[1] * len(ids)]
    assert prepared.parameters == {}
    assert {array.dtype for array in prepared.inputs.values()} == {np.dtype(np.int32)}


def test_rows_are_padded_to_the_longest_of_their_request(tokenize: Tokenize) -> None:
    prepared = tokenize(texts(b"", b"full to the", b"full"))
    assert prepared.inputs["ids"].tolist() == [
        [CLS, SEP, PAD, PAD, PAD],
        [CLS, FULL, TO, THE, SEP],
        [CLS, FULL, SEP, PAD, PAD],
    ]
    assert prepared.inputs["mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_a_text_beyond_the_limit_loses_its_tail_and_keeps_its_special_tokens(
    tokenize: Tokenize,
) -> None:
    prepared = tokenize(texts(b"full to the brim full", b"full", b"the " * 1000))
    assert prepared.inputs["ids"].tolist() == [
        [CLS, FULL, TO, THE, BRIM, SEP],
        [CLS, FULL, SEP, PAD, PAD, PAD],
        [CLS, THE, THE, THE, THE, SEP],
    ]
    assert prepared.parameters == {"truncated_rows": "0,2", "token_limit": LIMIT}


def test_a_row_that_is_not_utf8_is_named(tokenize: Tokenize) -> None:
    with pytest.raises(InvalidRequest, match=r"^text: row 1 is not UTF-8: ") as raised:
        tokenize(texts(b"full", b"br\xffm"))
    assert raised.value.field == "text"


@pytest.mark.parametrize("content", [b"{}", b"", b"\xff"])
def test_a_tokenizer_that_cannot_be_read_is_named(
    tiny_bert: Any, tmp_path: Path, content: bytes
) -> None:
    root = tiny_bert.write(tmp_path / "model")
    (root / "tokenizer.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json|a tokenizer that can be read"):
        vocabulary.build(read_directory(tiny_bert.served(root)))


@given(words=st.lists(st.lists(st.sampled_from(["full", "to", "brims", "?"])), min_size=1))
def test_a_row_is_reported_exactly_when_it_was_cut(
    tokenize: Tokenize, words: list[list[str]]
) -> None:
    needed = [2 + sum(1 + (word == "brims") for word in row) for row in words]
    prepared = tokenize(texts(*[" ".join(row).encode() for row in words]))
    cut = [row for row, count in enumerate(needed) if count > LIMIT]
    said = prepared.parameters.get("truncated_rows", "")
    assert said == ",".join(map(str, cut))
    kept = [min(count, LIMIT) for count in needed]
    assert prepared.inputs["mask"].sum(axis=1).tolist() == kept
    assert prepared.inputs["ids"].shape == (len(words), max(kept))


# --- and back -------------------------------------------------------------------------------------


def test_how_many_tokens_a_request_was_counts_no_padding_and_no_tail(tokenize: Tokenize) -> None:
    assert tokenize(texts(b"", b"full to the")).tokens == 2 + 5
    assert tokenize(texts(b"full to the brim is a")).tokens == LIMIT


def test_token_ids_become_the_text_that_they_stand_for(tokenize: Tokenize) -> None:
    ids = [CLS, FULL, TO, BRIM, PLURAL, SEP]
    text = tokenize.decode([*ids, PAD])
    assert text == "full to brims"
    assert tokenize(texts(text)).inputs["ids"].tolist() == [ids]


@pytest.mark.parametrize("token", [-1, 11, 2**40], ids=["negative", "one too many", "huge"])
def test_a_token_that_does_not_exist_is_refused(tokenize: Tokenize, token: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tokenize.decode([FULL, token])
    assert str(refused.value) == f"input: token {token} does not exist, expected 0 to 10"
