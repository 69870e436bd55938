"""What the batcher needs of an executable: the real one is in `executable.py`.

May touch: numpy (for types).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.spec import Arrays


@dataclass(frozen=True, slots=True)
class Memory:
    """Device bytes of one executable, by XLA's own account.

    `temporary` exists while it runs; `code` always. The weights are not in it: they exist once for
    all buckets, whatever their number.
    """

    inputs: int
    outputs: int
    temporary: int
    code: int


class Running(Protocol):
    """One execution on its way."""

    @property
    def ready(self) -> bool:
        """Was it over when `launch` returned, so that `result` waits for nothing?"""

    def result(self) -> Arrays:
        """Wait for the device: the outputs `[bucket.rows, ...]` on the host. Raises what failed."""


class Runnable(Protocol):
    """The executable of one bucket."""

    @property
    def memory(self) -> Memory:
        """What it takes on the device."""

    @property
    def calls_python(self) -> bool:
        """Does it call functions on the host, which may take as long as they like, even within
        `launch`?
        """

    def launch(self, inputs: Arrays) -> Running:
        """Start it on staged arrays of exactly the bucket's shape, and return at once."""
