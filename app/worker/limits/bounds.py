"""Everything that bounds the clients of one process, for the worker and the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from app.worker.limits.budget import ByteBudget
from app.worker.limits.limits import Limits


def _not_counted(_limit: str) -> None:
    """The application counts nothing."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """An application has one as its attribute `bounds`, or gets this default."""

    limits: Limits = field(default_factory=Limits)
    budget: ByteBudget = field(default_factory=ByteBudget)
    count: Callable[[str], object] = _not_counted
    """Called with the name of a limit that is exceeded."""
