"""The tokenizer of a directory, by the rules of the class that its tokenizer_config.json names.

The reference library makes it of more than tokenizer.json: a `BertTokenizer` lowers, strips
accents and separates Chinese characters as tokenizer_config.json says, whatever tokenizer.json has.
What two versions of the library would read differently is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer

from engine.errors import ConfigError
from engine.models.families.bert import keys
from engine.models.families.bert.directory import Directory
from engine.models.families.bert.keys import read, read_json, refused, text
from engine.models.families.bert.tokens.pieces import Pieces, one_space, parts, pieces_of

CONFIG: Final = "tokenizer_config.json"
FILE: Final = "tokenizer.json"

BERT: Final = tuple(
    f"{kind}Tokenizer{fast}" for kind in ("Bert", "DistilBert") for fast in ("", "Fast")
)
"""Classes that make normalizer, pre-tokenizer and special tokens themselves."""

XLM: Final = ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast")
"""Classes that take the vocabulary, and a precompiled normalizer, from tokenizer.json."""

AS_IT_STANDS: Final = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that use tokenizer.json as it stands."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer without limit or padding.

    cut_left  a text that is too long loses its beginning
    pieces    finds how much of a text is enough; None where that cannot be known
    """

    tokenizer: Tokenizer
    cut_left: bool
    pieces: Pieces | None = None

    @property
    def special_tokens(self) -> int:
        """How many special tokens every text gets."""
        return int(self.tokenizer.num_special_tokens_to_add(is_pair=False))

    def ends(self) -> tuple[list[int], list[int]]:
        """The ids of the special tokens before and after every text."""
        encoding = self.tokenizer.encode("a")
        special = encoding.special_tokens_mask
        first = special.index(0) if 0 in special else len(special)
        last = special[::-1].index(0) if 0 in special else 0
        return encoding.ids[:first], encoding.ids[len(special) - last :]


def build(directory: Directory) -> Vocabulary:
    """Make the tokenizer. Raises `ConfigError` for what would change the numbers unread."""
    content = read(directory.root, FILE, keys.TOKENIZER_FILE)
    sides = {key: keys.table(FILE, key, content.get(key)) for key in ("truncation", "padding")}
    keys.check(f"{FILE}, truncation", sides["truncation"], keys.TRUNCATION)
    keys.check(f"{FILE}, padding", sides["padding"], keys.PADDING)
    try:
        tokenizer = Tokenizer.from_file(str(directory.root / FILE))
    except Exception as error:  # the library raises nothing narrower
        path = str(directory.root / FILE)
        raise ConfigError("path", path, f"a tokenizer that can be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = _with_named_tokens(directory)
    _apply_class(tokenizer, config)
    if directory.lower_case:
        inner = tokenizer.normalizer
        lowered = any(isinstance(one, Lowercase) for one in parts(inner))
        tokenizer.normalizer = inner if lowered else Sequence([Lowercase(), *parts(inner)])
    for token in (*_added(directory), *_named(config)):
        _add(tokenizer, token)
    _check_ids(tokenizer, directory)
    if _side(config, sides, "padding") == "left":
        why = "with padding in front, a row would depend on the others"
        raise refused(CONFIG, "padding_side", "left", "'right'", why)
    left = _side(config, sides, "truncation") == "left"
    made = Vocabulary(tokenizer, left, None if left else pieces_of(tokenizer))
    if made.special_tokens >= directory.max_length:
        least = f"a limit of more than {made.special_tokens} tokens, as the special ones are many"
        raise ConfigError("path", directory.max_length, least)
    return made


def _side(config: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]], what: str) -> str:
    """tokenizer_config.json's `..._side` counts, and tokenizer.json's `direction` without it."""
    key = f"{what}_side"
    side = config.get(key) or str(sides[what].get("direction", "right")).lower()
    if side not in ("left", "right"):
        raise refused(CONFIG, key, side, "'left' or 'right'")
    return str(side)


_OTHERWISE: Final = f"or tokenizer_class {AS_IT_STANDS[0]!r} in {CONFIG},"


