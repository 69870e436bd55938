"""The keys of a model directory's JSON files: used, without effect, or refused.

A setting that changes the numbers is honoured or refused, never ignored. "Without effect" means:
on an embedding that the reference library (sentence-transformers) computes in inference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Only:
    """A key that is allowed with these values alone, and what another value would change."""

    values: tuple[Any, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Keys:
    """What one kind of file may say.

    strict  the reference library fails on an unknown key, too. Otherwise it ignores it, and Brim
            refuses it only if its name suggests that it changes the numbers (`SUSPECT`)
    """

    used: frozenset[str]
    neutral: frozenset[str] = frozenset()
    only: Mapping[str, Only] = field(default_factory=dict)
    strict: bool = False


SUSPECT: Final = re.compile(
    "accent|act(ivation)?(_|$)|adapter|alibi|attn|attention|bias|bits|cast|causal|chinese|chunk|clean"
    "|crop|cut|decod|dim(ension)?s?(_|$)|embed|eps|expert|head|hidden|instruct|layer|length|lora"
    "|lower|mask|max_|min_|norm|pool|position|prefix|prompt|prun|quant|residual|rope|rotary|scal"
    "|side|size|strip|suffix|token|trunc|type|unk|weight|window"
)
"""A name that may stand for a change of the numbers."""

UNSET: Final[tuple[Any, ...]] = (None, False, "", [], {})
"""An unknown key with one of these values sets nothing."""


def refused(file: str, key: str, value: object, expected: str, why: str = "") -> ConfigError:
    """The error for a key of a directory's file."""
    said = f"{expected} as {key!r} in {file}"
    return ConfigError("path", value, f"{said}: {why}" if why else said)


def read(root: Path, name: str, keys: Keys) -> dict[str, Any]:
    """The file's content with its keys checked; empty where the file is missing. Raises
    `ConfigError` with the file, the key, the value and what is expected.
    """
    content = read_json(root, name, dict)
    check(name, content, keys)
    return dict(content)


def read_json(root: Path, name: str, kind: type[Any]) -> Any:
    """The content of a file, of this type; empty where the file is missing."""
    path = root / name
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError("path", str(root), f"valid JSON in {name}: {error}") from None
    if not isinstance(content, kind):
        problem = f"a JSON {kind.__name__} in {name}, not a {type(content).__name__}"
        raise ConfigError("path", str(root), problem)
    return content


def check(file: str, content: Mapping[str, Any], keys: Keys) -> None:
    """Raises `ConfigError` for the first key that would change the numbers unread."""
    for key, value in content.items():
        rule = keys.only.get(key)
        if rule is not None:
            if value not in rule.values:
                raise refused(file, key, value, " or ".join(map(json.dumps, rule.values)), rule.why)
        elif key in keys.used or key in keys.neutral or value in UNSET:
            continue
        elif keys.strict or SUSPECT.search(key.lower()):
            raise refused(file, key, value, "nothing", "the key is unknown")


