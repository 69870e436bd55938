"""What the JSON files of a BERT directory may say, and what this family refuses to serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from engine.errors import ConfigError
from engine.models import registry
from engine.models.config import ModelConfig
from engine.models.families.bert import embedding
from engine.models.families.bert.directory import BertShape, Directory, read_directory
from engine.models.families.bert.keys import FILES
from engine.models.families.bert.modules import Dense, Head


@pytest.fixture
def root(tiny_bert: Any, tmp_path: Path) -> Path:
    """A directory to change."""
    written: Path = tiny_bert.write(tmp_path / "model")
    return written


@pytest.fixture
def config(tiny_bert: Any, root: Path) -> ModelConfig:
    made: ModelConfig = tiny_bert.served(root)
    return made


def rewrite(path: Path, changes: Mapping[str, Any]) -> None:
    """Change some keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) if path.exists() else {}
    kept = {k: v for k, v in (content | changes).items() if v is not None}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept))


def test_a_good_directory_is_read_as_it_stands(config: ModelConfig, root: Path) -> None:
    assert read_directory(config) == Directory(
        root=root,
        shape=BertShape(
            vocabulary=11,
            positions=20,
            token_types=2,
            hidden=32,
            intermediate=48,
            layers=2,
            heads=4,
            activation="gelu",
            norm_epsilon=1e-12,
        ),
        head=Head(("mean",), ("normalize",), guessed=False),
        tokenizer={"tokenizer_class": None},
        lower_case=False,
        max_length=16,
        prompt="",
        truncate_dim=None,
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(config: ModelConfig, root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(ConfigError, match=f"expected a directory with {name}") as raised:
        registry.check(config)
    assert (raised.value.key, raised.value.value) == ("path", str(root))


def test_a_file_in_the_place_of_the_directory_is_refused(tiny_bert: Any, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a directory with config\.json"):
        read_directory(tiny_bert.served(root / "config.json"))


# --- settings that change the numbers -----------------------------------------------------------

C, T, S = "config.json", "tokenizer_config.json", "sentence_bert_config.json"
U, P, F = "config_sentence_transformers.json", "1_Pooling/config.json", "tokenizer.json"
LEFT = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
PAD = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0}
PAD |= {"pad_type_id": 0, "pad_token": "[PAD]"}
HEAVY = {"bits": 8}


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        (C, {"model_type": "mpnet"}, "got 'mpnet', expected 'bert' as 'model_type'"),
        (C, {"model_type": None}, "got None, expected 'bert' as 'model_type'"),
        (
            C,
            {"is_decoder": True},
            "got True, expected null or false as 'is_decoder' in config.json: a decoder's",
        ),
        (C, {"add_cross_attention": True}, "as 'add_cross_attention'"),
        (
            C,
            {"position_embedding_type": "relative_key"},
            'null or "absolute" as .position_embedding_type',
        ),
        (C, {"quantization_config": HEAVY}, "got {'bits': 8}, .* as 'quantization_config'"),
        (C, {"pruned_heads": {"0": [1]}}, "as 'pruned_heads'"),
        (C, {"auto_map": {"AutoModel": "code.Bert"}}, "as 'auto_map'"),
        (
            C,
            {"rope_theta": 10000},
            "got 10000, expected nothing as 'rope_theta' in config.json: the key is",
        ),
        (C, {"attention_bias": False, "attn_window": 3}, "as 'attn_window'"),
        (C, {"hidden_act": "mish"}, "got 'mish', expected one of gelu, .* as 'hidden_act'"),
        (C, {"hidden_size": "32"}, "got '32', expected a whole number as 'hidden_size'"),
        (C, {"num_attention_heads": 5}, "got 5, expected a divisor of 32"),
        (
            C,
            {"layer_norm_eps": "small"},
            "got 'small', expected a small number as 'layer_norm_eps'",
        ),
        (T, {"tokenizer_class": "BertJapaneseTokenizer"}, "expected one of BertTokenizer, "),
        (
            T,
            {"padding_side": "left"},
            "got 'left', expected 'right' as 'padding_side' .* a row would depend",
        ),
        (T, {"truncation_side": "middle"}, "expected 'left' or 'right' as 'truncation_side'"),
        (T, {"never_split": ["brim"]}, "as 'never_split'"),
        (T, {"split_special_tokens": True}, "as 'split_special_tokens'"),
        (T, {"add_bos_token": True}, "as 'add_bos_token'"),
        (T, {"do_lower_case": "yes"}, "got 'yes', expected true or false as 'do_lower_case'"),
        (T, {"cls_token": "full"}, r"got \[2, 3\], expected one that puts full and \[SEP\] around"),
        (T, {"mask_token": "[MASK]"}, r"got '\[MASK\]', expected a token of tokenizer.json"),
        (T, {"extra_special_tokens": ["<x>"]}, "as 'extra_special_tokens'"),
        (T, {"image_token": "<img>"}, "as 'image_token'"),
        (
            T,
            {"added_tokens_decoder": {"11": {"content": "<x>", "special": True}}},
            "got '<x>', expected a token of tokenizer.json, where its id is None,",
        ),
        (
            T,
            {"added_tokens_decoder": {"3": {"content": "[CLS]", "special": True}}},
            r"got '\[CLS\]', expected a token of tokenizer.json, where its id is 2,",
        ),
        (
            T,
            {"added_tokens_decoder": {"2": {"content": "[CLS]", "lstrip": True}}},
            r"expected .*'lstrip': False.* for '\[CLS\]', as tokenizer.json has it",
        ),
        ("special_tokens_map.json", {"mask_token": {"content": "<m>"}}, "got '<m>', expected a t"),
        ("added_tokens.json", {"<x>": 11}, "got '<x>', expected a token of tokenizer.json"),
        (F, {"padding": PAD}, "got 'left', expected 'right'"),
        (F, {"normalizer": {"type": "Lowercase"}}, "got 'Lowercase', expected BertNormalizer"),
        (F, {"normalizer": None}, "expected a tokenizer|got 'NoneType', expected BertNormalizer"),
        (F, {"pre_tokenizer": {"type": "WhitespaceSplit"}}, "expected BertPreTokenizer"),
        (F, {"postprocessor": {}, "more": 1}, "got 1, expected nothing as"),
        (S, {"max_seq_length": -1}, "got -1, expected a whole number as 'max_seq_length'"),
        (S, {"do_lower_case": 1}, "got 1, expected true or false as 'do_lower_case'"),
        (S, {"transformer_task": "fill-mask"}, "as 'transformer_task'"),
        (S, {"module_output_name": "sentence_embedding"}, "as 'module_output_name'"),
        (S, {"processing_kwargs": {"text": {"max_length": 4}}}, "as 'processing_kwargs'"),
        (S, {"query_length": 4}, "as 'query_length'"),
        (S, {"config_args": {"is_decoder": True}}, "as 'config_args'"),
        (S, {"tokenizer_args": {"use_magic": 1}}, "as 'use_magic' in sentence_bert_config.json"),
        (S, {"something": 1}, "got 1, expected nothing as"),
        (U, {"truncate_dim": 0}, "got 0, expected a whole number as 'truncate_dim'"),
        (U, {"default_prompt_name": "query"}, "got 'query', expected one of .*default_prompt_name"),
        (U, {"model_type": "SparseEncoder"}, "as 'model_type' in config_sentence_transformers"),
        (U, {"instruction_suffix": "x"}, "as 'instruction_suffix'"),
        (P, {"pooling_mode_mean_tokens": False}, "expected one or more pooling modes in 1_Pooling"),
        (P, {"pooling_mode": "median"}, "got 'median', expected one or more of cls, max, mean"),
        (P, {"pooling_mode": []}, "expected one or more of cls, max, mean"),
        (P, {"pooling_mode_median": True}, "got True, expected nothing as"),
        (P, {"word_embedding_dimension": 31}, "got 31, expected 32, the size of a token's vector"),
        ("adapter_config.json", {"peft_type": "LORA"}, "expected weights with their adapter"),
        (
            "2_Normalize/config.json",
            {"module_input_name": "token_embeddings"},
            "work on the pooled",
        ),
    ],
)
def test_what_would_change_the_numbers_unread_is_refused_with_file_key_value_and_remedy(
    config: ModelConfig, root: Path, file: str, changes: Mapping[str, Any], said: str
) -> None:
    registry.check(config)
    if file == F:
        content = json.loads((root / F).read_text()) | changes
        (root / F).write_text(json.dumps(content))
    else:
        rewrite(root / file, changes)
    with pytest.raises(ConfigError, match=said) as raised:
        registry.check(config)
    assert raised.value.key == "path"


