"""`brim tune`: which bucket sizes to write into the config.

May touch: click, the terminal, files that somebody named.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from app import hosting
from app import settings as settings_module
from app.planning import options
from app.planning.options import planned
from engine.buckets import BucketGrid
from engine.errors import ConfigError
from engine.scenario import Scenario, capacity
from engine.simulate import Result
from engine.traces import Arrival
from engine.tune import Goal, Tuner, grid_of, p99, restricted


@dataclass(frozen=True, slots=True)
class Judged:
    """A set of bucket sizes, the whole trace on it, and the requests/s that it could bear."""

    grid: BucketGrid
    result: Result
    capacity: float

    @property
    def work_s(self) -> float:
        """Device-seconds for each request answered in time."""
        return self.result.busy_s / max(1, self.result.good)


@click.command()
@planned
@click.option("--most", type=click.IntRange(1), default=8, show_default=True, help="Buckets.")
@click.option(
    "--for",
    "goal",
    type=click.Choice(["work", "p99"]),
    default="p99",
    show_default=True,
    help="Least device time for each answer, or least 99th percentile.",
)
@click.option(
    "--timeout-ms",
    type=click.FloatRange(0, min_open=True),
    default=500.0,
    show_default=True,
    help="Every request's deadline.",
)
@click.option("--config", type=click.Path(path_type=Path), help="Compare with --model's buckets.")
def tune(*, most: int, goal: Goal, timeout_ms: float, config: Path | None, **rest: Any) -> None:
    """The best set of bucket sizes out of a cost table, for a trace.

    The table should have more sizes than the config: brim check --measure --rows 1,2,3,4,6,8,...
    """
    console = Console(highlight=False)
    try:
        plan = options.read(**rest)
        old = grid_of(plan.seconds) if config is None else _configured(config, rest["model"])
        scenario = Scenario(plan.seconds, timeout_s=timeout_ms / 1e3)
        trace = list(plan.trace())
        with Console(stderr=True).status("") as status:
            tuner = Tuner(scenario, trace, goal, lambda grid: status.update(f"trying {_say(grid)}"))
            best = tuner.best(most)
            status.update("comparing on the whole trace")
            before, after = (_judge(scenario, grid, trace) for grid in (old, best.grid))
    except ConfigError as error:
        hosting.refuse(error)
    console.print(f"\n  {plan.said}; at most {most} buckets, for {goal}\n", soft_wrap=True)
    console.print(_table(before, after))
    console.print(f"\n  {_gain(before, after, goal)}\n")
    for line in difference(before.grid, after.grid):
        console.print(line, style="red" if line.startswith("-") else "green")
    console.print()


def _configured(config: Path, model: str | None) -> BucketGrid:
    models = settings_module.load(config, os.environ).models
    for each in models:
        if model == each.name or (model is None and len(models) == 1):
            return each.grid
    known = ", ".join(each.name for each in models)
    raise ConfigError("--model", model, f"one of {known}")


def _judge(scenario: Scenario, grid: BucketGrid, trace: list[Arrival]) -> Judged:
    seconds = restricted(scenario.seconds, grid)
    rows = sum(arrival.rows for arrival in trace) / len(trace)
    lengths = [arrival.length for arrival in trace]
    most = capacity(seconds, (1,), lengths) / rows
    return Judged(grid, replace(scenario, seconds=seconds).run(trace), most)


def _say(grid: BucketGrid) -> str:
    lengths = f" x lengths {list(grid.lengths)}" if grid.lengths else ""
    return f"rows {list(grid.rows)}{lengths}"


def _table(before: Judged, after: Judged) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2))
    shown.add_column("", style="dim")
    for heading in ("buckets", "p99 ms", "device ms", "fill", "not in time", "capacity/s"):
        shown.add_column(heading, justify="right")
    for name, judged in (("  before", before), ("  after", after)):
        result = judged.result
        total = result.answered + result.refused + result.expired
        shown.add_row(
            name,
            str(len(judged.grid.buckets)),
            f"{p99(result) * 1e3:.3g}",
            f"{judged.work_s * 1e3:.3g}",
            f"{result.fill:.2f}",
            f"{1 - result.good / total:.2%}",
            f"{judged.capacity:,.0f}",
        )
    return shown


def _gain(before: Judged, after: Judged, goal: Goal) -> str:
    if goal == "p99":
        name, was, now = "p99", p99(before.result), p99(after.result)
    else:
        name, was, now = "device time an answer", before.work_s, after.work_s
    gain = (
        f"{name} {now / was - 1:+.1%}" if 0 < was < float("inf") else f"{name} {now * 1e3:.3g} ms"
    )
    fewer = len(before.grid.buckets) - len(after.grid.buckets)
    buckets = "bucket" if abs(fewer) == 1 else "buckets"
    return f"{gain}, {abs(fewer)} {buckets} {'less' if fewer >= 0 else 'more'} to compile and keep"


def difference(before: BucketGrid, after: BucketGrid) -> list[str]:
    """The lines of the config that change, the old after a minus, the new after a plus."""
    lines = []
    for key in ("rows", "lengths"):
        old, new = (list(getattr(grid, key)) for grid in (before, after))
        if old != new:
            lines += [f"-{key} = {old}", f"+{key} = {new}"]
    return lines or ["  nothing to change"]
