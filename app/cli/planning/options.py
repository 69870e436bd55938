"""The options that `brim simulate` and `brim tune` share, and the workload that they describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from app.cli.common import COUNT, IN, POSITIVE, numbers, short
from app.cli.planning import cost_tables
from engine import api

WARMUP: Final = 0.1
"""The part of a generated trace that is simulated and not counted."""

SIZING: Final = 50_000
"""Requests of the trace that the search for the number of replicas simulates."""

Costs = dict[api.Bucket, float]


@dataclass(frozen=True, slots=True)
class Workload:
    """A cost table and at most `requests` requests, which each call of `trace` makes anew.

    It is an open loop: requests arrive at the times of the trace, whatever the server does. What
    arrives in the first `warmup_s` is not counted.
    """

    seconds: Costs
    trace: Callable[[], Iterator[api.Arrival]]
    description: str
    requests: int
    shape: api.Shape
    warmup_s: float

    def run(self, scenario: api.Scenario) -> api.Result:
        """Simulate the whole trace."""
        return replace(scenario, warmup_s=self.warmup_s).run(self.trace())

    def replicas(self, scenario: api.Scenario) -> int | None:
        """How many meet the objective; the start of the trace is distributed round-robin."""
        return api.replicas_needed(
            lambda number: scenario.run(api.split(islice(self.trace(), SIZING), number)),
            scenario.objective_s,
        )


OPTIONS: Final = (
    click.Option(["--costs"], type=IN, help="A cost file, or saved stats."),
    click.Option(["--url"], metavar="URL", help="Read the costs from this server instead."),
    click.Option(["--model"], metavar="NAME", help="The model whose costs --url reads."),
    click.Option(
        ["--trace"],
        metavar="KIND|FILE",
        help=f"Arrivals: {', '.join(api.TRACES)}, or a CSV file with the columns at, [rows], "
        "[length].  [default: poisson]",
    ),
    click.Option(["--rate"], type=POSITIVE, help="Requests/s on average."),
    click.Option(
        ["--load"], type=POSITIVE, help="The rate as a part of the capacity.  [default: 0.6]"
    ),
    click.Option(["--requests"], type=COUNT, default=100_000, help="Requests, at most."),
    click.Option(["--rows"], type=numbers, default="1", metavar="N,N", help="Rows of a request."),
    click.Option(
        ["--lengths"], type=numbers, metavar="N,N", help="Lengths of rows.  [default: the buckets']"
    ),
    click.Option(["--seed"], type=int, default=0, help="Seed of random numbers."),
)
"""What `read` takes, except for the command's own options."""


def read(
    *, costs: Path | None, url: str | None, model: str | None, trace: str | None, **rest: Any
) -> Workload:
    """Raises `ConfigError` or `click.UsageError` for options that do not fit together."""
    seconds = _seconds(costs, url, model)
    if trace is None or trace in api.TRACES:
        return _generated(seconds, trace or "poisson", **rest)
    return _recorded(seconds, trace, **rest)


def _recorded(
    seconds: Costs, trace: str, *, rate: float | None, load: float | None, requests: int, **_: Any
) -> Workload:
    if rate is not None or load is not None:
        raise click.UsageError("a recorded trace has its own rate: leave out --rate and --load")
    file = Path(trace)
    if not file.suffix and not file.exists():
        raise api.ConfigError("--trace", trace, f"{', '.join(api.TRACES)}, or a CSV file")

    def arrivals() -> Iterator[api.Arrival]:
        return islice(api.recorded(file), requests)

    description = f"{trace}, at most {requests:,} requests"
    return Workload(seconds, arrivals, description, requests, api.Shape(), warmup_s=0.0)


def _generated(
    seconds: Costs,
    kind: str,
    *,
    rate: float | None,
    load: float | None,
    requests: int,
    rows: tuple[int, ...],
    lengths: tuple[int, ...] | None,
    seed: int,
) -> Workload:
    if rate is not None and load is not None:
        raise click.UsageError("--rate or --load, not both")
    known = sorted({bucket.length for bucket in seconds}, key=lambda length: length or 0)
    shape = api.Shape(rows, lengths or tuple(known))
    limit = api.capacity(seconds, shape.rows, shape.lengths)
    pace = limit * (0.6 if load is None else load) if rate is None else rate
    part = f"{pace / limit:.0%} of capacity"
    description = f"{kind}, {requests:,} requests at {short(pace)}/s, {part}"
    arrivals = partial(api.TRACES[kind], pace, requests, shape, seed)
    return Workload(seconds, arrivals, description, requests, shape, WARMUP * requests / pace)


def _seconds(costs: Path | None, url: str | None, model: str | None) -> Costs:
    if (costs is None) == (url is None):
        raise click.UsageError("expected the costs: either --costs FILE, or --url URL --model NAME")
    if costs is not None:
        return cost_tables.read(costs)
    if url is None or model is None:
        raise click.UsageError("--url needs --model")
    return cost_tables.fetch(url, model)