def test_a_prompt_that_is_not_pooled_is_refused(config: ModelConfig, root: Path) -> None:
    rewrite(root / P, {"include_prompt": False})
    registry.check(config)
    rewrite(root / U, {"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    with pytest.raises(ConfigError, match="got False, expected true, because a default prompt"):
        registry.check(config)


def test_a_refused_directory_fails_the_model_with_that_reason(
    config: ModelConfig, root: Path, serving: Any
) -> None:
    rewrite(root / C, {"is_decoder": True})
    with serving(config) as client:
        reason = client.endpoint("tiny").snapshot().reason or ""
    assert "'is_decoder' in config.json" in reason


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (C, {"is_decoder": False, "torch_dtype": "float16", "transformers_version": "4.8.2"}),
        (C, {"a_note": "anything", "pooler_type": "first_token_transform"}),
        (C, {"some_attention": None, "new_heads": False, "other_layers": []}),
        (T, {"name_or_path": "x", "model_max_length": 1e30, "clean_up_tokenization_spaces": True}),
        (T, {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}),
        (T, {"cls_token": {"content": "[CLS]", "lstrip": False}, "max_length": 128}),
        (U, {"__version__": {}, "similarity_fn_name": "dot", "prompts": {"q": "query: "}}),
        (U, {"default_prompt_name": None, "truncate_dim": None}),
        (S, {"model_args": {"torch_dtype": "float32"}, "processing_kwargs": {}}),
        ("special_tokens_map.json", {"unk_token": "[UNK]"}),
        ("2_Normalize/config.json", {"module_input_name": "sentence_embedding"}),
    ],
)
def test_what_changes_nothing_is_left_alone(
    config: ModelConfig, root: Path, file: str, changes: Mapping[str, Any]
) -> None:
    rewrite(root / file, changes)
    registry.check(config)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BertForQuestionAnswering"])
