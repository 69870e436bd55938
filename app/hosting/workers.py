"""How many HTTP processes there are, where the configuration says `auto`."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from app.settings import AUTO, Settings

MOST: Final = 12
"""Measured on one H100 with 16 cores; see `benchmarks/gpu.py`."""
FOR_THE_DEVICE: Final = 2
"""Cores that the engine's threads and the driver's keep busy beside an accelerator."""

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_ACCELERATORS: Final = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "libtpu")


class Choice(NamedTuple):
    """A number of workers and its reason, in words."""

    workers: int
    reason: str


def choose(settings: Settings) -> Choice:
    """The number of HTTP processes for these settings on this machine."""
    if settings.workers != AUTO:
        return Choice(settings.workers, "as configured")
    return automatic(usable_cores(), accelerator=has_accelerator())


def automatic(cores: int, *, accelerator: bool) -> Choice:
    """The number where nothing is configured."""
    if accelerator:
        number = max(1, min(MOST, cores - FOR_THE_DEVICE))
        reason = f"{cores} cores, of which the engine and the driver of the device need two"
        return Choice(number, reason)
    number = max(1, min(MOST, cores // 4))
    return Choice(number, f"{cores} cores, which compute the models too")


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return cores


def has_accelerator() -> bool:
    """Whether JAX will find a device beside the CPU, as far as that is known without JAX."""
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return False
    return any(find_spec(plugin) is not None for plugin in _ACCELERATORS)
