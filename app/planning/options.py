"""Options that several commands have.

May touch: click.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

OUT: Final = click.Path(dir_okay=False, path_type=Path)
"""A file to write."""


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers from 1 up, increasing, separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """`"1,2,4"` -> `(1, 2, 4)`."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or numbers[0] < 1 or list(numbers) != sorted(set(numbers)):
            self.fail(f"{value!r} is not whole numbers from 1 up, increasing, as 1,2,4", param, ctx)
        return numbers


NUMBERS: Final = Numbers()