def test_a_directory_of_another_task_is_refused_unless_it_states_a_pooling(
    config: ModelConfig, root: Path, name: str
) -> None:
    rewrite(root / C, {"architectures": [name]})
    registry.check(config)
    (root / "modules.json").unlink()
    with pytest.raises(ConfigError, match=f"got '{name}', expected BertModel or .*'architectures'"):
        registry.check(config)
    rewrite(root / C, {"architectures": ["BertForMaskedLM"]})
    assert read_directory(config).head.guessed


@pytest.mark.parametrize("more", ["in-the-vocabulary", "added"])
def test_a_tokenizer_with_more_ids_than_the_embedding_table_is_refused(
    config: ModelConfig, root: Path, more: str
) -> None:
    content = json.loads((root / F).read_text())
    if more == "added":
        token = content["added_tokens"][0] | {"id": 11, "content": "<new>"}
        content["added_tokens"].append(token)
    else:
        content["model"]["vocab"]["<new>"] = 11
    (root / F).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"got 11, expected ids below 11, .*\('<new>' has none\)"):
        registry.check(config)


# --- modules ------------------------------------------------------------------------------------

MEAN, CLS, MAX = (f"pooling_mode_{mode}" for mode in ("mean_tokens", "cls_token", "max_tokens"))


@pytest.mark.parametrize(
    ("content", "poolings"),
    [
        ({MEAN: True, CLS: False}, ("mean",)),
        ({CLS: True}, ("cls",)),
        ({MEAN: True, MAX: True, CLS: True}, ("cls", "max", "mean")),
        ({}, ("mean",)),
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode": "max", MEAN: True}, ("max",)),
    ],
)
def test_the_poolings_are_those_of_either_dialect_in_its_order(
    config: ModelConfig, root: Path, content: Mapping[str, Any], poolings: tuple[str, ...]
) -> None:
    (root / P).write_text(json.dumps(content))
    assert read_directory(config).head.poolings == poolings


def test_a_pooling_without_its_file_is_refused(config: ModelConfig, root: Path) -> None:
    (root / P).unlink()
    with pytest.raises(ConfigError, match="expected one or more pooling modes"):
        read_directory(config)


