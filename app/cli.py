"""The `brim` command.

May touch: click, the terminal. `serve` hosts, `check` only reads files.
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from app import hosting
from app import settings as settings_module
from app.services import VERSION
from app.settings import Settings
from engine import models
from engine.config import ModelConfig
from engine.errors import ConfigError

CONFIG = click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="brim")
def main() -> None:
    """A model server for JAX."""


@main.command()
@CONFIG
@click.option("--bind", metavar="HOST:PORT", help="Where to listen; wins over the config.")
@click.option("--threads", type=int, help="How many requests may be in the process at once.")
def serve(config: Path, bind: str | None, threads: int | None) -> None:
    """Serve the models of CONFIG under gunicorn until SIGTERM or Ctrl-C."""
    hosting.Server(_load(config).with_flags(bind, threads)).run()


@main.command()
@CONFIG
def check(config: Path) -> None:
    """Validate CONFIG and print the plan: models, buckets, memory. No device is touched."""
    settings = _load(config)
    console = Console(highlight=False)
    console.print(
        f"\n  [bold]{settings.file}[/] is valid: {len(settings.models)} models on "
        f"{settings.url}, {settings.threads} threads\n"
    )
    for model in settings.models:
        console.print(_plan(model))
        console.print()


def _load(config: Path) -> Settings:
    try:
        return settings_module.load(config)
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
        table.add_row("  will fail", f"[red]{error}[/]; it is not required")
        return table
    weights = "known once it is loaded"
    if checked.weights_bytes is not None:
        weights = f"{checked.weights_bytes / 1e6:.1f} MB, once for all buckets"
    grid = config.grid
    lengths = f" x lengths {list(grid.lengths)}" if grid.lengths else ""
    hold = ", held even when idle" if config.hold else ""
    rows = (
        ("model", checked.description),
        ("buckets", f"{len(grid.buckets)}: rows {list(grid.rows)}{lengths}"),
        ("weights", weights),
        ("window", f"{config.max_wait_s * 1e3:g} ms{hold}, {config.in_flight} in flight"),
        ("queue", f"{config.max_queue_rows} rows, {config.timeout_s * 1e3:g} ms"),
        ("required", "yes" if config.required else "no: ready without it"),
    )
    for name, value in rows:
        table.add_row(f"  {name}", value)
    return table
