"""A wrong configuration is refused before any thread or device exists, and says what is wrong."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.models.config import ModelConfig, Source
from engine.scheduling.buckets import BucketGrid
from engine.testing import puppet_config

SHA = "0" * 64


@pytest.mark.parametrize(
    "source",
    [
        pytest.param({"family": "f", "path": "p"}, id="a-family-with-its-path"),
        pytest.param({"family": "f", "path": "p", "sha256": SHA}, id="pinned-weights"),
        pytest.param({"factory": "m:f"}, id="a-factory"),
        pytest.param({"factory": "m:f", "options": {"n": 1}}, id="a-factory-with-options"),
    ],
)
def test_a_source_is_a_family_or_a_factory(source: dict[str, Any]) -> None:
    assert Source(**source)


@pytest.mark.parametrize(
    ("source", "key", "expected"),
    [
        pytest.param({}, "family", "exactly one of", id="neither"),
        pytest.param({"family": "f", "factory": "m:f"}, "family", "exactly one of", id="both"),
        pytest.param({"family": "f"}, "path", "family 'f'", id="family-without-path"),
        pytest.param({"family": "f", "path": ""}, "path", "family 'f'", id="empty-path"),
        pytest.param({"factory": "m:f", "path": "p"}, "path", "into options", id="factory-path"),
        pytest.param({"factory": "m:f", "sha256": SHA}, "sha256", "no sha256", id="factory-pinned"),
        pytest.param(
            {"family": "f", "path": "p", "options": {"a": 1}}, "options", "no", id="family-options"
        ),
        pytest.param(
            {"family": "f", "path": "p", "sha256": "0" * 63}, "sha256", "64", id="63-digits"
        ),
        pytest.param(
            {"family": "f", "path": "p", "sha256": "A" * 64}, "sha256", "lower", id="upper-case"
        ),
    ],
)
def test_a_wrong_source_names_the_key_and_what_is_allowed(
    source: dict[str, Any], key: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        Source(**source)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        pytest.param({"name": ""}, "name", "letters, digits", id="no-name"),
        pytest.param({"name": "a/b"}, "name", "letters, digits", id="slash-in-the-name"),
        pytest.param({"name": ".."}, "name", "letters, digits", id="nothing-but-dots"),
        pytest.param({"name": "stats"}, "name", "another name", id="the-name-of-a-route"),
        pytest.param({"name": "a\n"}, "name", "letters, digits", id="newline-in-the-name"),
        pytest.param({"rows": ()}, "rows", "at least one", id="no-buckets"),
        pytest.param({"rows": (0,)}, "rows", "from 1 up", id="zero-rows"),
        pytest.param({"rows": (2, 1)}, "rows", "strictly increasing", id="falling"),
        pytest.param({"rows": (1, 1)}, "rows", "strictly increasing", id="twice"),
        pytest.param({"lengths": (8, 4)}, "lengths", "strictly increasing", id="falling-lengths"),
        pytest.param({"dimensions": (0,)}, "dimensions", "from 1 up", id="no-dimensions"),
        pytest.param({"dimensions": (8, 4)}, "dimensions", "strictly", id="falling-dimensions"),
        pytest.param({"max_queue_rows": 0}, "max_queue_rows", "from 1 up", id="no-queue"),
        pytest.param({"in_flight": 0}, "in_flight", "from 1 up", id="nothing-in-in_flight_batch"),
        pytest.param({"compile_threads": 0}, "compile_threads", "from 1 up", id="no-compilers"),
        pytest.param({"max_wait_s": -0.001}, "max_wait_ms", "0 or more", id="negative-wait"),
        pytest.param({"max_wait_s": math.inf}, "max_wait_ms", "0 or more", id="endless-wait"),
        pytest.param({"timeout_s": 0}, "timeout_ms", "more than 0", id="no-time"),
        pytest.param({"timeout_s": math.inf}, "timeout_ms", "more than 0", id="endless-timeout"),
        pytest.param({"timeout_s": math.nan}, "timeout_ms", "more than 0", id="nan-timeout"),
        pytest.param({"timeout_s": 1e10}, "timeout_ms", "at most 1e.12", id="centuries"),
        pytest.param({"max_wait_s": 1e10}, "max_wait_ms", "at most 1e.12", id="wait-centuries"),
        pytest.param({"slo_s": -1}, "slo_ms", "more than 0", id="negative-promise"),
        pytest.param({"tolerance": -1e-9}, "tolerance", "0 or more", id="negative-tolerance"),
        pytest.param({"tolerance": math.nan}, "tolerance", "0 or more", id="nan-tolerance"),
    ],
)
def test_a_wrong_model_names_the_key_as_the_file_writes_it(
    change: dict[str, Any], key: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        puppet_config(**change)
    assert caught.value.key == key


def test_a_wrong_time_is_reported_in_the_milliseconds_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        puppet_config(max_wait_s=-0.25)
    assert str(caught.value) == "max_wait_ms: got -250.0, expected 0 or more milliseconds"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"max_wait_s": 0}, id="never-wait-for-company"),
        pytest.param({"timeout_s": 1e9}, id="all-the-time-in-the-world"),
        pytest.param({"tolerance": 0}, id="bit-identical"),
        pytest.param({"rows": (3,), "lengths": (7,)}, id="one-odd-bucket"),
        pytest.param({"name": "A-z_0.9"}, id="every-kind-of-letter"),
    ],
)
def test_the_edges_are_allowed(change: dict[str, Any]) -> None:
    assert puppet_config(**change)


def test_the_grid_is_that_of_the_rows_and_lengths() -> None:
    assert puppet_config(rows=(1, 2), lengths=(4,)).grid == BucketGrid((1, 2), (4,))


def test_a_config_cannot_be_changed() -> None:
    config: Any = ModelConfig(name="m", source=Source(factory="m:f"))
    with pytest.raises(FrozenInstanceError):
        config.name = "other"


@pytest.mark.parametrize(
    ("key", "prefix", "message"),
    [
        pytest.param("rows", "model.m", "f.toml: model.m.rows: got 0, expected 1", id="both"),
        pytest.param("rows", "", "f.toml: rows: got 0, expected 1", id="only-a-key"),
        pytest.param("", "model.m", "f.toml: model.m: got 0, expected 1", id="only-a-prefix"),
        pytest.param("", "", "f.toml: got 0, expected 1", id="neither"),
    ],
)
def test_a_config_error_can_be_said_of_one_place_in_one_file(
    key: str, prefix: str, message: str
) -> None:
    assert str(ConfigError(key, 0, "1").in_file("f.toml", prefix)) == message
