"""A run as a person sees it: a bar while it lasts, and a table of what it showed.

May touch: rich.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.bench import runner
from app.bench.histogram import Latency
from app.bench.plan import Settings
from app.bench.report import Report

_COLUMNS = ("answers", "p50", "p90", "p99", "p99.9", "max")


@contextmanager
def bar(console: Console, settings: Settings) -> Iterator[Callable[[runner.Progress], None]]:
    """Draw how far the run is; what is drawn disappears at the end."""
    total = settings.warmup_s + settings.duration_s
    with Progress(
        TextColumn("  [bold]{task.description}[/]"),
        BarColumn(bar_width=32),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("start ", total=total, said="")

        def show(seen: runner.Progress) -> None:
            said = f"{seen.settled:,} requests"
            if seen.failed:
                said += f", [red]{seen.failed:,} of them failed[/]"
            stage = _stage(seen.elapsed_s, settings)
            progress.update(task, completed=seen.elapsed_s, description=stage, said=said)

        yield show


def _stage(elapsed_s: float, settings: Settings) -> str:
    if elapsed_s < settings.warmup_s:
        return "warm-up"
    return "measure" if elapsed_s < settings.warmup_s + settings.duration_s else "wait   "


def show(console: Console, report: Report) -> None:
    """The whole report, but for the timeline."""
    say = partial(console.print, soft_wrap=True)
    settings, generator = report.settings, report.generator
    say(f"\n  [bold]{escape(settings.url)}[/]  {pace(settings)}\n")
    say(
        f"  [bold]{report.ok_per_s:,.1f}[/] answers/s   {report.rows_per_s:,.1f} rows/s   "
        f"{_goodput(report)}   {report.offered_per_s:,.1f} requests/s sent\n"
    )
    say(_latencies(report))
    say(f"\n  {_outcomes(report)}")
    say(
        f"  the generator: {generator.core:.2f} of a core, late by {generator.lag_p50_ms:.2f} ms "
        f"at p50, {generator.lag_p99_ms:.2f} ms at p99"
    )
    if report.doubt is not None:
        say(f"  [yellow]doubtful: {report.doubt}[/]")
    say()


def pace(settings: Settings) -> str:
    """The loop, in words."""
    if settings.clients is not None:
        loop = f"closed loop, {settings.clients} clients"
    else:
        loop = f"open loop, {settings.rate:g}/s {settings.arrivals}"
    form = "binary" if settings.binary else "JSON"
    return f"{loop}, {form}, {settings.duration_s:g} s after {settings.warmup_s:g} s of warm-up"


def _goodput(report: Report) -> str:
    deadline = report.settings.deadline_ms
    within = "" if deadline is None else f" within {deadline:g} ms"
    return f"{report.goodput_per_s:,.1f} goodput/s{within}"


def _latencies(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 2), header_style="dim")
    table.add_column("  ms")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    _line(table, "all", report.ok)
    if len(report.targets) > 1:
        for each in report.targets:
            _line(table, escape(str(each.target)), each.ok)
    if report.refused.count:
        _line(table, "429, 503", report.refused)
    return table


def _line(table: Table, name: str, latency: Latency) -> None:
    numbers = (
        latency.p50_ms,
        latency.p90_ms,
        latency.p99_ms,
        latency.p999_ms,
        latency.max_ms,
    )
    shown = [_number(number) if latency.count else "-" for number in numbers]
    table.add_row(f"  {name}", f"{latency.count:,}", *shown)


def _number(ms: float) -> str:
    """Whole milliseconds from a second on, so that a line fits eighty columns."""
    return f"{ms:,.2f}" if ms < 1000 else f"{ms:,.0f}"  # noqa: PLR2004


def _outcomes(report: Report) -> str:
    statuses = [f"{status}: {count:,}" for status, count in report.statuses.items()]
    failures = [f"[red]{kind}: {count:,}[/]" for kind, count in report.failures.items()]
    return "   ".join((*statuses, *failures)) or "no request ended"
