"""How many HTTP processes `auto` means, and when to start no further one."""

from __future__ import annotations

import math
import mmap
import os
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from app.settings import AUTO, MAX_WORKERS, Settings

MOST: Final = 12
"""Measured on one H100 with 16 cores; see `benchmarks/gpu.py`."""
FOR_THE_DEVICE: Final = 2
"""Cores that the engine's threads and the driver's keep busy beside an accelerator."""

MAX_CRASHES: Final = 10
YOUNG_S: Final = 5.0
"""Seconds. gunicorn starts a worker that has ended again within a second."""

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


class Crashes:
    """Counts HTTP processes that die soon after their start, one after the other.

    gunicorn tells neither how a worker has ended nor what it has done, so a worker that ends in
    order marks its slot in memory that it shares with the master.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks = mmap.mmap(-1, MAX_WORKERS)
        self._started_at: dict[int, float] = {}
        self._in_a_row = 0

    def started(self, worker: Any) -> None:
        """A worker is about to be forked into its slot."""
        self._started_at[worker.slot] = self._clock()
        if worker.slot < MAX_WORKERS:
            self._marks[worker.slot] = 0

    def orderly(self, worker: Any) -> None:
        """In the worker's process: it ends in order."""
        if worker.slot < MAX_WORKERS:
            self._marks[worker.slot] = 1

    def ended(self, worker: Any, others: Iterable[Any]) -> bool:
        """A worker has ended, and `others` live. Returns whether to give up: no worker serves, and
        `MAX_CRASHES` in a row have died within `YOUNG_S` seconds.
        """
        living = [self._lived_s(other) for other in others]
        if self._lived_s(worker) >= YOUNG_S or max(living, default=0.0) >= YOUNG_S:
            self._in_a_row = 0
        elif worker.slot >= MAX_WORKERS or not self._marks[worker.slot]:
            self._in_a_row += 1
        return self._in_a_row >= MAX_CRASHES

    def _lived_s(self, worker: Any) -> float:
        return self._clock() - self._started_at.get(worker.slot, -math.inf)
