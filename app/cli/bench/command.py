"""`brim bench URL`: its options, its progress bar and the report in the terminal.

What needs the extra `bench` is imported when the command runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from app.cli.bench.plan import BenchError, Settings, Target
from app.cli.common import COUNT, OUT, install, table

if TYPE_CHECKING:
    from app.cli.bench.report import Latency, Report
    from app.cli.bench.report import Progress as RunProgress

NEEDED: Final = ("httptools", "hdrh", "matplotlib")
"""Modules of the extra that the command needs. uvloop is optional."""

CLIENTS: Final = 8
"""Without --clients and --rate."""


@click.command(context_settings={"show_default": True})
@click.argument("url", metavar="URL")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME[:ROWS][@WEIGHT]",
    help="A model, the rows of a request (1) and its weight (1). Repeat the option for several.",
)
@click.option("--clients", type=int, help="Closed loop: clients with one request in flight each.")
@click.option("--rate", type=float, help="Open loop: requests/s, whatever the server does.")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    help="Open loop: random or even gaps.",
)
@click.option("--connections", default=1024, help="The most connections of the open loop.")
@click.option("--duration", "duration_s", default=10.0, help="Seconds to measure.")
@click.option("--warmup", "warmup_s", default=2.0, help="Seconds of load before that.")
@click.option("--give-up", "give_up_s", default=10.0, help="Timeout of a request, in seconds.")
@click.option("--binary/--json", default=False, help="Encoding of tensors, in both directions.")
@click.option("--deadline-ms", type=float, help="Sent along; a later answer is not goodput.")
@click.option(
    "--length",
    type=COUNT,
    help="Send random values with this size of dynamic axes and this many words in a text.",
)
@click.option("--seed", default=1, help="Seed of random numbers.")
@click.option("--out", type=OUT, help="Write the report as JSON.")
@click.option("--plot", type=OUT, help="Draw the report as PNG, SVG or PDF.")
def bench(
    models: tuple[str, ...], length: int | None, out: Path | None, plot: Path | None, **rest: Any
) -> None:
    """Load the server at URL and report its throughput and latency.

    Without --model: requests of one row to every model. Without --clients and --rate: 8 clients.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise BenchError(f"bench needs {', '.join(missing)}: {install('bench')}")
    if rest["clients"] is None and rest["rate"] is None:
        rest["clients"] = CLIENTS
    from app.cli.bench import process, requests

    plan = requests.plan(Settings(**rest), [Target.parse(model) for model in models], length)
    with bar(Console(stderr=True), plan.settings) as update:
        report = process.run(plan, update)
    show(Console(highlight=False), report)
    if out is not None:
        out.write_bytes(report.to_json())
    if plot is not None:
        from app.cli.bench.chart import draw_report  # its imports take a second

        draw_report(plot, report)
    if not report.ok.count:
        raise SystemExit(1)


@contextmanager
def bar(console: Console, settings: Settings) -> Iterator[Callable[[RunProgress], None]]:
    """Draw a progress bar, which disappears at the end; call the yielded function to update it."""
    total = settings.warmup_s + settings.duration_s
    with Progress(
        TextColumn("  [bold]{task.description}[/]"),
        BarColumn(bar_width=32),
        TimeElapsedColumn(),
        TextColumn("{task.fields[counts]}"),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("start ", total=total, counts="")

        def update(run: RunProgress) -> None:
            counts = f"{run.completed:,} requests"
            if run.failed:
                counts += f", [red]{run.failed:,} of them failed[/]"
            stage = "warm-up" if run.elapsed_s < settings.warmup_s else "measure"
            if run.elapsed_s >= total:
                stage = "wait   "
            progress.update(task, completed=run.elapsed_s, description=stage, counts=counts)

        yield update


def show(console: Console, report: Report) -> None:
    """Print the report, without its timeline."""
    print_line = partial(console.print, soft_wrap=True)
    settings, generator = report.settings, report.generator
    within = f" within {settings.deadline_ms:g} ms" if settings.deadline_ms else ""
    print_line(f"\n  [bold]{escape(settings.url)}[/]  {settings.description}\n")
    print_line(
        f"  [bold]{report.ok_per_s:,.1f}[/] answers/s   {report.rows_per_s:,.1f} rows/s   "
        f"{report.goodput_per_s:,.1f} goodput/s{within}   "
        f"{report.offered_per_s:,.1f} requests/s offered\n"
    )
    print_line(_latencies(report))
    print_line(f"\n  {_outcomes(report)}")
    print_line(
        f"  load generator: {generator.core:.2f} of a core, late by {generator.lag_p50_ms:.2f} ms "
        f"at p50, {generator.lag_p99_ms:.2f} ms at p99"
    )
    if report.doubt is not None:
        print_line(f"  [yellow]doubtful: {report.doubt}[/]")
    print_line()


def _latencies(report: Report) -> Table:
    headings = ("answers", "p50", "p90", "p99", "p99.9", "max")
    rows = table(Column("  ms"), *headings, padding=(0, 1, 0, 2))
    rows.header_style = "dim"
    rows.add_row("  all", *_cells(report.ok))
    if len(report.targets) > 1:
        for each in report.targets:
            rows.add_row(f"  {escape(str(each.target))}", *_cells(each.ok))
    if report.refused.count:
        rows.add_row("  429, 503", *_cells(report.refused))
    return rows


def _cells(latency: Latency) -> list[str]:
    numbers = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms)
    return [f"{latency.count:,}", *(_number(n) if latency.count else "-" for n in numbers)]


def _number(ms: float) -> str:
    """Whole milliseconds from a second on, so that a line fits into 80 columns."""
    return f"{ms:,.2f}" if ms < 1000 else f"{ms:,.0f}"  # noqa: PLR2004


def _outcomes(report: Report) -> str:
    statuses = [f"{status}: {count:,}" for status, count in report.statuses.items()]
    failures = [f"[red]{kind}: {count:,}[/]" for kind, count in report.failures.items()]
    return "   ".join((*statuses, *failures)) or "no request ended"