def _apply_class(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    name = config.get("tokenizer_class")
    if name is None or name in BERT:
        _apply_bert(tokenizer, config, str(name or BERT[0]))
    elif name in XLM:
        _check_xlm(tokenizer, config, str(name))
    elif name not in AS_IT_STANDS:
        known = ", ".join((*BERT, *XLM, *AS_IT_STANDS))
        raise refused(CONFIG, "tokenizer_class", name, f"one of {known}")
    elif isinstance(own := tokenizer.normalizer, BertNormalizer):
        for key, ours in _FLAGS.items():
            if config.get(key) is not None and config[key] != getattr(own, ours):
                expected = f"{getattr(own, ours)}, as the normalizer of {FILE} has it,"
                raise refused(CONFIG, key, config[key], expected)


_FLAGS: Final = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Key of tokenizer_config.json -> what BERT's normalizer calls it."""


def _apply_bert(tokenizer: Tokenizer, config: Mapping[str, Any], name: str) -> None:
    """BERT's own parts, with what tokenizer_config.json says about them."""
    for part, kind in (
        ("model", WordPiece),
        ("normalizer", BertNormalizer),
        ("pre_tokenizer", BertPreTokenizer),
    ):
        found = getattr(tokenizer, part)
        if not isinstance(found, kind):
            expected = f"{kind.__name__} for {name}, {_OTHERWISE}"
            raise refused(FILE, part, type(found).__name__, expected)
    pieces = tokenizer.model
    for key, usual in (("continuing_subword_prefix", "##"), ("max_input_chars_per_word", 100)):
        if getattr(pieces, key) != usual:
            expected = f"{usual!r} for {name}, {_OTHERWISE}"
            raise refused(FILE, key, getattr(pieces, key), expected)
    lower, chinese = (
        keys.truth(CONFIG, key, True if config.get(key) is None else config[key])
        for key in ("do_lower_case", "tokenize_chinese_chars")
    )
    accents = config.get("strip_accents")
    tokenizer.normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=None if accents is None else keys.truth(CONFIG, "strip_accents", accents),
        lowercase=lower,
    )
    ends = [
        _content(CONFIG, key, config.get(key) or _DEFAULTS[key])
        for key in ("cls_token", "sep_token")
    ]
    _check_ends(tokenizer, name, ends)


def _check_xlm(tokenizer: Tokenizer, config: Mapping[str, Any], name: str) -> None:
    """XLM-R's own parts; one space for several changes nothing where spaces divide the text."""
    if config.get("add_prefix_space") is False:
        raise refused(CONFIG, "add_prefix_space", False, "true")
    usual: Mapping[str, tuple[type, ...]] = {
        "model": (Unigram,),
        "pre_tokenizer": (pre_tokenizers.WhitespaceSplit, pre_tokenizers.Metaspace),
        "normalizer": (normalizers.Precompiled,),
    }
    for part, kinds in usual.items():
        found = [one for one in parts(getattr(tokenizer, part)) if not one_space(one)]
        types = [type(one) for one in found]
        if types != list(kinds) and (part != "normalizer" or types):
            names = [kind.__name__ for kind in types]
            wanted = " and ".join(kind.__name__ for kind in kinds)
            raise refused(FILE, part, names, f"{wanted} for {name}, {_OTHERWISE}")
    tokens = (config.get("bos_token") or "<s>", config.get("eos_token") or "</s>")
    _check_ends(tokenizer, name, [_content(CONFIG, "bos_token", token) for token in tokens])


def _check_ends(tokenizer: Tokenizer, name: str, tokens: list[str]) -> None:
    """The class puts these around a text, whatever tokenizer.json does."""
    found = _ids(tokenizer, "")
    if found != [tokenizer.token_to_id(token) for token in tokens]:
        expected = f"one that puts {' and '.join(tokens)} around a text for {name}, {_OTHERWISE}"
        raise refused(FILE, "post_processor", found, expected)


def _ids(tokenizer: Tokenizer, sample: str) -> list[int]:
    """A sample's ids. A text by itself has token type 0 throughout."""
    try:
        encoding = tokenizer.encode(sample)
    except Exception as error:
        expected = f"one that can represent any text ({error}),"
        raise refused(FILE, "model", type(tokenizer.model).__name__, expected) from error
    if any(encoding.type_ids):
        raise refused(FILE, "post_processor", encoding.type_ids, "token type 0 for a text")
    return list(encoding.ids)


def _content(file: str, key: str, token: Any) -> str:
    """A token's text; it is written alone or with its flags."""
    return text(file, key, token.get("content") if isinstance(token, dict) else token)


