"""The `brim` command: its group, `brim serve` and `brim check`."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

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

ORDER: Final = ("check", "serve", "bench", "simulate", "tune")
"""The commands in the order of their use."""

FIRST_CONFIG: Final = """\b
    [[models]]
    name = "encoder"
    family = "bert-embedding"
    path = "/models/all-MiniLM-L6-v2"
    lengths = [32, 64, 128]
"""
HELP: Final = """A model server for JAX.

First write a file, brim.toml, that names a model. For a directory of a BERT encoder:

{config}

\b
For a model of your own, instead of family and path:
    factory = "my_model:create"

\b
Whether the file is right says
    {brim} check brim.toml
and it is served, with requests to try, by
    {brim} serve brim.toml

The page /docs of the server has every route. Files to copy are in Brim's repository:
configs/demo.toml, and in examples/iris a model of your own.
"""
NO_CONFIG: Final = "CONFIG is missing: a TOML file that names the models, for example\n\n"
NEAR: Final = ("brim.toml", "configs/demo.toml")
"""A file with one of these names in the current directory is probably meant."""


class _Group(click.Group):
    """Its commands end with one line and exit status 2 if a config or an option is wrong."""

    @override
    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.help = HELP.format(config=FIRST_CONFIG, brim=ctx.command_path)
        super().format_help_text(ctx, formatter)

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.commands, key=ORDER.index)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BenchError, ConfigError) as error:
            exit_with(error)
        except click.MissingParameter as error:
            if error.param is None or error.param.name != "config" or error.ctx is None:
                raise
            example = FIRST_CONFIG.removeprefix("\b\n")
            here = [file for file in NEAR if Path(file).is_file()]
            lines = [f"\n    {error.ctx.command_path} {file}" for file in here]
            more = "\nIn this folder you can run" if here else ""
            raise click.UsageError(NO_CONFIG + example + more + "".join(lines), error.ctx) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="brim", prog_name="brim")
def main() -> None:
    """The command `brim`."""


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


def program() -> str:
    """How the command was called, for texts: what they print can then be pasted."""
    called = sys.argv[0]
    if called.endswith(".py"):
        return f"{sys.executable} -m brim"
    found = shutil.which("brim")
    return "brim" if found is not None and Path(found).samefile(called) else called


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
