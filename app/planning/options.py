"""Options that several commands have, and what they mean.

May touch: click, cost and trace files, a server's stats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from app.planning import tables
from engine.buckets import Bucket
from engine.errors import ConfigError
from engine.scenario import capacity
from engine.traces import TRACES, Arrival, Shape, recorded

OUT: Final = click.Path(dir_okay=False, path_type=Path)
"""A file to write."""

WARMUP: Final = 0.1
"""The part of a made-up trace that is simulated and not counted."""


def numbers(text: str) -> tuple[int, ...]:
    """`"1,2,4"` -> `(1, 2, 4)`: whole numbers from 1 up, increasing."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or found[0] < 1 or list(found) != sorted(set(found)):
        raise click.BadParameter(f"{text!r} is not whole numbers from 1 up, increasing, as 1,2,4")
    return found


@dataclass(frozen=True, slots=True)
class Planned:
    """What the options of `planned` say: a cost table, and who arrives.

    seconds   what each bucket costs
    trace     makes the arrivals anew, every time that it is called
    said      the trace in words
    requests  how many, at most
    warmup_s  what arrives before this is not counted
    """

    seconds: dict[Bucket, float]
    trace: Callable[[], Iterator[Arrival]]
    said: str
    requests: int
    shape: Shape
    warmup_s: float


_OPTIONS: Final = (
    click.option("--costs", type=click.Path(path_type=Path), help="A cost file, or saved stats."),
    click.option("--url", metavar="URL", help="Ask this server for its costs instead."),
    click.option("--model", metavar="NAME", help="Whose costs --url is asked for."),
    click.option(
        "--trace",
        metavar="KIND|FILE",
        help=f"Arrivals: {', '.join(TRACES)}, or a CSV with a header: at [rows] [length].  "
        "[default: poisson]",
    ),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests/s on average."),
    click.option(
        "--load",
        type=click.FloatRange(0, min_open=True),
        help="The rate as a part of the capacity, instead of --rate.  [default: 0.6]",
    ),
    click.option(
        "--requests",
        type=click.IntRange(1),
        default=100_000,
        show_default=True,
        help="How many, at most.",
    ),
    click.option(
        "--rows", type=numbers, default="1", metavar="N,N", help="Rows of a request.  [default: 1]"
    ),
    click.option(
        "--lengths",
        type=numbers,
        metavar="N,N",
        help="Lengths of a row.  [default: those of the buckets]",
    ),
    click.option("--seed", type=int, default=0, help="Of everything that is random.  [default: 0]"),
)


def planned(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of which `read` makes a `Planned`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read(
    *,
    costs: Path | None,
    url: str | None,
    model: str | None,
    trace: str | None,
    rate: float | None,
    load: float | None,
    requests: int,
    rows: tuple[int, ...],
    lengths: tuple[int, ...] | None,
    seed: int,
) -> Planned:
    """Raises `ConfigError` or `click.UsageError` for what does not fit together."""
    seconds = _seconds(costs, url, model)
    trace = trace or "poisson"
    if trace not in TRACES:
        if rate is not None or load is not None:
            raise click.UsageError("a recorded trace has its rate; --rate and --load do not go")
        file = Path(trace)
        if not file.suffix and not file.exists():
            raise ConfigError("--trace", trace, f"{', '.join(TRACES)}, or a CSV file")
        return Planned(
            seconds,
            lambda: islice(recorded(file), requests),
            f"{trace}, at most {requests:,} requests",
            requests,
            Shape(),
            warmup_s=0.0,
        )
    if rate is not None and load is not None:
        raise click.UsageError("--rate or --load, not both")
    shape = Shape(rows, lengths or tuple(sorted({b.length for b in seconds}, key=lambda n: n or 0)))
    most = capacity(seconds, shape.rows, shape.lengths)
    pace = rate if rate is not None else most * (0.6 if load is None else load)
    return Planned(
        seconds,
        lambda: TRACES[trace](pace, requests, shape, seed),
        f"{trace}, {requests:,} requests at {_short(pace)}/s, {pace / most:.0%} of capacity",
        requests,
        shape,
        warmup_s=WARMUP * requests / pace,
    )


def _seconds(costs: Path | None, url: str | None, model: str | None) -> dict[Bucket, float]:
    if (costs is None) == (url is None):
        raise click.UsageError("--costs FILE, or --url URL --model NAME: where are the costs?")
    if costs is not None:
        return tables.read(costs)
    if url is None or model is None:
        raise click.UsageError("--url needs --model")
    return tables.fetch(url, model)


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"  # noqa: PLR2004
