"""`brim bench URL`.

May touch: click, the terminal, files. What does the work is imported when the command runs, because
it needs what the extra `bench` installs.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

import click
from rich.console import Console

from app.bench.plan import BenchError, Settings, Target

NEEDED: Final = ("httptools", "hdrh", "matplotlib")
"""Modules of the extra; uvloop is in it too, and not needed."""

FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command(context_settings={"show_default": True})
@click.argument("url", metavar="URL")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME[:ROWS][@WEIGHT]",
    help="A model, the rows of a request (1), its share among several (1). May come several times.",
)
@click.option("--clients", type=int, help="Closed loop: each sends when its last answer came.")
@click.option("--rate", type=float, help="Open loop: requests a second, whatever the server does.")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    help="How the open loop spreads them.",
)
@click.option("--connections", default=1024, help="The open loop has no more than these.")
@click.option("--duration", "duration_s", default=10.0, help="Seconds that are measured.")
@click.option("--warmup", "warmup_s", default=2.0, help="Seconds before that.")
@click.option("--give-up", "give_up_s", default=10.0, help="Seconds until one counts as failed.")
@click.option("--binary/--json", default=False, help="The form of the tensors, both ways.")
@click.option("--deadline-ms", type=float, help="Goes along; a later answer is no goodput.")
@click.option(
    "--length",
    type=click.IntRange(min=1),
    help="Random values instead of the model's example: this long on a dynamic axis, "
    "this many words in a text.",
)
@click.option("--seed", default=1, help="Of everything that is random.")
@click.option("--out", type=FILE, help="Write the report as JSON.")
@click.option("--plot", type=FILE, help="Draw the report, as PNG, SVG or PDF.")
def bench(
    models: tuple[str, ...],
    length: int | None,
    out: Path | None,
    plot: Path | None,
    **settings: Any,
) -> None:
    """Load the server at URL, and say how it bore it.

    Without --model: one row of every model. Without --clients and --rate: 8 clients.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        _refuse(f"bench needs {', '.join(missing)}: pip install 'brim[bench]'")
    if settings["clients"] is None and settings["rate"] is None:
        settings["clients"] = 8
    try:
        targets = [Target.parse(model) for model in models]
        _bench(Settings(**settings), targets, length, out, plot)
    except BenchError as error:
        _refuse(str(error))


def _bench(
    settings: Settings,
    targets: list[Target],
    length: int | None,
    out: Path | None,
    picture: Path | None,
) -> None:
    from app.bench import examples, process, terminal

    plan = examples.plan(settings, targets, length)
    with terminal.bar(Console(stderr=True), settings) as show:
        report = process.run(plan, show)
    terminal.show(Console(highlight=False), report)
    if out is not None:
        out.write_bytes(report.to_json())
    if picture is not None:
        from app.bench import plot  # a second of imports that nothing else needs

        plot.draw(report, picture)
    if not report.ok.count:
        raise SystemExit(1)


def _refuse(problem: str) -> NoReturn:
    click.echo(f"brim: {problem}", err=True)
    raise SystemExit(2)