def whole(file: str, key: str, value: Any) -> int:
    """A whole number from 1 up."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value % 1:
        raise refused(file, key, value, "a whole number")
    return int(value)


def text(file: str, key: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise refused(file, key, value, "a string")
    return value


def table(file: str, key: str, value: Any) -> dict[str, Any]:
    """An object; an empty one for null."""
    if not isinstance(value, dict | None):
        raise refused(file, key, value, "an object")
    return value or {}


def truth(file: str, key: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise refused(file, key, value, "true or false")
    return value


def _words(names: str) -> frozenset[str]:
    return frozenset(names.split())


_NO_CODE: Final = Only((None, {}), "the numbers would come from code in the directory")
_SENTENCE: Final = Only((None, "sentence_embedding"), "stages work on the pooled embedding alone")

TOKENS: Final = _words("unk_token sep_token pad_token cls_token mask_token bos_token eos_token")
"""Special tokens that have a name."""

MORE_TOKENS: Final = _words("additional_special_tokens extra_special_tokens")
"""Special tokens without a name."""

CONFIG: Final = Keys(
    used=_words("""
        model_type architectures vocab_size max_position_embeddings type_vocab_size hidden_size
        intermediate_size num_hidden_layers num_attention_heads hidden_act layer_norm_eps
        tokenizer_class matryoshka_dimensions
    """),
    neutral=_words("""
        _name_or_path _commit_hash _num_labels _attn_implementation _attn_implementation_autoset
        attn_implementation transformers_version torch_dtype dtype
        hidden_dropout_prob attention_probs_dropout_prob classifier_dropout dropout
        initializer_range initializer_factor gradient_checkpointing use_cache
        pad_token_id bos_token_id eos_token_id sep_token_id mask_token_id unk_token_id cls_token_id
        decoder_start_token_id
        tie_word_embeddings tie_encoder_decoder cross_attention_hidden_size
        chunk_size_feed_forward output_attentions output_hidden_states output_past return_dict
        id2label label2id num_labels problem_type finetuning_task task_specific_params
        pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head
        pooler_type directionality torchscript use_bfloat16 tf_legacy_loss language model_name
        max_length min_length length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
        num_beams num_beam_groups num_return_sequences remove_invalid_values repetition_penalty
        do_sample early_stopping diversity_penalty temperature top_k top_p typical_p
        bad_words_ids begin_suppress_tokens suppress_tokens exponential_decay_length_penalty
        forced_bos_token_id forced_eos_token_id output_scores return_dict_in_generate prefix
        sentence_transformers is_matryoshka
    """),
    only={
        "is_decoder": Only((None, False), "a decoder's tokens do not see the ones after them"),
        "add_cross_attention": Only((None, False), "there is no second sequence"),
        "is_encoder_decoder": Only((None, False), "BERT is an encoder"),
        "position_embedding_type": Only(
            (None, "absolute"), "other position embeddings need absolute positions replaced"
        ),
        "quantization_config": Only((None, {}), "quantized weights are not served"),
        "pruned_heads": Only((None, {}), "pruned heads are not served"),
        "auto_map": _NO_CODE,
    },
)
"""config.json."""

SENTENCE_BERT: Final = Keys(
    used=_words("""
        max_seq_length do_lower_case tokenizer_args processor_kwargs model_args model_kwargs
    """),
    neutral=_words("unpad_inputs backend"),
    only={
        "transformer_task": Only((None, "feature-extraction"), "another task has another output"),
        "module_output_name": Only((None, "token_embeddings"), "the pooling reads these"),
        "modality_config": Only(
            (None, {}, {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}),
            "other methods, outputs and inputs are not served",
        ),
        "processing_kwargs": Only((None, {}), "it would change how texts are tokenized"),
        "config_args": Only((None, {}), "it would change config.json"),
        "config_kwargs": Only((None, {}), "it would change config.json"),
        "tokenizer_name_or_path": Only((None, ""), "the tokenizer is that of the directory"),
        "query_length": Only((None,), "multi-vector models are not served"),
        "document_length": Only((None,), "multi-vector models are not served"),
        "query_expansion": Only((None,), "multi-vector models are not served"),
    },
    strict=True,
)
"""sentence_bert_config.json, and the names that older versions gave it."""

LOADING: Final = Keys(
    used=_words("model_max_length"),
    neutral=_words("torch_dtype dtype attn_implementation trust_remote_code low_cpu_mem_usage"),
    strict=True,
)
"""`model_args` and `tokenizer_args` of sentence_bert_config.json."""

SENTENCE_TRANSFORMERS: Final = Keys(
    used=_words("prompts default_prompt_name truncate_dim"),
    neutral=_words("__version__ similarity_fn_name requirements"),
    only={"model_type": Only((None, "SentenceTransformer"), "other kinds are not served")},
)
"""config_sentence_transformers.json."""

TOKENIZER: Final = Keys(
    used=TOKENS
    | MORE_TOKENS
    | _words("""
        tokenizer_class do_lower_case strip_accents tokenize_chinese_chars model_max_length max_len
        truncation_side padding_side added_tokens_decoder add_prefix_space
    """),
    neutral=_words("""
        name_or_path tokenizer_file vocab_file special_tokens_map_file backend is_local
        local_files_only processor_class clean_up_tokenization_spaces chat_template max_length
        stride truncation_strategy pad_to_multiple_of pad_token_type_id padding truncation
        pad_to_max_length do_basic_tokenize verbose use_fast revision full_tokenizer_file legacy
        device_map trust_remote_code sp_model_kwargs errors language model_type
    """),
    only={
        "never_split": Only((None, []), "tokens that are never split are not served"),
        "split_special_tokens": Only((None, False), "special tokens are recognised in a text"),
        "wordpieces_prefix": Only((None, "##"), "the prefix is that of tokenizer.json"),
        "add_bos_token": Only((None,), "special tokens are those of tokenizer.json"),
        "add_eos_token": Only((None,), "special tokens are those of tokenizer.json"),
        "fix_mistral_regex": Only((None, False), "the file is used as it stands"),
        "model_input_names": Only(
            (
                None,
                ["input_ids", "token_type_ids", "attention_mask"],
                ["input_ids", "attention_mask"],
            ),
            "padding is masked",
        ),
        "auto_map": _NO_CODE,
    },
)
"""tokenizer_config.json."""

SPECIAL_TOKENS: Final = Keys(used=TOKENS | MORE_TOKENS, strict=True)
"""special_tokens_map.json."""

TOKENIZER_FILE: Final = Keys(
    used=_words("truncation padding added_tokens normalizer pre_tokenizer post_processor model"),
    neutral=_words("version decoder"),
    strict=True,
)
"""tokenizer.json; the `tokenizers` library reads what is inside."""

TRUNCATION: Final = Keys(
    used=_words("direction"), neutral=_words("max_length strategy stride"), strict=True
)
"""`truncation` of tokenizer.json; the limit is the directory's."""

