"""The `brim` command: its group, and `brim serve`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import click
from typing_extensions import override

from app.cli.bench.command import bench
from app.cli.bench.plan import BenchError
from app.cli.checking import check
from app.cli.common import CONFIG
from app.cli.planning.simulate import simulate
from app.cli.planning.tune import tune
from app.hosting.gunicorn import serve_forever
from app.settings import exit_with, load
from engine.api import ConfigError

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


for command in (bench, check, simulate, tune):
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


def program() -> str:
    """How the command was called, for texts: what they print can then be pasted."""
    called = Path(sys.argv[0])
    if called.suffix == ".py" or not called.is_file():
        return f"{sys.executable} -m brim"
    found = shutil.which("brim")
    return "brim" if found is not None and called.samefile(found) else str(called)
