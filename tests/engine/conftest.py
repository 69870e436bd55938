"""What the tests with a real device share: a tiny BERT on disk, and a client that is closed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from engine.models.config import ModelConfig, Source
from engine.models.tensors import Array
from engine.serving.client import InProcessClient
from engine.telemetry.events import Observer

Serving = Callable[..., AbstractContextManager[InProcessClient]]

WORDS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "full", "to", "the", "brim", "a", "is", "##s")


class TinyBert:
    """Writes Hugging Face directories of a BERT with 2 layers of 32, its weights random.

    The weights are large enough that a wrong mask, norm or head shows in the third digit.
    """

    config: Final[Mapping[str, Any]] = {
        "model_type": "bert",
        "vocab_size": len(WORDS),
        "max_position_embeddings": 20,
        "type_vocab_size": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }

    def tensors(self) -> dict[str, Array]:
        """The weights under the names of Hugging Face's `BertModel`, the same every time."""
        rng = np.random.default_rng(7)
        hidden, between = self.config["hidden_size"], self.config["intermediate_size"]
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.config["vocab_size"], hidden),
            "embeddings.position_embeddings.weight": (
                self.config["max_position_embeddings"],
                hidden,
            ),
            "embeddings.token_type_embeddings.weight": (self.config["type_vocab_size"], hidden),
            "embeddings.LayerNorm.weight": (hidden,),
            "embeddings.LayerNorm.bias": (hidden,),
            "pooler.dense.weight": (hidden, hidden),
            "pooler.dense.bias": (hidden,),
        }
        for layer in range(self.config["num_hidden_layers"]):
            for name, out, into in (
                ("attention.self.query", hidden, hidden),
                ("attention.self.key", hidden, hidden),
                ("attention.self.value", hidden, hidden),
                ("attention.output.dense", hidden, hidden),
                ("attention.output.LayerNorm", hidden, None),
                ("intermediate.dense", between, hidden),
                ("output.dense", hidden, between),
                ("output.LayerNorm", hidden, None),
            ):
                stem = f"encoder.layer.{layer}.{name}"
                shapes[f"{stem}.weight"] = (out,) if into is None else (out, into)
                shapes[f"{stem}.bias"] = (out,)
        return {
            name: rng.normal(float("LayerNorm.weight" in name), 0.3, shape).astype(np.float32)
            for name, shape in shapes.items()
        }

    def write(
        self,
        root: Path,
        *,
        config: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Array] | None = None,
        pooling: str | None = "pooling_mode_mean_tokens",
        normalize: bool = True,
        max_seq_length: int = 16,
    ) -> Path:
        """Write the directory as sentence-transformers does. `config` changes config.json;
        without `pooling` there is no modules.json.
        """
        (root / "1_Pooling").mkdir(parents=True)
        save_file(dict(self.tensors() if tensors is None else tensors), root / "model.safetensors")
        tokenizer().save(str(root / "tokenizer.json"))
        said: dict[str, Any] = {
            "config.json": {**self.config, **(config or {})},
            "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
        }
        if pooling is not None:
            kinds = {"Transformer": "", "Pooling": "1_Pooling"}
            kinds |= {"Normalize": "2_Normalize"} if normalize else {}
            said["modules.json"] = [
                {"type": f"sentence_transformers.models.{kind}", "path": path}
                for kind, path in kinds.items()
            ]
            said["1_Pooling/config.json"] = {
                "word_embedding_dimension": 32,
                "pooling_mode_cls_token": False,
                pooling: True,
            }
        for name, content in said.items():
            (root / name).write_text(json.dumps(content))
        return root

    def served(self, root: Path, **changes: Any) -> ModelConfig:
        """A config that serves such a directory."""
        fields: dict[str, Any] = {
            "name": "tiny",
            "source": Source(family="bert-embedding", path=str(root)),
            "rows": (1, 2, 4),
            "lengths": (8, 16),
        }
        return ModelConfig(**(fields | changes))


def tokenizer() -> Tokenizer:
    """WordPiece over `WORDS` with BERT's normalizer and special tokens. It carries a truncation
    and a padding of its own, as the published files do; the server must ignore them.
    """
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens([word for word in WORDS if word.startswith("[")])
    made.decoder = decoders.WordPiece()
    made.enable_truncation(5)
    made.enable_padding(length=12)
    return made


@pytest.fixture(scope="session")
def tiny_bert() -> TinyBert:
    """Writes directories of a tiny BERT."""
    return TinyBert()


@pytest.fixture(scope="session")
def tiny_directory(tiny_bert: TinyBert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT as it comes: mean pooling, normalized."""
    return tiny_bert.write(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture(scope="session")
def serving() -> Serving:
    """`with serving(config, ...) as client`: started inside, closed afterwards."""

    @contextmanager
    def serve(
        *configs: ModelConfig, observer: Observer | None = None, **parts: Any
    ) -> Iterator[InProcessClient]:
        client = InProcessClient(configs, observer, **parts)
        client.start()
        try:
            assert client.wait_startup_finished(200)
            yield client
        finally:
            client.close(10)

    return serve
