"""Make small directories of sentence encoders, and their vectors with the reference library.

Writes ``directories/`` beside this file:

* ``weights.safetensors``: a `BertModel` with 2 layers of 32 and random weights, for all cases;
* ``texts.json``: the texts that are embedded;
* ``CASE/``: one directory without the weights, as the library saved it and `CASES` changed it;
* ``CASE/vectors.npy``: float32, the embedding of every text, each encoded alone.

``recipe.py`` beside this file says what is derived from the weights (shards, a prefix, halves).

Made with Python 3.11, torch 2.13.0 (CPU), sentence-transformers 6.2.0, transformers 5.23.0,
tokenizers 0.23.3, numpy 2.4.6. These are not dependencies of the project: to run the script again,
from the root of the repository, use an environment of its own:

    python3.11 -m venv /tmp/refvenv
    /tmp/refvenv/bin/pip install torch==2.13.0
    /tmp/refvenv/bin/pip install sentence-transformers==6.2.0 transformers==5.23.0
    /tmp/refvenv/bin/pip install tokenizers==0.23.3 numpy==2.4.6
    HF_HUB_OFFLINE=1 /tmp/refvenv/bin/python tests/reference/make_directories.py
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, BertTokenizer, XLMRobertaTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import recipe  # noqa: E402

OUT = HERE / "directories"
LIMIT = 8
WORDS = """
    [PAD] [UNK] [CLS] [SEP] [MASK] full to the brim a is ##s goblet and of café cafe Full The Brim
    . , ! 水 杯 ##m ##ing pour query : über uber [extra] plain
""".split()  # noqa: SIM905
TEXTS = [
    "full to the brim",
    "Full to The Brim!",
    "the café is full of 水杯, and über goblets",
    "",
    "pour [MASK] to plain [extra] the   <mask>  brim",
    " ".join(["full to the brim and pouring a goblet of"] * 3) + " cafe",
    "brims",
]


def base(folder: Path) -> None:
    """A random BertModel and its cased vocabulary, as the library saves them."""
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
        initializer_range=0.3,
    )
    model = BertModel(config)
    for name, value in model.named_parameters():
        if name.endswith("bias") or "LayerNorm" in name:
            value.data += torch.randn_like(value) * 0.2
    model.eval().save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    BertTokenizer(vocab=vocabulary, do_lower_case=True).save_pretrained(folder)


def save(folder: Path, origin: Path, *, after: list[Any], limit: int = LIMIT) -> None:
    """What the library saves for a transformer and these modules."""
    transformer = Transformer(str(origin), processor_kwargs={"model_max_length": limit})
    SentenceTransformer(modules=[transformer, *after], device="cpu").save(
        str(folder), create_model_card=False
    )


def edit(folder: Path, name: str, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one, and a dict changes what is inside."""
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    for key, value in changes.items():
        if value is None:
            content.pop(key, None)
        elif isinstance(value, dict) and isinstance(content.get(key), dict):
            content[key] |= value
        else:
            content[key] = value
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))


def lower(folder: Path, value: bool) -> None:
    """Say in tokenizer.json whether it lowers."""
    edit(folder, "tokenizer.json", normalizer={"lowercase": value})


def old_dialect(folder: Path, **flags: bool) -> None:
    """What versions before 5.4 saved."""
    every = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    every = (*every, "weightedmean_tokens", "lasttoken")
    said = {f"pooling_mode_{name}": flags.get(name, False) for name in every}
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, **said, "include_prompt": True})
    )
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 10, "do_lower_case": False})
    )
    edit(folder, "tokenizer_config.json", model_max_length=512)


def unigram(folder: Path, special: bool) -> None:
    """A SentencePiece-like tokenizer that is used as it stands."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁full", "▁to", "▁the", "▁brim", "▁"]
    pieces += ["f", "u", "l", "t", "o", "h", "e", "b", "r", "i", "m", "▁go", "blet", "s", "a"]
    made = Tokenizer(models.Unigram([(p, -float(n % 7)) for n, p in enumerate(pieces)], 1))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    if special:
        made.post_processor = Tokenizer.from_file(str(folder / "tokenizer.json")).post_processor
    made.save(str(folder / "tokenizer.json"))
    edit(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def xlm(folder: Path) -> None:
    """The tokenizer of the multilingual encoders, as the library makes and saves it."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁full", "▁to", "▁the", "▁brim", "▁", "f", "u"]
    pieces += ["l", "t", "o", "h", "e", "b", "r", "i", "m", "▁go", "blet", "s", "a", "<mask>"]
    scored = [(piece, -float(n % 7)) for n, piece in enumerate(pieces)]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    XLMRobertaTokenizer(vocab=scored, model_max_length=LIMIT).save_pretrained(folder)


