"""The page about directories is the lists that decide."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from engine.errors import ConfigError
from engine.models.families.bert.directory import Activation
from engine.models.families.bert.keys import FILES, SUSPECT, Keys, check
from engine.models.families.bert.modules import Pooling
from engine.models.families.bert.tokens.vocabulary import AS_IT_STANDS, BERT

PAGE = (Path(__file__).parents[5] / "docs/directories.md").read_text(encoding="utf-8")
HEAD, *SECTIONS = PAGE.split("\n## ")
BY_NAME = {section.split("\n", 1)[0]: section for section in SECTIONS}


def named(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def paragraph(section: str, title: str) -> set[str]:
    found = re.search(rf"^{title}: (.*?)\n\n", section + "\n\n", re.DOTALL | re.MULTILINE)
    return named(found.group(1)) if found else set()


def test_every_list_has_its_section() -> None:
    assert list(BY_NAME) == list(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_section_names_the_keys_of_its_list_and_no_other(file: str) -> None:
    keys, section = FILES[file], BY_NAME[file]
    assert paragraph(section, "Used") == keys.used
    assert paragraph(section, "Without effect") == keys.neutral
    rows = re.findall(r"^\| `(\S+)` \| (.*) \| (.*) \|$", section, re.MULTILINE)
    stated = [
        (key, ", ".join(f"`{json.dumps(v)}`" for v in rule.values))
        for key, rule in keys.only.items()
    ]
    assert [(key, values) for key, values, _ in rows] == stated
    assert ("No other key." in section) == keys.strict


@pytest.mark.parametrize("file", FILES)
def test_a_key_is_in_one_list_only(file: str) -> None:
    keys = FILES[file]
    assert not keys.used & keys.neutral
    assert not keys.only.keys() & (keys.used | keys.neutral)


def test_the_page_names_what_is_served() -> None:
    for name in (*get_args(Pooling), *get_args(Activation), BERT[0], *AS_IT_STANDS[:1]):
        assert name in HEAD, name


SUGGESTIVE = (
    *("attention_bias", "attn_type", "norm_eps", "rope_scaling", "alibi", "num_experts"),
    *("lora_alpha", "act_bits", "prompt_name", "text_prefix", "truncate_to", "lower_first"),
    *("token_type", "window_size", "quant_method", "pooling", "scale", "embed_dim"),
)


@pytest.mark.parametrize("key", SUGGESTIVE)
def test_a_name_that_suggests_an_effect_is_refused_when_it_is_set(key: str) -> None:
    assert SUSPECT.search(key)
    with pytest.raises(ConfigError, match=f"'{key}' in a.json"):
        check("a.json", {key: 1}, Keys(used=frozenset()))
    for unset in (None, False, "", [], {}):
        check("a.json", {key: unset}, Keys(used=frozenset()))


@pytest.mark.parametrize("key", ["author", "description", "created", "license", "url", "tags"])
def test_a_name_that_suggests_nothing_is_left_alone(key: str) -> None:
    check("a.json", {key: 1}, Keys(used=frozenset()))
    with pytest.raises(ConfigError, match="the key is unknown"):
        check("a.json", {key: 1}, Keys(used=frozenset(), strict=True))