@dataclass(frozen=True, slots=True)
class _Token:
    """A token that a file beside tokenizer.json names."""

    file: str
    key: str
    content: str
    number: int | None = None
    flags: Mapping[str, bool] | None = None
    optional: bool = False


NAMED: Final = "special_tokens_map.json"


def _with_named_tokens(directory: Directory) -> dict[str, Any]:
    """tokenizer_config.json, with the special tokens that special_tokens_map.json names beside it,
    and those that the class of BERT has by itself. Two names for one token are refused.
    """
    config = dict(directory.tokenizer)
    for key, token in read(directory.root, NAMED, keys.SPECIAL_TOKENS).items():
        stated = config.get(key)
        if key in keys.MORE_TOKENS:
            config[key] = [*_several(CONFIG, key, stated), *_several(NAMED, key, token)]
        elif token is not None:
            if stated is not None and _content(CONFIG, key, stated) != _content(NAMED, key, token):
                raise refused(NAMED, key, token, f"{stated!r}, as {CONFIG} has it,")
            config[key] = token
    return config


def _several(file: str, key: str, value: Any) -> list[Any]:
    """Tokens without a name of ours, in a list or by a name of theirs."""
    if isinstance(value, dict):
        return list(value.values())
    if not isinstance(value, list | None):
        raise refused(file, key, value, "a list of tokens")
    return value or []


def _added(directory: Directory) -> Iterator[_Token]:
    """Tokens that files beside tokenizer.json list with their ids."""
    key = "added_tokens_decoder"
    for number, token in keys.table(CONFIG, key, directory.tokenizer.get(key)).items():
        stated = keys.table(CONFIG, key, token)
        flags = {flag: bool(stated.get(flag, flag == "normalized")) for flag in _TOKEN_FLAGS}
        if not number.isdecimal():
            raise refused(CONFIG, key, number, "an id for each token")
        yield _Token(CONFIG, key, _content(CONFIG, key, token), int(number), flags)
    for content, number in read_json(directory.root, "added_tokens.json", dict).items():
        yield _Token("added_tokens.json", content, content, number)


def _named(config: Mapping[str, Any]) -> Iterator[_Token]:
    """Special tokens, which are recognised in a text."""
    for key in sorted(keys.TOKENS):
        if config.get(key) is not None:
            yield _Token(CONFIG, key, _content(CONFIG, key, config[key]))
        elif key in _DEFAULTS and config.get("tokenizer_class") in (None, *BERT):
            yield _Token(CONFIG, key, _DEFAULTS[key], optional=True)
    for key in sorted(keys.MORE_TOKENS):
        for token in _several(CONFIG, key, config.get(key)):
            yield _Token(CONFIG, key, _content(CONFIG, key, token))


_DEFAULTS: Final = {
    f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")
}
_TOKEN_FLAGS: Final = ("lstrip", "rstrip", "normalized", "single_word")


def _add(tokenizer: Tokenizer, token: _Token) -> None:
    """It must be in tokenizer.json, with the same id and flags; it is then recognised in texts."""
    number = tokenizer.token_to_id(token.content)
    if number is None and token.optional:
        return
    if number is None or token.number not in (None, number):
        expected = f"a token of {FILE}, where its id is {number},"
        raise refused(token.file, token.key, token.content, expected)
    known = tokenizer.get_added_tokens_decoder().get(number)
    if known is None:
        flags = token.flags or {"normalized": False}
        tokenizer.add_tokens([AddedToken(token.content, special=True, **flags)])
    elif token.flags is not None:
        flags = {flag: getattr(known, flag) for flag in _TOKEN_FLAGS}
        if flags != token.flags:
            expected = f"{flags} for {token.content!r}, as {FILE} has it,"
            raise refused(token.file, token.key, dict(token.flags), expected)


def _check_ids(tokenizer: Tokenizer, directory: Directory) -> None:
    """Every id needs its row in the embedding table, those of added tokens too."""
    size = directory.shape.vocabulary
    beyond = sorted(
        (number, token) for token, number in tokenizer.get_vocab().items() if number >= size
    )
    if beyond:
        number, token = beyond[0]
        expected = f"ids below {size}, the vocab_size of config.json ({token!r} has none),"
        raise refused(FILE, "vocab", number, expected)
    _ids(tokenizer, "a \u0f00\U0010fffe")
