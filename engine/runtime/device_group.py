"""Where batches run: device groups, and the replicas on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.compilation.interface import Executable, Execution, Weights
from engine.models.signature import Signature
from engine.models.tensors import Arrays
from engine.runtime.pending import call_each
from engine.scheduling.buckets import Bucket
from engine.scheduling.fair_share import FairShareTimeline


class DeviceGroup:
    """One device, or several that run one executable together, shared by all models on it.

    `lock` guards the timeline, the work queues and what is in flight. Gathering, running, observing
    and notifying happen with it released.
    """

    def __init__(self) -> None:
        self.timeline = FairShareTimeline()
        self.lock = threading.Lock()
        self._blocked: set[threading.Condition] = set()
        self._deferred: set[Callable[[], object]] = set()
        self._coalescing: int | None = None  # the identifier of the coalescing thread

    def coalesce(self) -> Coalescing:
        """Requests that one thread submits inside are handed to their dispatchers together, at the
        end, and not one by one. Waiting for a result inside ends it.
        """
        return Coalescing(self)

    def begin_coalescing(self) -> None:
        """From now on, what the calling thread submits waits for `flush`."""
        with self.lock:
            self._coalescing = threading.get_ident()

    def stop_coalescing(self) -> None:
        """Dispatch what the calling thread has submitted: it is about to wait for a result."""
        if self._coalescing == threading.get_ident():
            self.flush()

    def flush(self) -> None:
        """Dispatch what has waited."""
        with self.lock:
            self._coalescing = None
            deferred, self._deferred = self._deferred, set()
        call_each(list(deferred))

    def defer(self, flush: Callable[[], object]) -> bool:
        """If requests are being coalesced, call `flush` at the end. Returns whether they are. Hold
        the lock.
        """
        if self._coalescing is None:
            return False
        self._deferred.add(flush)
        return True

    def wait(self, wake: threading.Condition, seconds: float | None) -> None:
        """Wait on `wake`: for `seconds` if rows are queued, and `wake_others` then ends the wait;
        with None no rows are queued, and other models do not end it. Hold the lock.
        """
        if seconds is not None:
            self._blocked.add(wake)
        wake.wait(seconds)
        self._blocked.discard(wake)

    def wake_others(self, mine: threading.Condition) -> None:
        """The timeline has changed: wake the dispatchers that wait for it. Hold the lock."""
        for condition in self._blocked:
            if condition is not mine:
                condition.notify()


class Coalescing:
    """The context manager of `coalesce`: a generator would take three times as long."""

    __slots__ = ("_group",)

    def __init__(self, group: DeviceGroup) -> None:
        self._group = group

    def __enter__(self) -> None:
        self._group.begin_coalescing()

    def __exit__(self, *_error: object) -> None:
        self._group.flush()


@dataclass(frozen=True, slots=True, eq=False)
class Replica:
    """One loaded version on one device group. Immutable; batches in flight hold it."""

    group: DeviceGroup
    signature: Signature
    weights: Weights
    executables: Mapping[Bucket, Executable]

    def launch(self, bucket: Bucket, staged: Arrays) -> Execution:
        """Start the bucket's executable on staged arrays, and return at once."""
        return self.executables[bucket].launch(self.weights, staged)

    @property
    def self_contained(self) -> bool:
        """Whether no executable calls back into Python."""
        return all(executable.self_contained for executable in self.executables.values())
