"""Text to token ids: special tokens stay, the tail goes, and the client hears of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from engine.errors import ConfigError, InvalidRequest
from engine.models.families.bert import embedding
from engine.models.families.bert.directory import read_directory
from engine.models.families.bert.tokens import tokenize as tokenize_module
from engine.models.families.bert.tokens import vocabulary
from engine.models.families.bert.tokens.pieces import pieces_of
from engine.models.families.bert.tokens.tokenize import Tokenize
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
    assert prepared.parameters == cut_rows(0, 2)


def cut_rows(*rows: int) -> dict[str, int | str]:
    """The parameters that report them."""
    return {
        "truncated_rows": len(rows),
        "truncated_row_indices": ",".join(map(str, rows)),
        "token_limit": LIMIT,
    }


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
    assert prepared.parameters == (cut_rows(*cut) if cut else {})
    kept = [min(count, LIMIT) for count in needed]
    assert prepared.inputs["mask"].sum(axis=1).tolist() == kept
    assert prepared.inputs["ids"].shape == (len(words), max(kept))


def test_how_many_tokens_a_request_was_counts_no_padding_and_no_tail(tokenize: Tokenize) -> None:
    assert tokenize(texts(b"", b"full to the")).tokens == 2 + 5
    assert tokenize(texts(b"full to the brim is a")).tokens == LIMIT


# --- token ids ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "ids"),
    [
        pytest.param([FULL, TO], [CLS, FULL, TO, SEP], id="as-a-texts-tokens"),
        pytest.param([CLS, FULL, TO, SEP], [CLS, FULL, TO, SEP], id="special-tokens-are-there"),
        pytest.param([CLS, SEP], [CLS, SEP], id="special-tokens-only"),
        pytest.param([UNK], [CLS, UNK, SEP], id="unknown-stays-unknown"),
        pytest.param([FULL, SEP, TO], [CLS, FULL, SEP, TO, SEP], id="a-special-token-within"),
        pytest.param([CLS, FULL], [CLS, CLS, FULL, SEP], id="half-of-the-special-tokens"),
        pytest.param([PLURAL], [CLS, PLURAL, SEP], id="no-word-begins-so"),
        pytest.param([BRIM] * 4, [CLS, *[BRIM] * 4, SEP], id="exactly-the-limit"),
    ],
)
def test_token_ids_are_used_as_they_are(
    tokenize: Tokenize, given_: list[int], ids: list[int]
) -> None:
    prepared = tokenize.from_ids([given_])
    assert prepared.inputs["ids"].tolist() == [ids]
    assert prepared.inputs["mask"].tolist() == [[1] * len(ids)]
    assert (prepared.parameters, prepared.tokens) == ({}, len(ids))


@given(words=st.lists(st.lists(st.sampled_from(["full", "to", "brims", "?"])), min_size=1))
def test_the_ids_of_a_text_give_what_the_text_gives(
    tokenize: Tokenize, tiny_directory: Path, words: list[list[str]]
) -> None:
    full = Tokenizer.from_file(str(tiny_directory / "tokenizer.json"))
    full.no_padding()
    full.no_truncation()
    sentences = [" ".join(row) for row in words]
    by_text = tokenize(texts(*sentences))
    for special in (True, False):
        encoded = full.encode_batch(sentences, add_special_tokens=special)
        by_ids = tokenize.from_ids([encoding.ids for encoding in encoded])
        for name in ("ids", "mask"):
            np.testing.assert_array_equal(by_ids.inputs[name], by_text.inputs[name])
        assert (by_ids.parameters, by_ids.tokens) == (by_text.parameters, by_text.tokens)


def test_ids_beyond_the_limit_are_cut_as_a_text_is(tokenize: Tokenize) -> None:
    prepared = tokenize.from_ids([[FULL], [CLS, TO, THE, BRIM, FULL, TO, SEP], [THE] * 10_000])
    assert prepared.inputs["ids"].tolist() == [
        [CLS, FULL, SEP, PAD, PAD, PAD],
        [CLS, TO, THE, BRIM, FULL, SEP],
        [CLS, THE, THE, THE, THE, SEP],
    ]
    assert prepared.parameters == cut_rows(1, 2)


@pytest.mark.parametrize("token", [-1, 11, 2**40], ids=["negative", "one too many", "huge"])
def test_an_id_that_does_not_exist_is_refused(tokenize: Tokenize, token: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tokenize.from_ids([[FULL], [FULL, token]])
    assert str(refused.value) == f"input: token {token} of row 1 does not exist, expected 0 to 10"


@pytest.mark.parametrize("side", ["left", "right"])
def test_ids_are_cut_on_the_side_where_a_text_is(tiny_bert: Any, tmp_path: Path, side: str) -> None:
    root = tiny_bert.write(tmp_path / "model")
    (root / "tokenizer_config.json").write_text(f'{{"truncation_side": "{side}"}}')
    one = Tokenize(vocabulary.build(read_directory(tiny_bert.served(root))), LIMIT)
    by_ids = one.from_ids([[FULL, TO, THE, BRIM, FULL, TO]]).inputs["ids"]
    assert by_ids.tolist() == one(texts(b"full to the brim full to")).inputs["ids"].tolist()


def test_without_special_tokens_ids_stay_alone(
    tiny_bert: Any, tiny_directory: Path, tmp_path: Path
) -> None:
    content = json.loads((tiny_directory / "tokenizer.json").read_text(encoding="utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content | {"post_processor": None}), encoding="utf-8")
    bare = vocabulary.Vocabulary(Tokenizer.from_file(str(path)), cut_left=False)
    bare.tokenizer.no_padding()
    bare.tokenizer.no_truncation()
    one = Tokenize(bare, 2)
    assert one.from_ids([[FULL, TO, THE]]).inputs["ids"].tolist() == [[FULL, TO]]


def test_token_ids_do_not_go_with_a_prompt(tiny_bert: Any, tmp_path: Path) -> None:
    root = tiny_bert.write(tmp_path / "model")
    said = {"prompts": {"q": "query: "}, "default_prompt_name": "q"}
    (root / "config_sentence_transformers.json").write_text(json.dumps(said))
    embedding.check(tiny_bert.served(root))
    with pytest.raises(ConfigError, match="token_ids: got True, expected false: the directory's"):
        embedding.check(tiny_bert.served(root, token_ids=True))


# --- no more of a text than its tokens need ------------------------------------------------------

VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "ab", "##a", "##b", "##ab", ".", "-", "水"),
    *("é", "e", "##é", "x", "##x", "full", "brim", "▁", "▁a", "▁b", "▁ab", "▁x"),
)
ADDED = (
    AddedToken("[SEP]", special=True),
    AddedToken("a b", normalized=False),
    AddedToken("ab-é", normalized=True),
    AddedToken("xx", single_word=True),
)
GREEDY = AddedToken("<m>", lstrip=True, rstrip=True)
SCORES = [(piece, -1.0 - n % 5) for n, piece in enumerate(VOCABULARY)]


def made(model: Any, normalizer: Any, splitter: Any, *added: AddedToken) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_tokens(list(added))
    return tokenizer


def word_piece(limit: int = 100) -> models.WordPiece:
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    return models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=limit)


SPACED = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
TOKENIZERS = {
    "bert": made(
        word_piece(), normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), *ADDED
    ),
    "cased": made(
        word_piece(7),
        normalizers.BertNormalizer(lowercase=False),
        pre_tokenizers.BertPreTokenizer(),
        *ADDED,
        GREEDY,
    ),
    "lowered": made(
        word_piece(),
        normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase()]),
        pre_tokenizers.Whitespace(),
        *ADDED,
        GREEDY,
    ),
    "pieces": made(
        models.Unigram(SCORES, 1), normalizers.NFKC(), pre_tokenizers.Metaspace(), *ADDED
    ),
    "spaces-made-one": made(
        models.Unigram(SCORES, 1),
        normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(" {2,}"), " ")]),
        pre_tokenizers.Metaspace(),
        *ADDED,
    ),
    "stripped": made(
        models.Unigram(SCORES, 1),
        normalizers.Sequence([normalizers.Nmt(), normalizers.Strip()]),
        SPACED,
        *ADDED,
        GREEDY,
    ),
    "nested": made(
        word_piece(),
        normalizers.Sequence(
            [
                normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
                normalizers.Lowercase(),
            ]
        ),
        pre_tokenizers.Sequence([SPACED, pre_tokenizers.Punctuation()]),
        *ADDED,
    ),
    "spaced": made(models.Unigram(SCORES, 1), normalizers.NFC(), SPACED, *ADDED, GREEDY),
}
FRAGMENTS = (
    *("a", "b", "ab", "A", "x", "xx", "-", ".", " ", "  ", "\n", "\u3000", "水", "é", "e\u0301"),
    *("\u0301\u0323", "[SEP]", "[SE", "P]", "a b", "ab-é", "ab-e\u0301", "ab-", "<m>", "<m", "\0"),
    *("ﬁ", "ᄀ", "ᅡ", "\u0600", "İ", "ß", "x" * 9, " " * 20, "[UNK]", "\ufffd", "한"),
)


def built_of(fragments: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(fragments), min_size=8, max_size=100).map("".join)


# of few fragments: a word that goes on, and marks or added tokens at the end of a piece, are common
LONG_TEXTS = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=5).flatmap(built_of)


@given(name=st.sampled_from(sorted(TOKENIZERS)), text=LONG_TEXTS, tokens=st.integers(1, 12))
@settings(max_examples=600)
def test_a_piece_of_a_text_has_its_first_tokens_and_more(name: str, text: str, tokens: int) -> None:
    tokenizer = TOKENIZERS[name]
    pieces = pieces_of(tokenizer)
    assert pieces is not None
    piece = pieces.enough(text, tokens, 10_000)
    assert piece is not None
    assert text.startswith(piece)
    ids, whole = (tokenizer.encode(each).ids for each in (piece, text))
    assert ids[:tokens] == whole[:tokens]
    if piece != text:
        assert len(ids) > tokens < len(whole)


@pytest.mark.parametrize(
    ("normalizer", "splitter", "added"),
    [
        pytest.param(None, None, (), id="no-words"),
        pytest.param(normalizers.Replace("a", "b"), SPACED, (), id="a-pattern"),
        pytest.param(
            normalizers.Sequence(
                [normalizers.Sequence([normalizers.NFC()] * 3), normalizers.Replace("a", "b")]
            ),
            SPACED,
            (),
            id="a-pattern-behind-a-nested-sequence",
        ),
        pytest.param(normalizers.Strip(), pre_tokenizers.Metaspace(), (), id="the-end-matters"),
        pytest.param(None, pre_tokenizers.ByteLevel(), (), id="a-pattern-that-looks-ahead"),
        pytest.param(None, pre_tokenizers.Metaspace(), (GREEDY,), id="spaces-taken-away-later"),
    ],
)
def test_where_a_piece_proves_nothing_none_is_taken(
    normalizer: Any, splitter: Any, added: tuple[AddedToken, ...]
) -> None:
    assert pieces_of(made(word_piece(), normalizer, splitter, *added)) is None


def test_of_sixteen_megabytes_a_few_hundred_characters_are_tokenized(
    tokenize: Tokenize, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Counting:
        def encode_batch_fast(self, batch: list[str]) -> list[Any]:
            seen.extend(map(len, batch))
            return whole.encode_batch_fast(batch)

    whole = tokenize._tokenizer
    monkeypatch.setattr(tokenize, "_tokenizer", Counting())
    prepared = tokenize(texts(b"full to the brim " * 1_000_000, b"full"))
    assert prepared.inputs["ids"][0].tolist() == [CLS, FULL, TO, THE, BRIM, SEP]
    assert prepared.parameters == cut_rows(0)
    assert seen == [128, 4]


def test_many_texts_are_tokenized_some_at_a_time(
    tokenize: Tokenize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize_module, "AT_ONCE_CHARACTERS", 10)
    rows = [b"full", b"to", b"full to the", b"brim", b"", b"a is"]
    ids = tokenize(texts(*rows)).inputs["ids"].tolist()
    alone = [tokenize(texts(row)).inputs["ids"][0].tolist() for row in rows]
    assert [row[: len(one)] for row, one in zip(ids, alone, strict=True)] == alone


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"x" * 1_000_000, id="one-word"),
        pytest.param(b" " * 1_000_000 + b"full", id="only-space"),
        pytest.param("\u0301".encode() * 500_000, id="only-marks"),
    ],
)
def test_a_text_whose_tokens_stay_unknown_is_refused_with_its_row_and_the_limit(
    tokenize: Tokenize, text: bytes
) -> None:
    with pytest.raises(InvalidRequest, match=r"row 1 has \d+ characters, and 65536 are not enough"):
        tokenize(texts(b"full", text))


def test_a_long_word_within_the_limit_is_one_unknown_token(tokenize: Tokenize) -> None:
    text = b"x" * 30_000 + b" full" * 1_000_000
    assert tokenize(texts(text)).inputs["ids"][0].tolist() == [CLS, UNK, FULL, FULL, FULL, SEP]


def test_a_text_that_is_cut_at_its_beginning_is_read_whole_up_to_a_limit(
    tiny_bert: Any, tmp_path: Path
) -> None:
    root = tiny_bert.write(tmp_path / "model")
    (root / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    built = vocabulary.build(read_directory(tiny_bert.served(root)))
    left = Tokenize(built, LIMIT)
    text = b"full " * 10_000 + b"to the brim"
    assert left(texts(text)).inputs["ids"].tolist() == [[CLS, FULL, TO, THE, BRIM, SEP]]
    with pytest.raises(InvalidRequest, match="row 0 has 100011 characters, and 65536"):
        left(texts(b"full " * 20_000 + b"to the brim"))
