"""The `brim` command.

May touch: click, the terminal, the environment. `serve` hosts, `check` only reads files unless it
measures, `bench` loads a server; the commands that plan are in `app/planning/`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import hosting
from app import settings as settings_module
from app.bench.command import bench
from app.planning import measure as measuring
from app.planning import tables
from app.planning.options import OUT, numbers
from app.planning.simulate import simulate
from app.planning.tune import tune
from app.services import VERSION
from app.settings import Settings
from engine import models
from engine.config import ModelConfig
from engine.errors import ConfigError, WarmupError

CONFIG = click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="brim")
def main() -> None:
    """A model server for JAX."""


main.add_command(bench)
main.add_command(simulate)
main.add_command(tune)


@main.command()
@CONFIG
@click.option("--bind", metavar="HOST:PORT", help="Where to listen; wins over the config.")
@click.option("--worker", metavar="NAME", help="gunicorn's worker: brim (default) or gthread.")
@click.option("--threads", type=int, help="Threads for requests; gthread needs one for each.")
def serve(config: Path, bind: str | None, worker: str | None, threads: int | None) -> None:
    """Serve the models of CONFIG under gunicorn until SIGTERM or Ctrl-C."""
    hosting.Server(_load(config, bind, worker, threads)).run()


@main.command()
@CONFIG
@click.option("--measure", is_flag=True, help="Compile and prove every bucket; print its cost.")
@click.option("--model", metavar="NAME", help="Only this model; the default is every one.")
@click.option(
    "--rows", type=numbers, metavar="N,N", help="Measure these numbers of rows, not the config's."
)
@click.option(
    "--lengths", type=numbers, metavar="N,N", help="Measure these lengths, not the config's."
)
@click.option("--out", type=OUT, help="Write the measured costs as JSON, of one model.")
def check(
    config: Path,
    measure: bool,
    model: str | None,
    rows: tuple[int, ...] | None,
    lengths: tuple[int, ...] | None,
    out: Path | None,
) -> None:
    """Validate CONFIG and print the plan: models, buckets, memory.

    No device is touched, except to --measure.
    """
    settings = _load(config)
    console = Console(highlight=False)
    if not measure:
        if rows or lengths or out:
            raise click.UsageError("--rows, --lengths and --out need --measure")
        console.print(
            f"\n  [bold]{escape(settings.file)}[/] is valid: {len(settings.models)} models on "
            f"{settings.url}, worker {settings.worker}, {settings.threads} threads\n"
        )
    chosen = [each for each in settings.models if model in (None, each.name)]
    if not chosen:
        known = ", ".join(each.name for each in settings.models)
        hosting.refuse(ConfigError("--model", model, f"one of {known}"))
    if out is not None and len(chosen) > 1:
        raise click.UsageError("--out needs --model: a file holds the costs of one")
    try:
        asked = [
            replace(each, rows=rows or each.rows, lengths=lengths or each.lengths)
            for each in chosen
        ]
    except ConfigError as error:
        hosting.refuse(error)
    for each in asked:
        console.print(_plan(each))
        console.print()
        if measure:
            _measure(each, console, out)


def _measure(config: ModelConfig, console: Console, out: Path | None) -> None:
    try:
        costs = measuring.measure(config, console)
        measuring.report(console, costs)
        if out is not None:
            tables.write(out, config.name, costs)
    except ConfigError as error:
        hosting.refuse(error)
    except WarmupError as error:
        click.echo(f"brim: model {config.name!r} has failed: {error}", err=True)
        raise SystemExit(1) from None


def _load(
    config: Path, bind: str | None = None, worker: str | None = None, threads: int | None = None
) -> Settings:
    try:
        return settings_module.load(config, os.environ).with_flags(bind, worker, threads)
    except ConfigError as error:
        hosting.refuse(error)


def _plan(config: ModelConfig) -> Table:
    table = Table(title=f"  {config.name}", title_justify="left", title_style="bold", box=None)
    table.show_header = False
    table.add_column(style="dim")
    table.add_column()
    try:
        checked = models.check(config)
    except ConfigError as error:
        table.add_row("  will fail", f"[red]{escape(str(error))}[/]; it is not required")
        return table
    grid = config.grid
    lengths = f" x lengths {list(grid.lengths)}" if grid.lengths else ""
    rows = (
        ("model", checked.description),
        ("buckets", f"{len(grid.buckets)}: rows {list(grid.rows)}{lengths}"),
        ("memory", _memory(config, checked)),
        ("held", f"at most {config.max_wait_s * 1e3:g} ms, for clients that are about to return"),
        ("in flight", f"{config.in_flight} batches, weight {config.weight:g}"),
        ("queue", f"{config.max_queue_rows} rows, {config.timeout_s * 1e3:g} ms"),
        ("required", "yes" if config.required else "no: ready without it"),
    )
    for name, value in rows:
        table.add_row(f"  {name}", value)
    return table


def _memory(config: ModelConfig, checked: models.Checked) -> str:
    """What is known of it before XLA has compiled anything."""
    if checked.weights_bytes is None:
        return "known once the factory has run"
    largest = config.grid.buckets[-1]
    carried = sum(spec.nbytes(largest.rows, largest.length) for spec in checked.tensors)
    return (
        f"weights {checked.weights_bytes / 1e6:.1f} MB, once for all buckets; "
        f"inputs and outputs of {largest} {carried / 1e6:.3f} MB, "
        f"{config.in_flight} at once; XLA's own after compiling"
    )