PADDING: Final = Keys(
    used=_words("direction"),
    neutral=_words("strategy pad_to_multiple_of pad_id pad_type_id pad_token"),
    strict=True,
)
"""`padding` of tokenizer.json; padding is masked."""

INDEX: Final = Keys(used=_words("weight_map"), neutral=_words("metadata"), strict=True)
"""model.safetensors.index.json."""

MODULE: Final = Keys(
    used=_words("type path"),
    neutral=_words("idx name"),
    only={"kwargs": Only((None, []), "a module's own arguments are not served")},
    strict=True,
)
"""One entry of modules.json."""

POOLING_MODES: Final[Mapping[str, str]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""A flag of the dialect before 5.4 -> the name since; in the order of their concatenation."""

POOLING: Final = Keys(
    used=frozenset(POOLING_MODES)
    | _words("pooling_mode embedding_dimension word_embedding_dimension include_prompt"),
    strict=True,
)
"""config.json of a Pooling module."""

DENSE: Final = Keys(
    used=_words("in_features out_features bias activation_function use_residual"),
    only={"module_input_name": _SENTENCE, "module_output_name": _SENTENCE},
    strict=True,
)
"""config.json of a Dense module."""

NORMALIZE: Final = Keys(
    used=frozenset(),
    only={"module_input_name": _SENTENCE, "module_output_name": _SENTENCE},
    strict=True,
)
"""config.json of a Normalize module; often there is none."""

DROPOUT: Final = Keys(used=frozenset(), neutral=_words("dropout"), strict=True)
"""config.json of a Dropout module, which does nothing in inference."""

FILES: Final[Mapping[str, Keys]] = {
    "config.json": CONFIG,
    "tokenizer.json": TOKENIZER_FILE,
    "tokenizer.json, truncation": TRUNCATION,
    "tokenizer.json, padding": PADDING,
    "tokenizer_config.json": TOKENIZER,
    "special_tokens_map.json": SPECIAL_TOKENS,
    "model.safetensors.index.json": INDEX,
    "sentence_bert_config.json": SENTENCE_BERT,
    "sentence_bert_config.json, model_args and tokenizer_args": LOADING,
    "config_sentence_transformers.json": SENTENCE_TRANSFORMERS,
    "modules.json, each module": MODULE,
    "config.json of a Pooling": POOLING,
    "config.json of a Dense": DENSE,
    "config.json of a Normalize": NORMALIZE,
    "config.json of a Dropout": DROPOUT,
}
"""Every list, by the heading it has in docs/directories.md."""
