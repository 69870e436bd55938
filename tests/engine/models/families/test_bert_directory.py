"""What the JSON files of a BERT directory may say, and what this family refuses to serve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.models.config import ModelConfig
from engine.models.families.bert_directory import BertShape, Directory, read_directory


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
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_a_good_directory_is_read_as_it_stands(config: ModelConfig, root: Path) -> None:
    assert read_directory(config) == Directory(
        weights=root / "model.safetensors",
        tokenizer=root / "tokenizer.json",
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
        pooling="mean",
        normalize=True,
        max_length=16,
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(config: ModelConfig, root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(ConfigError, match=f"expected a directory with {name}") as raised:
        read_directory(config)
    assert (raised.value.key, raised.value.value) == ("path", str(root))


def test_a_file_in_the_place_of_the_directory_is_refused(tiny_bert: Any, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a directory with config\.json"):
        read_directory(tiny_bert.served(root / "config.json"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"model_type": "mpnet"}, "got 'mpnet', expected .* of model_type bert", id="m"
        ),
        pytest.param(
            {"model_type": None}, "got None, expected .* of model_type bert", id="no-type"
        ),
        pytest.param(
            {"position_embedding_type": "relative_key"}, "absolute positions", id="other-positions"
        ),
        pytest.param(
            {"hidden_act": "silu"}, "got 'silu', expected hidden_act, one of gelu, ", id="act"
        ),
        pytest.param({"hidden_size": None}, r"'hidden_size' in config\.json", id="a-missing-size"),
        pytest.param(
            {"layer_norm_eps": None}, r"'layer_norm_eps' in config\.json", id="a-missing-epsilon"
        ),
    ],
)
def test_a_model_that_this_family_cannot_serve_is_refused(
    config: ModelConfig, root: Path, changes: Mapping[str, Any], said: str
) -> None:
    rewrite(root / "config.json", changes)
    with pytest.raises(ConfigError, match=said):
        read_directory(config)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_the_activation_is_that_of_the_config(
    config: ModelConfig, root: Path, activation: str
) -> None:
    rewrite(root / "config.json", {"hidden_act": activation})
    assert read_directory(config).shape.activation == activation


def test_a_config_that_names_no_activation_means_gelu(config: ModelConfig, root: Path) -> None:
    rewrite(root / "config.json", {"hidden_act": None})
    assert read_directory(config).shape.activation == "gelu"


# --- pooling ------------------------------------------------------------------------------------

MEAN, CLS, MAX = (f"pooling_mode_{mode}" for mode in ("mean_tokens", "cls_token", "max_tokens"))


@pytest.mark.parametrize(("key", "pooling"), [(MEAN, "mean"), (CLS, "cls"), (MAX, "max")])
def test_the_pooling_is_the_one_that_is_on(
    config: ModelConfig, root: Path, key: str, pooling: str
) -> None:
    modes = {MEAN: False, CLS: False, MAX: False} | {key: True}
    rewrite(root / "1_Pooling/config.json", modes)
    assert read_directory(config).pooling == pooling


@pytest.mark.parametrize(
    ("modes", "got"),
    [
        pytest.param({MEAN: False}, r"got \[\]", id="none"),
        pytest.param({CLS: True}, rf"got \['{CLS}', '{MEAN}'\]", id="two"),
        pytest.param(
            {MEAN: False, "pooling_mode_lasttoken": True},
            r"got \['pooling_mode_lasttoken'\]",
            id="an-unknown-one",
        ),
        pytest.param(
            {"pooling_mode_weightedmean_tokens": True},
            rf"got \['{MEAN}', 'pooling_mode_weightedmean_tokens'\]",
            id="an-unknown-one-beside-a-known-one",
        ),
    ],
)
def test_a_pooling_other_than_exactly_one_known_mode_is_refused(
    config: ModelConfig, root: Path, modes: Mapping[str, bool], got: str
) -> None:
    rewrite(root / "1_Pooling/config.json", modes)
    with pytest.raises(ConfigError, match=f"{got}, expected one pooling mode of {MEAN}, "):
        read_directory(config)


def test_a_pooling_without_its_file_is_refused(config: ModelConfig, root: Path) -> None:
    (root / "1_Pooling/config.json").unlink()
    with pytest.raises(ConfigError, match="expected one pooling mode"):
        read_directory(config)


def test_without_modules_the_pooling_is_the_mean_and_nothing_is_normalized(
    config: ModelConfig, root: Path
) -> None:
    (root / "modules.json").unlink()
    directory = read_directory(config)
    assert (directory.pooling, directory.normalize) == ("mean", False)


def test_normalizing_is_a_module_of_its_own(tiny_bert: Any, tmp_path: Path) -> None:
    config = tiny_bert.served(tiny_bert.write(tmp_path / "model", normalize=False))
    assert not read_directory(config).normalize


def test_a_module_that_would_be_left_out_is_refused(config: ModelConfig, root: Path) -> None:
    modules = json.loads((root / "modules.json").read_text())
    modules.append({"type": "sentence_transformers.models.Dense", "path": "3_Dense"})
    (root / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"got \['Dense'\], expected modules Transformer, "):
        read_directory(config)


# --- the limit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "limit"),
    [
        pytest.param(16, 16, id="as-stated"),
        pytest.param(None, 20, id="unstated-is-the-positions"),
        pytest.param(512, 20, id="more-than-there-are-positions"),
    ],
)
def test_the_limit_is_what_is_stated_but_never_beyond_the_positions(
    config: ModelConfig, root: Path, stated: int | None, limit: int
) -> None:
    rewrite(root / "sentence_bert_config.json", {"max_seq_length": stated})
    assert read_directory(config).max_length == limit


def test_without_its_optional_file_the_limit_is_the_positions(
    config: ModelConfig, root: Path
) -> None:
    (root / "sentence_bert_config.json").unlink()
    assert read_directory(config).max_length == 20


# --- files that are not what they should be -----------------------------------------------------

NAMES = ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{", id="cut"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe", id="no-text"),
        pytest.param(b"3", id="a-number"),
        pytest.param(b'["a"]', id="a-list-of-text"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    config: ModelConfig, root: Path, name: str, content: bytes
) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(ConfigError, match=Path(name).name):
        read_directory(config)