def entries(*kinds: str, package: str = "sentence_transformers.models") -> list[dict[str, str]]:
    return [
        {"type": f"{package}.{kind}", "path": f"{n}_{kind}" if n else ""}
        for n, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (entries("Transformer", "Pooling", "LSTM"), "got 'sentence_transformers.models.LSTM'"),
        (entries("Transformer", "Pooling", package="mine"), "got 'mine.Transformer', expected a m"),
        (entries("Pooling"), r"got \['Pooling'\], expected Transformer, Pooling, then"),
        (entries("Transformer", "Normalize", "Pooling"), "expected Transformer, Pooling, then"),
        ([{"type": "x"}], "expected modules with type and path"),
        (["x"], "expected modules with type and path"),
        ([entries("Transformer")[0] | {"path": "../x"}], "got '../x', expected a folder inside"),
        ([entries("Transformer")[0] | {"kwargs": ["task"]}], "as 'kwargs' in modules.json"),
    ],
)
def test_modules_that_would_be_left_out_or_reordered_are_refused(
    config: ModelConfig, root: Path, modules: Any, said: str
) -> None:
    (root / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=said):
        read_directory(config)


DENSE = {"in_features": 32, "out_features": 8, "bias": True}


def with_dense(root: Path, **changes: Any) -> None:
    (root / "modules.json").write_text(json.dumps(entries("Transformer", "Pooling", "Dense")))
    rewrite(root / "2_Dense/config.json", DENSE | changes)


def test_a_dense_layer_is_read_with_its_weights(
    tiny_bert: Any, config: ModelConfig, root: Path
) -> None:
    with_dense(root, activation_function="torch.nn.modules.linear.Identity")
    path = root / "2_Dense/model.safetensors"
    made = Dense("stages.0", path, 32, 8, bias=True, activation="identity", residual=False)
    assert read_directory(config).head.stages == (made,)
    assert read_directory(config).width == 8
    with pytest.raises(ConfigError, match=r"'missing': \['linear.bias', 'linear.weight'\]"):
        registry.check(config)
    tensors = tiny_bert.tensors()
    weight, bias = tensors["pooler.dense.weight"][:8], tensors["pooler.dense.bias"][:8]
    save_file({"linear.weight": weight, "linear.bias": bias}, path)
    registry.check(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"in_features": 31}, "got 31, expected 32, the size of what comes before"),
        ({"out_features": None}, "expected 'out_features' in 2_Dense/config.json"),
        ({"activation_function": "mine.Act"}, "got 'mine.Act', expected one of torch.nn.Identity"),
        ({"activation_function": "torch.nn.modules.activation.Mish"}, "expected one of torch.nn"),
        ({"module_input_name": "token_embeddings"}, "as 'module_input_name'"),
        ({"dropout": 0.1}, "got 0.1, expected nothing as"),
    ],
)
def test_a_dense_layer_that_is_not_served_is_refused(
    config: ModelConfig, root: Path, changes: Mapping[str, Any], said: str
) -> None:
    with_dense(root, **changes)
    with pytest.raises(ConfigError, match=said):
        read_directory(config)


# --- the limit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "tokenizer", "limit"),
    [
        pytest.param(16, None, 16, id="as-stated"),
        pytest.param(None, None, 20, id="unstated-is-the-positions"),
        pytest.param(512, None, 20, id="more-than-there-are-positions"),
        pytest.param(None, 8, 8, id="only-the-tokenizers"),
        pytest.param(None, 1e30, 20, id="the-tokenizers-is-none"),
        pytest.param(16, 8, 16, id="the-modules-counts"),
    ],
)
def test_the_limit_is_what_is_stated_but_never_beyond_the_positions(
    config: ModelConfig, root: Path, module: int | None, tokenizer: float | None, limit: int
) -> None:
    rewrite(root / S, {"max_seq_length": module})
    rewrite(root / T, {"model_max_length": tokenizer})
    assert read_directory(config).max_length == limit


def test_without_its_optional_file_the_limit_is_the_positions(
    config: ModelConfig, root: Path
) -> None:
    (root / S).unlink()
    assert read_directory(config).max_length == 20


# --- files that are not what they should be -----------------------------------------------------

NAMES = [C, "modules.json", P, S]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{", id="cut"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe", id="no-text"),
        pytest.param(b"3", id="a-number"),
        pytest.param(b'["a"]', id="a-list-of-text"),
        pytest.param(b"[" * 100_000, id="too-deep"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    config: ModelConfig, root: Path, name: str, content: bytes
) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(ConfigError, match=Path(name).name):
        read_directory(config)


