"""`brim check`: what can be known of a config and its models before they are served."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.cli.common import CONFIG, OUT, numbers, sizes
from app.cli.planning import cost_tables
from app.settings import Settings, load
from engine.api import ModelConfig, WarmupError, examine, reason_of
from engine.api import registry as models

Sizes = tuple[int, ...] | None

FAILED: Final = 1
"""The exit status if a required model will fail."""

CALLED: Final = (
    "the factory, on the CPU; the types of the weights; every bucket's outputs, by type and shape"
)
READ: Final = "the files, without the weights' values"
BEYOND: Final = "; not compilation, results and speed: --measure"
"""What no check without a device can find."""

Problem = str


@click.command()
@CONFIG
@click.option("--measure", is_flag=True, help="Compile and verify every bucket; print its cost.")
@click.option("--model", metavar="NAME", help="Check only this model.  [default: all]")
@click.option("--rows", type=numbers, metavar="N,N", help="Measure these rows, not CONFIG's.")
@click.option("--lengths", type=numbers, metavar="N,N", help="Measure these lengths, not CONFIG's.")
@click.option("--out", type=OUT, help="Write the measured costs of one model as JSON.")
def check(
    config: Path, measure: bool, model: str | None, rows: Sizes, lengths: Sizes, out: Path | None
) -> None:
    """Find mistakes in CONFIG and its models; print their buckets.

    Factories are called, on the CPU, and their models traced for shapes. Uses no other device and
    compiles nothing, except with --measure. Ends with 1 if a required model will fail.
    """
    if (rows or lengths or out) and not measure:
        raise click.UsageError("--rows, --lengths and --out need --measure")
    settings = load(config, os.environ)
    configs = [_with_buckets(each, rows, lengths) for each in settings.select(model)]
    if out is not None and len(configs) > 1:
        raise click.UsageError("--out needs --model: a file holds the costs of one model")
    console = Console(highlight=False)
    if measure:
        for each in configs:
            _print_facts(each, _facts(each, models.check(each)), console)
            _measure(each, console, out)
    else:
        _report(settings, configs, console)


def _with_buckets(config: ModelConfig, rows: Sizes, lengths: Sizes) -> ModelConfig:
    return replace(config, rows=rows or config.rows, lengths=lengths or config.lengths)


def _report(settings: Settings, configs: Sequence[ModelConfig], console: Console) -> None:
    found = [(each, _look(each)) for each in configs]
    failing = [
        f"brim: model {each.name!r} will fail: {problem}"
        for each, problem in found
        if isinstance(problem, Problem) and each.required
    ]
    optional = sum(isinstance(problem, Problem) for _, problem in found) - len(failing)
    console.print(
        f"\n  [bold]{escape(settings.file)}[/] "
        f"{_verdict(len(settings.models), len(failing), optional)} on "
        f"{settings.url}, worker {settings.worker}, {settings.threads} threads\n",
        soft_wrap=True,
    )
    for each, checked in found:
        _print_facts(each, _findings(each, checked), console)
    for line in failing:
        click.echo(line, err=True)
    if failing:
        raise SystemExit(FAILED)


def _verdict(count: int, failing: int, optional: int) -> str:
    """The headline: `failing` required models will fail, and `optional` others."""
    some = "a model" if failing == 1 else f"{failing} models"
    said = f"has {some} that will fail" if failing else "is valid"
    also = f" ({optional} optional one{'s'[: optional > 1]} will fail{', too' * (failing > 0)})"
    return f"{said}: {count} model{'s'[: count > 1]}{also if optional else ''}"


def _look(config: ModelConfig) -> models.Checked | Problem:
    """What is known of the model, or why it will fail."""
    try:
        checked = models.check(config)
        return checked if config.source.factory is None else examine(config)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a factory raises, SystemExit too
        return reason_of(error)


def _measure(config: ModelConfig, console: Console, out: Path | None) -> None:
    try:
        costs = cost_tables.measure(config, console)
    except WarmupError as error:
        click.echo(f"brim: model {config.name!r} has failed: {error}", err=True)
        raise SystemExit(FAILED) from None
    cost_tables.report(console, costs)
    if out is not None:
        cost_tables.write(out, config.name, costs)


def _print_facts(config: ModelConfig, facts: Mapping[str, str], console: Console) -> None:
    title = Text(f"  {config.name}", "bold")
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    table.add_column(style="dim")
    for name, value in facts.items():
        table.add_row(f"  {name}", value)
    console.print(table)
    console.print()


def _findings(config: ModelConfig, checked: models.Checked | Problem) -> dict[str, str]:
    if isinstance(checked, Problem):
        remark = "" if config.required else "; the model is not required"
        return {"will fail": f"[red]{escape(checked)}[/]{remark}"}
    how = READ if config.source.factory is None else CALLED
    return _facts(config, checked) | {"checked": how + BEYOND}


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
