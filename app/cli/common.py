"""Arguments, tables and numbers that several commands share."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Final

import click
from rich.table import Column, Table

from engine.api import BucketGrid

IN: Final = click.Path(path_type=Path)
OUT: Final = click.Path(dir_okay=False, path_type=Path)
COUNT: Final = click.IntRange(1)
POSITIVE: Final = click.FloatRange(0, min_open=True)
CONFIG: Final = click.argument("config", type=IN, metavar="CONFIG")


def install(extra: str) -> str:
    """The command that installs what an extra of Brim lists. It names no `brim[extra]`, which would
    replace an installation from a checkout by a copy, or by another project's package.
    """
    listed = [entry.partition(";") for entry in requires("brim") or ()]
    wanted = [need.strip() for need, _, marker in listed if f'extra == "{extra}"' in marker]
    return shlex.join([sys.executable, "-m", "pip", "install", *wanted])


def numbers(text: str) -> tuple[int, ...]:
    """`"1,2,4"` -> `(1, 2, 4)`: whole numbers from 1 up, increasing."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or found[0] < 1 or list(found) != sorted(set(found)):
        raise click.BadParameter(f"{text!r} is not increasing whole numbers from 1 up, as 1,2,4")
    return found


def short(value: float | None) -> str:
    """Three digits; whole numbers from 100 on."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def sizes(grid: BucketGrid) -> str:
    """The rows and lengths of the buckets: `rows [1, 2] x lengths [16, 32]`."""
    lengths = f" x lengths {list(grid.lengths)}" if grid.lengths else ""
    return f"rows {list(grid.rows)}{lengths}"


def table(first: Column, *headings: str, padding: tuple[int, ...] = (0, 2)) -> Table:
    """A table without lines; the columns after the first are aligned right."""
    columns = [Column(heading, justify="right") for heading in headings]
    return Table(first, *columns, box=None, pad_edge=False, padding=padding)  # type: ignore[arg-type]
