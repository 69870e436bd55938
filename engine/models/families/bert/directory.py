"""A BERT sentence encoder's directory: what its JSON files say, checked as a whole.

No JAX: this runs before any device is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from engine.errors import ConfigError
from engine.models import weights
from engine.models.config import ModelConfig
from engine.models.families.bert import keys, modules
from engine.models.families.bert.keys import read, refused, text, truth, whole
from engine.models.families.bert.modules import Head

Activation = Literal[
    "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python", "relu", "silu", "swish"
]


@dataclass(frozen=True, slots=True)
class BertShape:
    """The sizes that a config.json states; the defaults are those of the reference library."""

    vocabulary: int = 30522
    positions: int = 512
    token_types: int = 2
    hidden: int = 768
    intermediate: int = 3072
    layers: int = 12
    heads: int = 12
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-12


@dataclass(frozen=True, slots=True)
class Directory:
    """The content of the JSON files of one model directory.

    root          where the transformer's files are
    tokenizer     tokenizer_config.json, and what it means with the class that it names
    lower_case    `do_lower_case` of sentence_bert_config.json
    max_length    tokens, special ones included
    prompt        put before every text
    truncate_dim  the size that embeddings are cut to, or None
    dimensions    the sizes that they may be cut to
    """

    root: Path
    shape: BertShape
    head: Head
    tokenizer: Mapping[str, Any]
    lower_case: bool
    max_length: int
    prompt: str
    truncate_dim: int | None
    dimensions: tuple[int, ...] = ()

    @property
    def normalized(self) -> bool:
        """Whether embeddings have length 1; what the reference library cuts, it cuts last."""
        uncut = self.width == self.head.width(self.shape.hidden)
        return uncut and self.head.stages[-1:] == ("normalize",)

    @property
    def width(self) -> int:
        """The size of the embedding."""
        whole_width = self.head.width(self.shape.hidden)
        return whole_width if self.truncate_dim is None else min(self.truncate_dim, whole_width)


def read_directory(config: ModelConfig) -> Directory:
    """Read and check the JSON files. Raises `ConfigError` for what this family cannot serve."""
    top = weights.resolve(config)
    listed = modules.read_modules(top)
    root = top / listed[0].path
    for name in ("config.json", "tokenizer.json"):
        if not (root / name).is_file():
            raise ConfigError("path", str(config.source.path), f"a directory with {name}")
    if (root / "adapter_config.json").is_file():
        expected = "weights with their adapter merged in, and no adapter_config.json"
        raise ConfigError("path", str(config.source.path), expected)
    content = read(root, "config.json", keys.CONFIG)
    shape = _read_shape(content)
    head = modules.read_head(top, listed, shape.hidden)
    if head.guessed:
        _check_no_other_task(content)
    sentence = _read_sentence_bert(root)
    tokenizer = read(root, "tokenizer_config.json", keys.TOKENIZER)
    tokenizer.setdefault("tokenizer_class", content.get("tokenizer_class"))
    prompt, truncate_dim = _read_use(top, head)
    return Directory(
        root=root,
        shape=shape,
        head=head,
        tokenizer=tokenizer,
        lower_case=sentence.lower_case,
        max_length=min(_limit(sentence, tokenizer, shape), shape.positions),
        prompt=prompt,
        truncate_dim=truncate_dim,
        dimensions=_read_dimensions(content),
    )


_SIZES: Final = {
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}


def _read_shape(content: Mapping[str, Any]) -> BertShape:
    file = "config.json"
    kind = content.get("model_type")
    if kind != "bert":
        raise refused(file, "model_type", kind, "'bert'")
    activation = content.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in get_args(Activation):
        raise refused(file, "hidden_act", activation, f"one of {', '.join(get_args(Activation))}")
    sizes = {
        ours: whole(file, theirs, content[theirs])
        for ours, theirs in _SIZES.items()
        if theirs in content
    }
    epsilon = content.get("layer_norm_eps", 1e-12)
    if isinstance(epsilon, bool) or not isinstance(epsilon, float | int) or not 0 <= epsilon < 1:
        raise refused(file, "layer_norm_eps", epsilon, "a small number")
    shape = BertShape(**sizes, activation=cast("Activation", activation), norm_epsilon=epsilon)
    if shape.hidden % shape.heads:
        raise refused(file, "num_attention_heads", shape.heads, f"a divisor of {shape.hidden}")
    return shape


ENCODERS: Final = (
    "BertModel",
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForNextSentencePrediction",
)
"""`architectures` whose weights are trained to represent text."""


def _check_no_other_task(content: Mapping[str, Any]) -> None:
    """Without a pooling module, a classifier's directory is not that of a sentence encoder."""
    stated = content.get("architectures") or []
    for name in stated if isinstance(stated, list) else [stated]:
        if name not in ENCODERS:
            expected = f"{' or '.join(ENCODERS)}, or a modules.json with a Pooling,"
            raise refused("config.json", "architectures", name, expected)


@dataclass(frozen=True, slots=True)
class _SentenceBert:
    """sentence_bert_config.json."""

    file: str
    limit: Any
    lower_case: bool


_KINDS: Final = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")


def _read_sentence_bert(root: Path) -> _SentenceBert:
    """The first of its names that has content, as the reference library looks for it."""
    names = [f"sentence_{kind}_config.json" for kind in _KINDS]
    file, content = names[0], dict[str, Any]()
    for name in names:
        content = read(root, name, keys.SENTENCE_BERT)
        if content:
            file = name
            break
    limit = content.get("max_seq_length")
    for key in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs"):
        arguments = keys.table(file, key, content.get(key))
        keys.check(f"{file}, {key}", arguments, keys.LOADING)
        limit = arguments.get("model_max_length", limit)
    lower_case = truth(file, "do_lower_case", content.get("do_lower_case", False))
    return _SentenceBert(file, limit, lower_case)


def _limit(sentence: _SentenceBert, tokenizer: Mapping[str, Any], shape: BertShape) -> int:
    """The stated limit in tokens; the tokenizer's own where the module states none."""
    if sentence.limit is not None:
        return whole(sentence.file, "max_seq_length", sentence.limit)
    for key in ("model_max_length", "max_len"):
        if tokenizer.get(key) is not None:
            return whole("tokenizer_config.json", key, tokenizer[key])
    return shape.positions


def _read_dimensions(content: Mapping[str, Any]) -> tuple[int, ...]:
    file, key = "config.json", "matryoshka_dimensions"
    sizes = content.get(key) or []
    if not isinstance(sizes, list):
        raise refused(file, key, sizes, "a list of whole numbers")
    return tuple(sorted({whole(file, key, size) for size in sizes}))


def _read_use(top: Path, head: Head) -> tuple[str, int | None]:
    """The prompt and the size of the embedding that config_sentence_transformers.json asks for."""
    file = "config_sentence_transformers.json"
    content = read(top, file, keys.SENTENCE_TRANSFORMERS)
    prompts = keys.table(file, "prompts", content.get("prompts"))
    name = content.get("default_prompt_name")
    if name is not None and text(file, "default_prompt_name", name) not in prompts:
        raise refused(file, "default_prompt_name", name, f"one of {sorted(prompts)}")
    prompt = text(file, f"prompts.{name}", prompts[name] or "") if name is not None else ""
    if prompt and not head.prompt_is_pooled:
        expected = "true, because a default prompt is set, "
        raise refused("config.json of the pooling", "include_prompt", False, expected)
    dim = content.get("truncate_dim")
    return prompt, None if dim is None else whole(file, "truncate_dim", dim)
