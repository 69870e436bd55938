"""`brim check --measure`: compile and prove a model's buckets, and say what they cost.

May touch: rich, and through the engine the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.status import Status
from rich.table import Table

from engine.buckets import Bucket
from engine.config import ModelConfig
from engine.costs import Cost, CostTable
from engine.engine import Engine
from engine.errors import WarmupError
from engine.observer import Observer
from engine.plan import LOADS


class _Shown(Observer):
    """Says which bucket is done."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def compiled(self, model: str, bucket: Bucket, seconds: float) -> None:
        """Heard after each compilation."""
        self._status.update(f"{model}: compiled {bucket}, {seconds:.1f} s")

    def proved(self, model: str, bucket: Bucket, seconds: float) -> None:
        """Heard after each proof."""
        self._status.update(f"{model}: proved {bucket}, {seconds * 1e3:.3g} ms")


def measure(config: ModelConfig, console: Console) -> tuple[Cost, ...]:
    """Bring the model up as a server does, and take it down again.

    Raises `WarmupError` with the reason why it failed.
    """
    with console.status(config.name) as status:
        engine = Engine([config], _Shown(status))
        engine.start()
        try:
            engine.wait_settled()
            stats = engine.stats(config.name)
        finally:
            engine.close()
    if stats.reason is not None:
        raise WarmupError(stats.reason)
    return stats.cost_table


def report(console: Console, costs: Sequence[Cost]) -> None:
    """Print what every bucket costs, and which one the policy takes for how many rows."""
    seconds = {Bucket(line.rows, line.length): line.seconds for line in costs}
    table = CostTable(seconds)
    console.print(_costs(costs, table))
    console.print()
    for length in dict.fromkeys(line.length for line in costs):
        console.print(_plan(table, length, max(b.rows for b in seconds if b.length == length)))
        console.print()


def _costs(costs: Sequence[Cost], table: CostTable) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("  bucket", "ms", "rows/s"):
        shown.add_column(heading, justify="right", style="dim" if heading == "  bucket" else None)
    shown.add_column()
    for line in costs:
        bucket = Bucket(line.rows, line.length)
        best = table.best(line.length) == bucket
        remark = "[green]best: the most rows/s[/]" if best else ""
        if line.dominated:
            remark = "[yellow]dominated: never the cheapest for any load; skipped[/]"
        rate = line.rows / line.seconds
        shown.add_row(str(bucket), f"{line.seconds * 1e3:.3f}", f"{rate:.0f}", remark)
    return shown


def _plan(table: CostTable, length: int | None, largest: int) -> Table:
    title = "rows that wait" if length is None else f"rows of length {length} that wait"
    shown = Table(box=None, pad_edge=False, padding=(0, 2))
    shown.add_column(f"  {title}", justify="right", style="dim")
    for load in LOADS:
        shown.add_column(f"at load {load:g}", justify="right")
    for rows, buckets in plan(table, length, largest):
        shown.add_row(rows, *map(str, buckets))
    return shown


def plan(
    table: CostTable, length: int | None, largest: int
) -> Iterator[tuple[str, tuple[Bucket, ...]]]:
    """The plan as ranges: "1", "2-5", ..., "9 or more", and the bucket for each at each of
    `LOADS`.
    """

    def planned(rows: int) -> tuple[Bucket, ...]:
        return tuple(table.planned(length, rows, load) for load in LOADS)

    # beyond twice the largest bucket it is always the best one
    numbers = range(1, 2 * largest + 2)
    for buckets, run in groupby(numbers, key=planned):
        waiting = list(run)
        if waiting[-1] == numbers[-1]:
            yield f"{waiting[0]} or more", buckets
        else:
            few = len(waiting) == 1
            yield (str(waiting[0]) if few else f"{waiting[0]}-{waiting[-1]}"), buckets