def xlm_with_its_own_rules(folder: Path) -> None:
    """The same with the normalizer that earlier versions wrote."""
    xlm(folder)
    rule = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    edit(folder, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [rule]})


def no_specials(folder: Path) -> None:
    """A tokenizer that puts nothing around a text."""
    edit(folder, "tokenizer.json", post_processor=None)
    edit(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def extra(folder: Path) -> None:
    """One more token that is recognised inside a text."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append(
        {"id": WORDS.index("[extra]"), "content": "[extra]", "special": False}
        | {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    )
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))


def into_folder(folder: Path) -> None:
    """The layout of the first versions: the transformer in a folder of its own."""
    (folder / "0_Transformer").mkdir()
    for path in list(folder.iterdir()):
        kept = ("modules.json", "config_sentence_transformers.json")
        if path.is_file() and path.name not in kept:
            path.rename(folder / "0_Transformer" / path.name)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(entries))


def alone(folder: Path) -> None:
    """Nothing of sentence-transformers."""
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")


torch.manual_seed(11)


def dense(out: int, function: Any, **more: Any) -> Dense:
    """A dense layer with random weights."""
    made = Dense(more.pop("inputs", 32), out, activation_function=function, **more)
    for value in made.parameters():
        value.data = torch.randn_like(value) * 0.3
    return made


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", **changes)


def tokenizer(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "tokenizer_config.json", **changes)


def nothing(_folder: Path) -> None:
    """As the library saved it."""


def both(*edits: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda folder: [each(folder) for each in edits] and None


def use(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config_sentence_transformers.json", **changes)


def sentence_bert(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "sentence_bert_config.json", **changes)


def pooled(mode: Any) -> list[Any]:
    return [Pooling(32, mode)]


MEAN = [Pooling(32, "mean"), Normalize()]
IDENTITY = torch.nn.Identity()

CASES: dict[str, tuple[list[Any], Callable[[Path], Any]]] = {
    "saved": (MEAN, nothing),
    **{mode: (pooled(mode), nothing) for mode in Pooling.POOLING_MODES},
    "several-poolings": (pooled(["mean", "cls", "max"]), nothing),
    "old-mean": (MEAN, lambda folder: old_dialect(folder, mean_tokens=True)),
    "old-cls": (MEAN, lambda folder: old_dialect(folder, cls_token=True)),
    "old-several": (
        MEAN,
        lambda folder: old_dialect(folder, mean_sqrt_len_tokens=True, cls_token=True),
    ),
    "cased-file-lowering-config": (MEAN, lambda folder: lower(folder, False)),
    "lowering-file-cased-config": (MEAN, tokenizer(do_lower_case=False)),
    "cased": (MEAN, both(lambda f: lower(f, False), tokenizer(do_lower_case=False))),
    "cased-lowered-by-the-module": (
        MEAN,
        both(
            lambda f: lower(f, False),
            tokenizer(do_lower_case=False),
            sentence_bert(do_lower_case=True),
        ),
    ),
    "accents-kept": (MEAN, tokenizer(strip_accents=False)),
    "chinese-together": (MEAN, tokenizer(tokenize_chinese_chars=False)),
    "no-tokenizer-config": (
        MEAN,
        both(
            lambda f: lower(f, False),
            lambda f: (f / "tokenizer_config.json").unlink(),
            sentence_bert(max_seq_length=LIMIT),
        ),
    ),
    "as-it-stands": (
        MEAN,
        both(
            lambda f: lower(f, False),
            tokenizer(tokenizer_class="PreTrainedTokenizerFast", do_lower_case=None),
        ),
    ),
    "prompt": (
        MEAN,
        use(prompts={"query": "query: ", "passage": "a "}, default_prompt_name="query"),
    ),
    "prompts-without-a-default": (MEAN, use(prompts={"query": "query: "})),
    "cut-left": (MEAN, tokenizer(truncation_side="left")),
    "cut-left-by-the-file": (
        MEAN,
        both(
            tokenizer(truncation_side=None),
            lambda f: edit(
                f,
                "tokenizer.json",
                truncation=recipe.TRUNCATION | {"direction": "Left"},
            ),
        ),
    ),
    "truncate-dim": (MEAN, use(truncate_dim=16)),
    "dense": ([Pooling(32, "mean"), dense(16, torch.nn.Tanh())], nothing),
    "dense-identity": (
        [Pooling(32, "cls"), dense(24, IDENTITY, bias=False), Normalize()],
        nothing,
    ),
    "dense-residual": (
        [
            Pooling(32, "mean"),
            dense(32, torch.nn.GELU(), use_residual=True),
            dense(12, torch.nn.ReLU(), use_residual=True),
            dense(12, torch.nn.SiLU(), inputs=12),
            dense(8, torch.nn.Sigmoid(), inputs=12),
        ],
        nothing,
    ),
    "defaults": (
        MEAN,
        config(layer_norm_eps=None, type_vocab_size=None, hidden_act=None, architectures=None),
    ),
    **{
        f"act-{name}": (MEAN, config(hidden_act=name))
        for name in ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "relu", "silu")
    },
    "in-a-folder": (MEAN, into_folder),
    "without-modules": (MEAN, alone),
    "no-special-tokens": (MEAN, no_specials),
    "unigram": (MEAN, lambda folder: unigram(folder, special=True)),
    "tokens-not-listed": (
        MEAN,
        both(
            lambda f: edit(f, "tokenizer.json", added_tokens=[]),
            tokenizer(**{f"{name}_token": None for name in ("unk", "sep", "pad", "cls", "mask")}),
        ),
    ),
    "tokens-in-a-map": (
        MEAN,
        both(
            lambda f: edit(f, "tokenizer.json", added_tokens=[]),
            tokenizer(
                mask_token=None,
                additional_special_tokens=["[extra]"],
                tokenizer_class="BertTokenizerFast",
            ),
            lambda f: edit(f, "special_tokens_map.json", mask_token="plain", cls_token="[CLS]"),
        ),
    ),
    "xlm": (MEAN, xlm),
    "xlm-with-a-normalizer": (MEAN, xlm_with_its_own_rules),
    "extra-token": (MEAN, extra),
    "limit-of-the-positions": (
        MEAN,
        both(sentence_bert(max_seq_length=None), tokenizer(model_max_length=None)),
    ),
    "shards": (MEAN, nothing),
    "prefixed": (MEAN, nothing),
    "early-names": (MEAN, nothing),
    "halves": (MEAN, nothing),
}


def vectors(folder: Path) -> np.ndarray:
    """Each text alone, in float32; and the same in company, which must not differ."""
    model = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}
    )
    options = {"convert_to_numpy": True, "show_progress_bar": False}
    # the library fails on a text of no tokens alone, but has an answer in company
    beside = ["plain"] if len(model.tokenizer("")["input_ids"]) == 0 else []
    one_by_one = np.stack([model.encode([text, *beside], **options)[0] for text in TEXTS])
    together = model.encode(TEXTS, **options)
    np.testing.assert_allclose(together, one_by_one, atol=2e-6, rtol=0)
    return one_by_one.astype(np.float32)


def main() -> None:
    """Write every case."""
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    (OUT / "texts.json").write_text(json.dumps(TEXTS, ensure_ascii=False) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        origin = Path(scratch) / "base"
        base(origin)
        save_file(load_file(origin / "model.safetensors"), OUT / "weights.safetensors")
        for name, (after, change) in CASES.items():
            folder = Path(scratch) / name
            save(folder, origin, after=after)
            change(folder)
            weights = next(folder.rglob("model.safetensors")).parent
            if "0_Transformer" not in str(weights):
                weights = folder
            (weights / "model.safetensors").unlink()
            recipe.write_weights(weights, OUT / "weights.safetensors", name)
            found = vectors(folder)
            for path in weights.glob("model*.safetensors"):
                path.unlink()
            for path in folder.rglob("README.md"):
                path.unlink()
            shutil.copytree(folder, OUT / name)
            np.save(OUT / name / "vectors.npy", found)
            print(f"{name}: {found.shape}")


if __name__ == "__main__":
    main()
