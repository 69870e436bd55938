"""What the operator configures of one model, frozen and checked before any thread or device exists.

Times are seconds here; the configuration file has milliseconds (`app/settings.py` converts).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engine.errors import ConfigError
from engine.scheduling.buckets import BucketGrid

LONGEST_S: Final = 1e9  # waiting for 1e10 seconds raises an OverflowError in `threading`


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from: a `family` with its `path`, or the user's own `factory`.

    `path` is a file or directory, or `package:NAME/DIR` for data that an installed package carries.
    `sha256` pins the weights file. `options` go to the factory as keyword arguments.
    """

    family: str | None = None
    path: str | None = None
    sha256: str | None = None
    factory: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.family is None) == (self.factory is None):
            got = {"family": self.family, "factory": self.factory}
            raise ConfigError("family", got, "exactly one of family and factory")
        if self.family is not None and not self.path:
            raise ConfigError("path", self.path, f"where the weights of family {self.family!r} are")
        if self.factory is not None and self.path is not None:
            raise ConfigError("path", self.path, "no path beside a factory; put it into options")
        if self.factory is not None and self.sha256 is not None:
            raise ConfigError("sha256", self.sha256, "no sha256 beside a factory")
        if self.factory is None and self.options:
            raise ConfigError("options", dict(self.options), "no options beside a family")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ConfigError("sha256", self.sha256, "64 hexadecimal digits in lower case")


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupConfig:
    """How a model starts.

    tolerance        how far `a` may be from the row alone, `b`: |a - b| <= tolerance * max(1, |b|)
    compile_threads  buckets compiled at once
    required         whether the server is ready only when this model is
    """

    tolerance: float = 1e-4
    compile_threads: int = 2
    required: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ConfigError("tolerance", self.tolerance, "0 or more")
        _check_at_least_one("compile_threads", self.compile_threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingConfig(WarmupConfig):
    """How its requests are scheduled.

    max_wait_s        the longest that a free device waits for the clients of a closed loop
    max_queue_rows    places of the queue, see `engine.scheduling.places`; one row more is refused
    max_request_rows  rows of one request; with more it is refused for good
    timeout_s         from arrival to answer, queueing included; an upper bound for every request
    slo_s             the service level objective for the p99; alerts compare with it
    weight            this model's share of a device, relative to other models
    in_flight         batches in flight at once: one computes while the next is gathered
    """

    max_wait_s: float = 0.010
    max_queue_rows: int = 1024
    max_request_rows: int = 2048
    timeout_s: float = 30.0
    slo_s: float = 0.5
    weight: float = 1.0
    in_flight: int = 2

    def __post_init__(self) -> None:
        super(BatchingConfig, self).__post_init__()
        _check_at_least_one("max_queue_rows", self.max_queue_rows)
        _check_at_least_one("max_request_rows", self.max_request_rows)
        _check_at_least_one("in_flight", self.in_flight)
        if not 0 < self.weight < math.inf:
            raise ConfigError("weight", self.weight, "more than 0")
        if not 0 <= self.max_wait_s < math.inf:
            raise ConfigError("max_wait_ms", self.max_wait_s * 1e3, "0 or more milliseconds")
        for key, seconds in (("timeout_ms", self.timeout_s), ("slo_ms", self.slo_s)):
            if not 0 < seconds < math.inf:
                raise ConfigError(key, seconds * 1e3, "more than 0 milliseconds")
        for key, seconds in (("max_wait_ms", self.max_wait_s), ("timeout_ms", self.timeout_s)):
            if seconds > LONGEST_S:
                raise ConfigError(key, seconds * 1e3, f"at most {LONGEST_S * 1e3:g} milliseconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(BatchingConfig):
    """One model as it is to be served.

    rows, lengths  bucket sizes, strictly increasing; `lengths` only with a dynamic axis
    token_ids      OpenAI's route accepts ids of the model's own tokenizer in place of texts
    dimensions     sizes that an embedding may be cut to, because the model was trained for them
    base           the directory that relative paths start from
    """

    name: str
    source: Source
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    lengths: tuple[int, ...] = ()
    token_ids: bool = False
    dimensions: tuple[int, ...] = ()
    base: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        super(ModelConfig, self).__post_init__()
        if not re.fullmatch("[A-Za-z0-9_-][A-Za-z0-9._-]*", self.name):
            raise ConfigError("name", self.name, "letters, digits, dots, dashes and underscores")
        if self.name == "stats":
            raise ConfigError("name", self.name, "another name; /v2/models/stats is a route")
        if not self.rows:
            raise ConfigError("rows", [], "at least one bucket size")
        for key in ("rows", "lengths", "dimensions"):
            sizes: tuple[int, ...] = getattr(self, key)
            if list(sizes) != sorted(set(sizes)) or any(size < 1 for size in sizes):
                raise ConfigError(key, list(sizes), "whole numbers from 1 up, strictly increasing")

    @property
    def grid(self) -> BucketGrid:
        """The buckets to compile."""
        return BucketGrid(self.rows, self.lengths)


def _check_at_least_one(key: str, value: int) -> None:
    if value < 1:
        raise ConfigError(key, value, "a whole number from 1 up")
