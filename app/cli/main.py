"""The `brim` command: its group, `brim serve` and `brim check`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from app.cli.bench.command import bench
from app.cli.bench.plan import BenchError
from app.cli.common import CONFIG, OUT, numbers, sizes
from app.cli.planning import cost_tables
from app.cli.planning.simulate import simulate
from app.cli.planning.tune import tune
from app.hosting.gunicorn import serve_forever
from app.settings import exit_with, load
from engine.api import ConfigError, ModelConfig, WarmupError
from engine.api import registry as models

Sizes = tuple[int, ...] | None


class _Group(click.Group):
    """Its commands end with one line and exit status 2 if a config or an option is wrong."""

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BenchError, ConfigError) as error:
            exit_with(error)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="brim", prog_name="brim")
def main() -> None:
    """A model server for JAX."""


for command in (bench, simulate, tune):
    main.add_command(command)


@main.command()
@CONFIG
@click.option("--bind", metavar="ADDRESS", help="HOST:PORT or unix:PATH, instead of CONFIG's.")
@click.option("--worker", metavar="NAME", help="gunicorn worker: brim (default) or gthread.")
@click.option("--workers", metavar="N", help="HTTP processes, or auto.")
@click.option("--threads", type=int, help="Threads for requests.  [default: brim 16, gthread 256]")
def serve(
    config: Path, bind: str | None, worker: str | None, workers: str | None, threads: int | None
) -> None:
    """Serve the models of CONFIG until SIGTERM or Ctrl-C.

    Options override the environment (BRIM_BIND, BRIM_WORKER, BRIM_WORKERS, BRIM_THREADS), which
    overrides CONFIG. SIGHUP reads CONFIG again.
    """
    serve_forever(lambda: load(config, os.environ).with_flags(bind, worker, threads, workers))


@main.command()
@CONFIG
@click.option("--measure", is_flag=True, help="Compile and verify every bucket; print its cost.")
@click.option("--model", metavar="NAME", help="Check only this model.  [default: all]")
@click.option("--rows", type=numbers, metavar="N,N", help="Measure these rows, not CONFIG's.")
@click.option("--lengths", type=numbers, metavar="N,N", help="Measure these lengths, not CONFIG's.")
@click.option("--out", type=OUT, help="Write the measured costs of one model as JSON.")
def check(
    config: Path, measure: bool, model: str | None, rows: Sizes, lengths: Sizes, out: Path | None
) -> None:
    """Validate CONFIG and print its models, buckets and memory.

    Uses no device, except with --measure.
    """
    settings = load(config, os.environ)
    console = Console(highlight=False)
    if not measure:
        if rows or lengths or out:
            raise click.UsageError("--rows, --lengths and --out need --measure")
        console.print(
            f"\n  [bold]{escape(settings.file)}[/] is valid: {len(settings.models)} models on "
            f"{settings.url}, worker {settings.worker}, {settings.threads} threads\n"
        )
    configs = [_with_buckets(each, rows, lengths) for each in settings.select(model)]
    if out is not None and len(configs) > 1:
        raise click.UsageError("--out needs --model: a file holds the costs of one model")
    for each in configs:
        console.print(_summary(each))
        console.print()
        if measure:
            _measure(each, console, out)


def _with_buckets(config: ModelConfig, rows: Sizes, lengths: Sizes) -> ModelConfig:
    return replace(config, rows=rows or config.rows, lengths=lengths or config.lengths)


def _measure(config: ModelConfig, console: Console, out: Path | None) -> None:
    try:
        costs = cost_tables.measure(config, console)
    except WarmupError as error:
        click.echo(f"brim: model {config.name!r} has failed: {error}", err=True)
        raise SystemExit(1) from None
    cost_tables.report(console, costs)
    if out is not None:
        cost_tables.write(out, config.name, costs)


def _summary(config: ModelConfig) -> Table:
    title = Text(f"  {config.name}", "bold")
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    table.add_column(style="dim")
    try:
        facts = _facts(config, models.check(config))
    except ConfigError as error:
        facts = {"will fail": f"[red]{escape(str(error))}[/]; the model is not required"}
    for name, value in facts.items():
        table.add_row(f"  {name}", value)
    return table


def _facts(config: ModelConfig, checked: models.Checked) -> dict[str, str]:
    grid = config.grid
    return {
        "model": checked.description,
        "buckets": f"{len(grid.buckets)}: {sizes(grid)}",
        "memory": _memory(config, checked),
        "in flight": f"at most {config.in_flight} batches; weight {config.weight:g}",
        "queue": f"{config.max_queue_rows} rows; at most {config.max_request_rows} in a request",
        "max wait": f"{config.max_wait_s * 1e3:g} ms for more requests while the device is free",
        "timeout": f"{config.timeout_s * 1e3:g} ms from arrival to response",
        "required": "yes" if config.required else "no: the server can be ready without it",
    }


def _memory(config: ModelConfig, checked: models.Checked) -> str:
    """What is known before XLA has compiled anything."""
    if checked.weights_bytes is None:
        return "known after the factory has run"
    largest = config.grid.buckets[-1]
    tensors = sum(spec.nbytes(largest.rows, largest.length) for spec in checked.tensors)
    return (
        f"weights {checked.weights_bytes / 1e6:.1f} MB, once; inputs and outputs of a batch "
        f"at most {tensors / 1e6:.3f} MB; XLA's memory: known after compilation"
    )