@pytest.mark.parametrize(
    ("normalize", "truncate_dim", "normalized"),
    [(True, None, True), (True, 32, True), (True, 16, False), (False, None, False)],
    ids=["as-it-is", "of-all-values", "cut-afterwards", "never"],
)
def test_vectors_have_length_1_if_normalizing_is_the_last_that_happens_to_them(
    tiny_bert: Any, tmp_path: Path, normalize: bool, truncate_dim: int | None, normalized: bool
) -> None:
    root = tiny_bert.write(tmp_path / "model", normalize=normalize)
    rewrite(root / "config_sentence_transformers.json", {"truncate_dim": truncate_dim})
    assert read_directory(tiny_bert.served(root)).normalized is normalized


@pytest.mark.parametrize(
    ("said", "sizes"), [([16, 8], (8, 16)), ([], ()), (None, ()), ([32, 8], (8,))], ids=str
)
def test_the_sizes_that_vectors_may_be_cut_to_are_read(
    config: ModelConfig, root: Path, said: list[int] | None, sizes: tuple[int, ...]
) -> None:
    rewrite(root / "config.json", {"matryoshka_dimensions": said, "is_matryoshka": True})
    assert embedding.host(config).dimensions == sizes


@pytest.mark.parametrize("said", [8, ["8"], [0], [True]], ids=str)
def test_sizes_that_are_none_are_refused(config: ModelConfig, root: Path, said: Any) -> None:
    rewrite(root / "config.json", {"matryoshka_dimensions": said})
    with pytest.raises(ConfigError, match="as 'matryoshka_dimensions' in "):
        read_directory(config)


ODD: tuple[Any, ...] = (None, True, 0, -1, 1.5, float("nan"), 10**400, "x", [], [1], {}, {"a": 1})
PLACES = {
    "config.json": C,
    "tokenizer.json": F,
    "tokenizer_config.json": T,
    "special_tokens_map.json": "special_tokens_map.json",
    "model.safetensors.index.json": "model.safetensors.index.json",
    "sentence_bert_config.json": S,
    "config_sentence_transformers.json": U,
    "config.json of a Pooling": P,
    "config.json of a Dense": "2_Dense/config.json",
    "config.json of a Normalize": "3_Normalize/config.json",
}


@pytest.mark.parametrize("listed", PLACES)
def test_whatever_a_key_holds_it_is_read_or_a_config_error(
    tiny_bert: Any, config: ModelConfig, root: Path, listed: str
) -> None:
    tensors = tiny_bert.tensors()
    kinds = entries("Transformer", "Pooling", "Dense", "Normalize")
    (root / "modules.json").write_text(json.dumps(kinds))
    rewrite(root / "2_Dense/config.json", DENSE)
    weight, bias = tensors["pooler.dense.weight"][:8], tensors["pooler.dense.bias"][:8]
    path = root / "2_Dense/model.safetensors"
    save_file({"linear.weight": weight, "linear.bias": bias}, path)
    registry.check(config)
    if "index" in listed:
        (root / "model.safetensors").unlink()
    file, keys = root / PLACES[listed], FILES[listed]
    before = file.read_text() if file.exists() else "{}"
    file.parent.mkdir(exist_ok=True)
    for key in sorted(keys.used | keys.only.keys()):
        for value in ODD:
            file.write_text(json.dumps(json.loads(before) | {key: value}))
            with suppress(ConfigError):
                registry.check(config)


@pytest.mark.parametrize("name", ["truncation", "padding", "added_tokens"])
def test_whatever_a_part_of_the_tokenizer_holds_it_is_read_or_a_config_error(
    config: ModelConfig, root: Path, name: str
) -> None:
    for value in (*ODD, {"direction": 1}, [{"id": "x"}]):
        content = json.loads((root / F).read_text()) | {name: value}
        (root / F).write_text(json.dumps(content))
        with suppress(ConfigError):
            registry.check(config)


@pytest.mark.parametrize(
    "tokens",
    [{"x": {}}, {"2": 1}, {"2": {"content": 3}}, {"2": "[CLS]"}, {"1e9": {"content": "a"}}],
)
def test_added_tokens_that_are_none_are_a_config_error(
    config: ModelConfig, root: Path, tokens: Any
) -> None:
    rewrite(root / T, {"added_tokens_decoder": tokens})
    with pytest.raises(ConfigError, match="added_tokens_decoder"):
        registry.check(config)
