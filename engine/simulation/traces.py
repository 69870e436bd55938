"""Traces for the simulator: made up or recorded arrivals.

An *open* trace does not depend on the server. A *closed loop* (`Clients`) has a number of clients,
each of which sends its next request a turnaround after its last answer.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from engine.errors import ConfigError

BURST_SHARE: Final = 0.2  # the part of the time in which `bursty` sends
BURST_S: Final = 0.1  # the mean length of a burst, in seconds
DAY_S: Final = 60.0  # the period of `diurnal`: a day, shortened


class Arrival(NamedTuple):
    """One request: seconds from the beginning, rows, and the length of its longest row."""

    at: float
    rows: int = 1
    length: int | None = None


@dataclass(slots=True, eq=False)
class Request:
    """One simulated request: what a scheduler reads, and the closed loop's client that sent it."""

    enqueued_at: float
    deadline: float
    rows: int
    bucket_length: int | None
    client: int | None
    priority: int = 1


@dataclass(frozen=True, slots=True)
class Clients:
    """A closed loop. The turnaround varies uniformly by the part `jitter` to both sides."""

    number: int
    turnaround_s: float = 0.001
    jitter: float = 0.5
    rows: int = 1
    lengths: tuple[int | None, ...] = (None,)


@dataclass(frozen=True, slots=True)
class Shape:
    """The requests of a made-up trace: each has one of these row counts and lengths."""

    rows: tuple[int, ...] = (1,)
    lengths: tuple[int | None, ...] = (None,)


def poisson(rate: float, count: int, shape: Shape = Shape(), seed: int = 0) -> Iterator[Arrival]:
    """Independent arrivals, `rate` requests/s on average."""
    rng = random.Random(seed)  # noqa: S311
    at = 0.0
    for _ in range(count):
        at += rng.expovariate(rate)
        yield _arrival(rng, at, shape)


def constant(rate: float, count: int, shape: Shape = Shape(), seed: int = 0) -> Iterator[Arrival]:
    """Evenly spaced arrivals."""
    rng = random.Random(seed)  # noqa: S311
    for number in range(count):
        yield _arrival(rng, number / rate, shape)


def bursty(
    rate: float, count: int, shape: Shape = Shape(), seed: int = 0, burst_s: float = BURST_S
) -> Iterator[Arrival]:
    """`rate` requests/s on average, in bursts of `burst_s` seconds that take a fifth of the time.

    An interrupted Poisson process: lengths of bursts and pauses are exponentially distributed.
    """
    rng = random.Random(seed)  # noqa: S311
    inside = rate / BURST_SHARE
    pause_s = burst_s * (1 - BURST_SHARE) / BURST_SHARE
    at, sent = 0.0, 0
    while sent < count:
        at += rng.expovariate(1 / pause_s)
        ends = at + rng.expovariate(1 / burst_s)
        at += rng.expovariate(inside)
        while at < ends and sent < count:
            yield _arrival(rng, at, shape)
            sent += 1
            at += rng.expovariate(inside)
        at = ends


def diurnal(rate: float, count: int, shape: Shape = Shape(), seed: int = 0) -> Iterator[Arrival]:
    """`rate` requests/s on average, between 0 and twice that over a period of `DAY_S`."""
    rng = random.Random(seed)  # noqa: S311
    at, sent = 0.0, 0
    while sent < count:
        at += rng.expovariate(2 * rate)
        if rng.random() < (1 - math.cos(2 * math.pi * at / DAY_S)) / 2:
            yield _arrival(rng, at, shape)
            sent += 1


def _arrival(rng: random.Random, at: float, shape: Shape) -> Arrival:
    rows = shape.rows[0] if len(shape.rows) == 1 else rng.choice(shape.rows)
    length = shape.lengths[0] if len(shape.lengths) == 1 else rng.choice(shape.lengths)
    return Arrival(at, rows, length)


TRACES: Final[dict[str, Callable[..., Iterator[Arrival]]]] = {
    trace.__name__: trace for trace in (poisson, bursty, diurnal, constant)
}
"""Made-up open traces by name: `(rate, count, shape, seed)`."""


def recorded(path: Path) -> Iterator[Arrival]:
    """A CSV with a header: `at` in seconds, and optionally `rows` and `length`. Raises
    `ConfigError` naming the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from _records(path, csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("trace", str(path), f"a readable CSV file: {error}") from None


def _records(path: Path, reader: csv.DictReader[str]) -> Iterator[Arrival]:
    if "at" not in (reader.fieldnames or ()):
        raise ConfigError("trace", reader.fieldnames, "a column `at`, in seconds", file=str(path))
    last = -math.inf
    for record in reader:
        line = f"line {reader.line_num}"
        try:
            length = int(record["length"]) if record.get("length") else None
            arrival = Arrival(float(record["at"]), int(record.get("rows") or 1), length)
        except (TypeError, ValueError):
            raise ConfigError(line, dict(record), "numbers", file=str(path)) from None
        least = min(arrival.rows, 1 if arrival.length is None else arrival.length)
        if not last <= arrival.at < math.inf or least < 1:
            problem = "times that never decrease, rows and lengths from 1 up"
            raise ConfigError(line, dict(record), problem, file=str(path))
        last = arrival.at
        yield arrival


def split(trace: Iterable[Arrival], replicas: int) -> Iterator[Arrival]:
    """The arrivals at one of several replicas behind a round-robin balancer."""
    return islice(trace, 0, None, replicas)
