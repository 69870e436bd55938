"""A work queue with its threads and a device that a test leads by hand.

`Rig.quiet` waits until the dispatcher's thread has seen everything that happened and sleeps again,
so a test can also assert what did *not* happen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pytest
from typing_extensions import override

from engine.compilation.interface import Weights
from engine.errors import BrimError
from engine.models.model import Model
from engine.models.processor import HostProcessor, Prepared
from engine.models.tensors import Array, Arrays, Extent
from engine.runtime.device_group import DeviceGroup, Replica
from engine.runtime.pending import PendingResult
from engine.runtime.request import QueuedRequest, Request
from engine.runtime.work_queue import WorkQueue
from engine.runtime.worker_threads import INLINE_S, WorkerThreads
from engine.scheduling.admission import Quote
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.request_queue import DEFAULT_PRIORITY
from engine.scheduling.scheduler import Launch, Scheduler, SchedulerOptions, Stop, Wait
from engine.telemetry.events import BatchReport
from engine.testing import (
    FakeClock,
    PuppetExecutable,
    RecordingObserver,
    double_plus_one,
    expected_rows,
    puppet_model,
    rows,
)

PATIENCE_S: Final = 30.0
"""How long a test waits for what must happen; only a failing test waits that long."""

CHEAP_S: Final = INLINE_S / 2
"""The cost of a bucket that the submitting thread may run."""

SIZES: Final = (1, 2, 4)


class Death(BaseException):
    """Not an `Exception`: it ends the thread that it is raised in."""


def a_request(
    inputs: Arrays,
    now: float,
    timeout_s: float = 300.0,
    priority: int = DEFAULT_PRIORITY,
    processor: HostProcessor | None = None,
) -> Request:
    """A prepared request without a dynamic axis."""
    count = len(next(iter(inputs.values()))) if inputs else 1
    return Request(
        Prepared(inputs),
        Extent(count, None),
        bucket_length=None,
        enqueued_at=now,
        deadline=now + timeout_s,
        priority=priority,
        processor=processor or HostProcessor(),
    )


def queue(work: WorkQueue, pending: PendingResult) -> None:
    """Submit one, or raise its refusal."""
    for _, error in work.submit((pending,)):
        raise error


class WatchedScheduler(Scheduler[QueuedRequest]):
    """Tells when the thread that polls it has seen every change and waits."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.broken: BaseException | None = None
        self.polls = 0
        self._changes = self._seen = 0
        self._calm = threading.Condition()

    def changed(self) -> None:
        """Something has changed that the dispatcher's thread is woken for."""
        with self._calm:
            self._changes += 1

    @override
    def enqueue(self, request: QueuedRequest, quote: Quote, now: float) -> None:
        if self.wakes_on_arrival:  # otherwise the dispatcher is not woken
            self.changed()
        super().enqueue(request, quote, now)

    @override
    def admit(self, requests: Sequence[QueuedRequest], now: float) -> int:
        woken = self.wakes_on_arrival
        admitted = super().admit(requests, now)
        if woken and admitted:
            self.changed()
        return admitted

    @override
    def discard(self, request: QueuedRequest) -> None:
        self.changed()
        super().discard(request)

    @override
    def complete(self, launch: Launch[QueuedRequest], now: float, *, failed: bool = False) -> float:
        if len(self.queue):  # otherwise the dispatcher is not woken
            self.changed()
        return super().complete(launch, now, failed=failed)

    @override
    def abort(self, launch: Launch[QueuedRequest], now: float) -> None:
        self.changed()
        super().abort(launch, now)

    @override
    def close(self) -> None:
        self.changed()
        super().close()

    @override
    def poll(self, now: float) -> Any:
        self.polls += 1
        if self.broken is not None:
            raise self.broken
        decision = super().poll(now)
        if isinstance(decision, Wait | Stop):
            with self._calm:
                self._seen = self._changes
                self._calm.notify_all()
        return decision

    def quiet(self) -> None:
        """Wait until the last poll saw all changes, and asked to wait."""
        with self._calm:
            assert self._calm.wait_for(lambda: self._seen == self._changes, PATIENCE_S)


@dataclass
class Setup:
    """How a test wants its rig."""

    clock: FakeClock
    function: Callable[[Arrays], dict[str, Array]] = double_plus_one
    model: Model | None = None
    seconds: float = 1.0
    self_contained: bool = True


