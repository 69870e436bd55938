"""The costs of a model's buckets: measured, printed, and as JSON in a file or a model's stats."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import msgspec
from rich.console import Console
from rich.status import Status
from rich.table import Column, Table
from typing_extensions import override

from app.cli.common import table
from app.settings import Positive, split_message
from engine import api

TIMEOUT_S: Final = 10.0
"""For a server's stats."""


class _ShowProgress(api.Observer):
    """Shows the bucket that was compiled or verified last."""

    def __init__(self, status: Status) -> None:
        self._status = status

    @override
    def compiled(self, model: str, bucket: api.Bucket, seconds: float) -> None:
        self._status.update(f"{model}: compiled {bucket}, {seconds:.1f} s")

    @override
    def verified(self, model: str, bucket: api.Bucket, seconds: float) -> None:
        self._status.update(f"{model}: verified {bucket}, {seconds * 1e3:.3g} ms")


def measure(config: api.ModelConfig, console: Console) -> tuple[api.Cost, ...]:
    """Warm the model up as a server does, and close it again.

    Raises `WarmupError` with the reason if the model fails.
    """
    with console.status(config.name) as status:
        engine = api.InProcessClient([config], _ShowProgress(status))
        engine.start()
        try:
            engine.wait_startup_finished()
            stats = engine.endpoint(config.name).snapshot()
        finally:
            engine.close()
    if stats.reason is not None:
        raise api.WarmupError(stats.reason)
    return stats.cost_table


def report(console: Console, costs: Sequence[api.Cost]) -> None:
    """Print the cost of every bucket, and the bucket that the policy runs for each queue depth."""
    cost_table = api.CostTable({api.Bucket(line.rows, line.length): line.seconds for line in costs})
    console.print(_costs(costs, cost_table))
    console.print()
    for length in dict.fromkeys(line.length for line in costs):
        largest = max(line.rows for line in costs if line.length == length)
        console.print(_policy(cost_table, length, largest))
        console.print()


def _costs(costs: Sequence[api.Cost], cost_table: api.CostTable) -> Table:
    rows = table(Column("  bucket", justify="right", style="dim"), "ms", "rows/s")
    rows.add_column()
    for line in costs:
        bucket = api.Bucket(line.rows, line.length)
        best = cost_table.best(line.length) == bucket
        remark = "[green]best: the most rows/s[/]" if best else ""
        if line.dominated:
            remark = "[yellow]dominated: never the cheapest; not used[/]"
        rate = line.rows / line.seconds
        rows.add_row(str(bucket), f"{line.seconds * 1e3:.3f}", f"{rate:.0f}", remark)
    return rows


def _policy(cost_table: api.CostTable, length: int | None, largest: int) -> Table:
    title = "  queued rows" if length is None else f"  queued rows of length {length}"
    loads = [f"at load {load:g}" for load in api.LOADS]
    rows = table(Column(title, justify="right", style="dim"), *loads)
    for queued, buckets in bucket_ranges(cost_table, length, largest):
        rows.add_row(queued, *map(str, buckets))
    return rows


def bucket_ranges(
    cost_table: api.CostTable, length: int | None, largest: int
) -> Iterator[tuple[str, tuple[api.Bucket, ...]]]:
    """Ranges of queued rows ("1", "2-5", ..., "9 or more"), and their bucket at each of `LOADS`."""

    def buckets_for(rows: int) -> tuple[api.Bucket, ...]:
        return tuple(cost_table.policy_bucket(length, rows, load) for load in api.LOADS)

    # from twice the largest bucket on it is always the best one
    numbers = range(1, 2 * largest + 2)
    for buckets, group in groupby(numbers, key=buckets_for):
        first, *rest = group
        last = rest[-1] if rest else first
        if last == numbers[-1]:
            yield f"{first} or more", buckets
        else:
            yield (f"{first}-{last}" if rest else str(first)), buckets


class Line(msgspec.Struct, frozen=True):
    """One bucket of a cost table; other keys are ignored."""

    rows: Positive
    seconds: Annotated[float, msgspec.Meta(gt=0)]
    length: Positive | None = None


class File(msgspec.Struct, frozen=True):
    """A cost file, or a model's stats."""

    cost_table: Annotated[list[Line], msgspec.Meta(min_length=1)]


def read(path: Path) -> dict[api.Bucket, float]:
    """Seconds per bucket. Raises `ConfigError` with the file and the mistake in it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise api.ConfigError("", str(path), f"a readable file: {error.strerror}") from None
    return parse(content, str(path))


def fetch(url: str, model: str) -> dict[api.Bucket, float]:
    """Seconds per bucket, from a running server. Raises `ConfigError`."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise api.ConfigError("--url", url, "http://HOST:PORT")
    address = f"{url.rstrip('/')}/v2/models/{quote(model, safe='')}/stats"
    try:
        with urlopen(address, timeout=TIMEOUT_S) as response:  # noqa: S310 (checked above)
            content: bytes = response.read()
    except OSError as error:  # all of urllib's are
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise api.ConfigError("--url", address, f"a server that answers: {error}") from None
    return parse(content, address)


def parse(content: bytes, source: str) -> dict[api.Bucket, float]:
    """Seconds per bucket from JSON with a `cost_table`. Errors name `source`."""
    try:
        lines = msgspec.json.decode(content, type=File).cost_table
    except msgspec.DecodeError as error:
        what, key = split_message(str(error))
        expected = "JSON with a `cost_table`, like a model's stats"
        raise api.ConfigError(key, what, expected, file=source) from None
    seconds: dict[api.Bucket, float] = {}
    for line in lines:
        bucket = api.Bucket(line.rows, line.length)
        if bucket in seconds:
            raise api.ConfigError("cost_table", str(bucket), "every bucket once", file=source)
        seconds[bucket] = line.seconds
    if len({bucket.length is None for bucket in seconds}) > 1:
        names = [str(bucket) for bucket in seconds]
        raise api.ConfigError("cost_table", names, "all with a length, or none", file=source)
    return seconds


def write(path: Path, model: str, costs: Sequence[api.Cost]) -> None:
    """Write one model's costs in the form of its stats. Raises `ConfigError`."""
    save(path, {"name": model, "cost_table": [dataclasses.asdict(line) for line in costs]})


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file that `--out` names, as JSON. Raises `ConfigError`."""
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise api.ConfigError("--out", str(path), f"a file to write: {error.strerror}") from None
