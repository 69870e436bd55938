"""`brim tune`: which bucket sizes to write into the config."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from app.cli.common import COUNT, IN, POSITIVE, sizes, table
from app.cli.planning import options
from app.cli.planning.options import Workload
from app.settings import load
from engine import api


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A grid of buckets, the whole trace simulated on it, and its capacity in requests/s."""

    grid: api.BucketGrid
    result: api.Result
    capacity: float

    @property
    def device_s(self) -> float:
        """Device-seconds for each request answered before its deadline."""
        return self.result.busy_s / max(1, self.result.good)


@click.command(params=[*options.OPTIONS], context_settings={"show_default": True})
@click.option("--most", type=COUNT, default=8, help="Buckets, at most.")
@click.option(
    "--for",
    "goal",
    type=click.Choice(["work", "p99"]),
    default="p99",
    help="Minimise p99 latency, or device time for each answered request (work).",
)
@click.option("--timeout-ms", type=POSITIVE, default=500.0, help="Deadline of a request.")
@click.option("--config", type=IN, help="Compare with the buckets of --model in this config.")
def tune(*, most: int, goal: api.Goal, timeout_ms: float, config: Path | None, **rest: Any) -> None:
    """Find the best bucket sizes for a load.

    Sizes without a cost are not tried; measure many: brim check --measure --rows 1,2,3,4,6,8,...
    """
    console = Console(highlight=False)
    workload = options.read(**rest)
    old = api.grid_of(workload.seconds)
    if config is not None:
        old = load(config, os.environ).select(rest["model"], one=True)[0].grid
    scenario = api.Scenario(workload.seconds, timeout_s=timeout_ms / 1e3)
    before, after = _search(scenario, workload, old, most, goal)
    description = f"{workload.description}; at most {most} buckets, for {goal}"
    console.print(f"\n  {description}\n", soft_wrap=True)
    console.print(_table(before, after))
    console.print(f"\n  {_gain(before, after, goal)}\n")
    for line in difference(before.grid, after.grid):
        console.print(line, style="red" if line.startswith("-") else "green")
    console.print()


def _search(
    scenario: api.Scenario, workload: Workload, old: api.BucketGrid, most: int, goal: api.Goal
) -> tuple[Evaluation, Evaluation]:
    """The old grid and the best one, on the whole trace."""
    trace = list(workload.trace())
    with Console(stderr=True).status("") as status:
        tuner = api.Tuner(
            scenario, trace, goal, lambda grid: status.update(f"trying {sizes(grid)}")
        )
        best = tuner.best(most)
        status.update("comparing on the whole trace")
        return _evaluate(scenario, old, trace), _evaluate(scenario, best.grid, trace)


def _evaluate(scenario: api.Scenario, grid: api.BucketGrid, trace: list[api.Arrival]) -> Evaluation:
    seconds = api.restricted(scenario.seconds, grid)
    rows = sum(arrival.rows for arrival in trace) / len(trace)
    lengths = [arrival.length for arrival in trace]
    limit = api.capacity(seconds, (1,), lengths) / rows
    return Evaluation(grid, replace(scenario, seconds=seconds).run(trace), limit)


def _table(before: Evaluation, after: Evaluation) -> Table:
    headings = ("buckets", "p99 ms", "device ms", "fill", "not in time", "capacity/s")
    rows = table(Column(style="dim"), *headings)
    for name, each in (("  before", before), ("  after", after)):
        result = each.result
        total = result.answered + result.refused + result.expired
        rows.add_row(
            name,
            str(len(each.grid.buckets)),
            f"{api.p99(result) * 1e3:.3g}",
            f"{each.device_s * 1e3:.3g}",
            f"{result.fill:.2f}",
            f"{1 - result.good / total:.2%}",
            f"{each.capacity:,.0f}",
        )
    return rows


def _gain(before: Evaluation, after: Evaluation, goal: api.Goal) -> str:
    if goal == "p99":
        name, old, new = "p99", api.p99(before.result), api.p99(after.result)
    else:
        name, old, new = "device time per answered request", before.device_s, after.device_s
    change = f"{new / old - 1:+.1%}" if 0 < old < float("inf") else f"{new * 1e3:.3g} ms"
    saved = len(before.grid.buckets) - len(after.grid.buckets)
    buckets = "bucket" if abs(saved) == 1 else "buckets"
    return f"{name} {change}, {abs(saved)} {'fewer' if saved >= 0 else 'more'} {buckets} to compile"


def difference(before: api.BucketGrid, after: api.BucketGrid) -> list[str]:
    """The lines of the config that change: the old after a minus, the new after a plus."""
    lines = []
    for key in ("rows", "lengths"):
        old, new = (list(getattr(grid, key)) for grid in (before, after))
        if old != new:
            lines += [f"-{key} = {old}", f"+{key} = {new}"]
    return lines or ["  nothing to change"]