class Rig:
    """Buckets of 1, 2 and 4 rows, and everything that a test wants to see of the threads."""

    def __init__(self, setup: Setup, options: dict[str, Any]) -> None:
        self.clock = setup.clock
        self.observer = RecordingObserver()
        seconds = setup.seconds
        self.costs = CostTable(
            {Bucket(1): seconds, Bucket(2): 1.1 * seconds, Bucket(4): 1.2 * seconds}
        )
        fields = {"max_wait_s": 60.0, "max_rows": 100, "depth": 2} | options
        self.group = DeviceGroup()
        self.scheduler = WatchedScheduler(
            SchedulerOptions(**fields), self.costs, (None,), self.group.timeline, "puppet"
        )
        self.devices = {size: PuppetExecutable(setup.function) for size in SIZES}
        for puppet in self.devices.values():
            puppet.self_contained = setup.self_contained
        self.finished: list[PendingResult] = []
        self.deaths: list[str] = []
        self.died = threading.Event()
        self.work = WorkQueue("puppet", self.scheduler, self.group, self.clock)
        replica = Replica(
            self.group,
            (setup.model or puppet_model()).signature,
            Weights([], 0),
            {Bucket(size): puppet for size, puppet in self.devices.items()},
        )
        self.threads = WorkerThreads(
            "puppet", self.work, replica, self._note_batch, self._note_death, self.clock
        )

    def _note_batch(self, report: BatchReport) -> None:
        self.observer.batch_done("puppet", report)

    def _note_death(self, reason: str) -> None:
        self.deaths.append(reason)
        self.died.set()

    def pending(
        self, *values: float, timeout_s: float = 300.0, kind: type[PendingResult] = PendingResult
    ) -> PendingResult:
        """A request of one row per value, not submitted."""
        request = a_request(rows(*values), self.clock(), timeout_s)
        return kind(request, self.clock, self.finished.extend, self.work)

    def submit(self, *values: float, timeout_s: float = 300.0) -> PendingResult:
        """Submit one row per value."""
        pending = self.pending(*values, timeout_s=timeout_s)
        queue(self.work, pending)
        return pending

    def hold(self) -> None:
        """From now on no batch ends before `free` or a release."""
        for puppet in self.devices.values():
            puppet.hold()

    def occupy(self, value: float = 0.0) -> PendingResult:
        """Hold the device, and let one row run that does not come back."""
        self.hold()
        pending = self.submit(value)
        assert self.devices[1].entered.acquire(timeout=PATIENCE_S)
        self.quiet()
        return pending

    def free(self) -> None:
        """Let every batch end that is held now or later."""
        for puppet in self.devices.values():
            puppet.free()

    def quiet(self) -> None:
        """Wait until the dispatcher's thread has seen everything and sleeps."""
        self.scheduler.quiet()

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and let the dispatcher's thread look at it."""
        self.clock.advance(seconds)
        self.scheduler.changed()
        self.work.wake()
        self.quiet()

    def launched(self, size: int) -> list[list[float]]:
        """The first number of every row of every batch that one bucket got."""
        return [batch["x"][:, 0].tolist() for batch in self.devices[size].launched]

    def reports(self, count: int) -> list[BatchReport]:
        """The reports of the first `count` batches, or more."""
        return [event[1] for event in self.observer.wait_for("batch_done", count)]

    def result_threads(self) -> list[str]:
        """The names of the threads that fetch results, filled as they do."""
        names: list[str] = []

        def noted(inputs: Arrays) -> dict[str, Array]:
            names.append(threading.current_thread().name)
            return double_plus_one(inputs)

        for puppet in self.devices.values():
            puppet.function = noted
        return names

    def quick(self) -> list[str]:
        """From now on batches have finished when they are launched. As `result_threads`."""
        for puppet in self.devices.values():
            puppet.quick = True
        return self.result_threads()

    def alive(self) -> list[threading.Thread]:
        """Its threads that run."""
        return [thread for thread in self.threads._threads if thread.is_alive()]


RigMaker = Callable[..., Rig]


def assert_answers(pending: PendingResult, *values: float) -> None:
    """It has the answers to these rows."""
    assert pending.wait(PATIENCE_S)
    assert np.array_equal(pending.result()["y"], expected_rows(*values))


def error_of(pending: PendingResult) -> BrimError:
    """The error that is its outcome."""
    assert pending.wait(PATIENCE_S)
    with pytest.raises(BrimError) as caught:
        pending.result()
    return caught.value


def assert_threads_end(rig: Rig) -> None:
    """By themselves, without a close."""
    for thread in rig.threads._threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
