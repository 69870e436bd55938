"""The metrics of all HTTP processes, added up, also where no file can be opened."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

log = logging.getLogger("brim.app")

EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE)

T = TypeVar("T")


class LastKnown(Generic[T]):
    """A value that is read from files. When the process has no file descriptors left, which is when
    metrics are needed, it is the value before.
    """

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._last: T | None = None

    def get(self) -> T | None:
        """Read it; None if that has never been possible."""
        try:
            self._last = self._read()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            log.warning("metrics are those of the scrape before: %s", error)
        return self._last


class EveryProcess:
    """The metrics of all HTTP processes, and the custom collectors of a registry.

    A custom collector computes its values anew for each scrape, and here for the whole server.
    """

    def __init__(self, registry: CollectorRegistry, folder: str) -> None:
        """`folder` has the files that the processes share."""
        self._registry = registry
        self._files = LastKnown(lambda: _merged(folder))

    def collect(self) -> Iterator[Metric]:
        """As a registry."""
        yield from self._files.get() or ()
        for collector in list(self._registry._collector_to_names):
            if not isinstance(collector, MetricWrapperBase):
                yield from collector.collect()


def _merged(folder: str) -> tuple[Metric, ...]:
    # the library's own search for the files finds none where the folder cannot be opened
    files = [str(path) for path in Path(folder).iterdir() if path.suffix == ".db"]
    return tuple(MultiProcessCollector.merge(files))
