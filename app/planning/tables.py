"""Cost tables as files: written by `brim check --measure`, or what a server says in its stats.

May touch: the file system, msgspec, a server's `/v2/models/{m}/stats`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final
from urllib.error import URLError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import msgspec

from engine.buckets import Bucket
from engine.costs import Cost
from engine.errors import ConfigError

PATIENCE_S: Final = 10.0
"""How long a server may take to say its costs."""

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Line(msgspec.Struct, frozen=True):
    """What is needed of one line of a cost table."""

    rows: Positive
    seconds: Annotated[float, msgspec.Meta(gt=0)]
    length: Positive | None = None


class File(msgspec.Struct, frozen=True):
    """A cost file, or a model's stats."""

    cost_table: Annotated[list[Line], msgspec.Meta(min_length=1)]


def read(path: Path) -> dict[Bucket, float]:
    """Seconds per bucket. Raises `ConfigError` naming the file and what is wrong in it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError("", str(path), f"a readable file: {error.strerror}") from None
    return parse(content, str(path))


def fetch(url: str, model: str) -> dict[Bucket, float]:
    """Seconds per bucket, as a running server has them now. Raises `ConfigError`."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError("--url", url, "http://HOST:PORT")
    address = f"{url.rstrip('/')}/v2/models/{quote(model, safe='')}/stats"
    try:
        with urlopen(address, timeout=PATIENCE_S) as reply:  # noqa: S310 (checked above)
            content: bytes = reply.read()
    except (URLError, OSError) as error:
        raise ConfigError("--url", address, f"a server that answers: {error}") from None
    return parse(content, address)


def parse(content: bytes, source: str) -> dict[Bucket, float]:
    """Seconds per bucket, of JSON with a `cost_table`; `source` is named in errors."""
    try:
        lines = msgspec.json.decode(content, type=File).cost_table
    except msgspec.DecodeError as error:
        what, _, at = str(error).partition(" - at `")
        key = at.rstrip("`").removeprefix("$").removeprefix(".")
        expected = "JSON with a `cost_table`, as in a model's stats"
        raise ConfigError(key, what, expected, file=source) from None
    seconds: dict[Bucket, float] = {}
    for line in lines:
        bucket = Bucket(line.rows, line.length)
        if bucket in seconds:
            raise ConfigError("cost_table", str(bucket), "every bucket once", file=source)
        seconds[bucket] = line.seconds
    if len({bucket.length is None for bucket in seconds}) > 1:
        names = [str(bucket) for bucket in seconds]
        raise ConfigError("cost_table", names, "all with a length, or none", file=source)
    return seconds


def write(path: Path, model: str, costs: Sequence[Cost]) -> None:
    """One model's costs, in the shape of its stats. Raises `ConfigError` where that cannot be."""
    content = {"name": model, "cost_table": [dataclasses.asdict(line) for line in costs]}
    save(path, json.dumps(content, indent=1) + "\n")


def save(path: Path, text: str) -> None:
    """Write a file that somebody named. Raises `ConfigError` where that cannot be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", str(path), f"a file to write: {error.strerror}") from None
