"""The simulation and the server make the same decisions: one trace, through both, batch by batch.

The simulation runs first and records the time of every event. The threaded dispatcher is then led
through the same events, on a clock that stands still between them. Times and costs are multiples of
1/1024 s, so that both compute them exactly.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.compilation.interface import Weights
from engine.errors import Shed
from engine.models.processor import HostProcessor, Prepared
from engine.models.tensors import Extent
from engine.runtime.device_group import DeviceGroup, Replica
from engine.runtime.pending import PendingResult
from engine.runtime.request import Request
from engine.runtime.work_queue import WorkQueue
from engine.runtime.worker_threads import WorkerThreads
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.request_queue import DEFAULT_PRIORITY
from engine.scheduling.scheduler import Launch, Scheduler, SchedulerOptions, Stop, Wait
from engine.simulation.simulator import Simulation
from engine.simulation.traces import Arrival
from engine.simulation.traces import Request as SimulatedRequest
from engine.telemetry.events import BatchReport
from engine.testing import (
    FakeClock,
    PuppetExecutable,
    RecordingObserver,
    puppet_model,
    rows,
)

PATIENCE_S = 30.0
TICK = 1 / 1024
TIMEOUT_S = 200 * TICK

TABLES = {
    "flat": {1: 10 * TICK, 2: 11 * TICK, 4: 12 * TICK},
    "steep": {1: 4 * TICK, 2: 7 * TICK, 4: 13 * TICK},
}

Batch = tuple[int, tuple[tuple[int, int, int], ...]]
"""Rows of the bucket, and for every slice the number of its request, its first row, its rows."""


@dataclass
class Record:
    """The events, in order, as (kind, time, rows), and the decisions."""

    events: list[tuple[str, float, int]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)


def options() -> SchedulerOptions:
    return SchedulerOptions(max_wait_s=64 * TICK, max_rows=1000, depth=2, lead_s=2 * TICK)


def table(name: str) -> CostTable:
    return CostTable({Bucket(size): seconds for size, seconds in TABLES[name].items()})


class RecordingSimulation(Simulation):
    """A simulation that records its events and decisions."""

    def __init__(self, costs: CostTable, record: Record) -> None:
        scheduler: Scheduler[SimulatedRequest] = Scheduler(options(), costs, (None,))
        super().__init__(scheduler, costs.seconds, timeout_s=TIMEOUT_S)
        self.record = record
        self.numbers: dict[SimulatedRequest, int] = {}

    def _arrive(self, rows: int, length: int | None, client: int | None) -> None:
        self.record.events.append(("arrive", self._now, rows))
        refused = self._result.refused
        number = len(self.numbers) + len(self.record.refused)
        super()._arrive(rows, length, client)
        if self._result.refused > refused:
            self.record.refused.append(number)
        else:
            (new,) = set(self._scheduler.queue) - set(self.numbers)  # type: ignore[attr-defined]
            self.numbers[new] = number

    def _complete(self) -> None:
        launch = self._device.in_flight[0][1]
        self.record.events.append(("complete", self._now, launch.bucket.rows))
        super()._complete()

    def _decide(self) -> float:
        self.record.events.append(("poll", self._now, 0))
        return super()._decide()

    def _launch(self, launch: Launch[SimulatedRequest]) -> None:
        slices = tuple((self.numbers[p.request], p.start, p.count) for p in launch.slices)
        self.record.batches.append((launch.bucket.rows, slices))
        super()._launch(launch)


class PromptedScheduler(Scheduler[Request]):
    """Records its launches, and decides only when it is asked to.

    The simulation determines when: where an arrival and the end of a wait coincide, the real wait
    might end before the arrival, and the one row that differs would change the batch.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.launches: list[Launch[Request]] = []
        self._asked = False
        self._polled = threading.Semaphore(0)

    def poll(self, now: float) -> Any:
        if not self._asked:
            return Wait(None)
        decision = super().poll(now)
        if isinstance(decision, Launch):
            self.launches.append(decision)
        elif isinstance(decision, Wait | Stop):
            self._asked = False
            self._polled.release()
            return decision if isinstance(decision, Stop) else Wait(None)
        return decision

    def ask(self) -> None:
        """The dispatcher's next poll counts. Hold its lock."""
        self._asked = True

    def wait_until_polled(self) -> None:
        """Wait until it has decided."""
        assert self._polled.acquire(timeout=PATIENCE_S)


class Server:
    """The dispatcher with its real threads, led through recorded events."""

    def __init__(self, costs: CostTable) -> None:
        self.clock = FakeClock(0.0)
        self.observer = RecordingObserver()
        self.devices = {size: PuppetExecutable() for size in (1, 2, 4)}
        for puppet in self.devices.values():
            puppet.hold()
        self.group = DeviceGroup()
        self.scheduler = PromptedScheduler(options(), costs, (None,), self.group.timeline, "puppet")
        self.work = WorkQueue("puppet", self.scheduler, self.group, self.clock)
        executables = {Bucket(size): puppet for size, puppet in self.devices.items()}
        replica = Replica(self.group, puppet_model().signature, Weights([], 0), executables)
        self.threads = WorkerThreads(
            "puppet", self.work, replica, self.batch_done, lambda _reason: None, self.clock
        )
        self.numbers: dict[Request, int] = {}
        self.completed = 0

    def play(self, recorded: Record) -> Record:
        """Replay the events. Returns the decisions."""
        mine = Record()
        self.threads.start()
        for what, when, size in recorded.events:
            self.clock.now = when
            if what == "arrive" and not self.submit(size):
                mine.refused.append(len(self.numbers) - 1)
            elif what == "complete":
                self.devices[size].proceed.release()
                self.completed += 1
                self.observer.wait_for("batch_done", self.completed)
            elif what == "poll":
                self.poll()
        for launch in self.scheduler.launches:
            slices = tuple((self.numbers[p.request], p.start, p.count) for p in launch.slices)
            mine.batches.append((launch.bucket.rows, slices))
        for puppet in self.devices.values():
            puppet.proceed.release(1000)
        self.work.drain()
        self.poll()
        self.threads.close(PATIENCE_S)
        return mine

    def poll(self) -> None:
        """Let the dispatcher poll, and wait until it has carried out the decisions."""
        with self.group.lock:
            self.scheduler.ask()
        self.work.wake()
        self.scheduler.wait_until_polled()

    def submit(self, count: int) -> bool:
        now = self.clock()
        request = Request(
            Prepared(rows(*range(count))),
            Extent(count, None),
            bucket_length=None,
            enqueued_at=now,
            deadline=now + TIMEOUT_S,
            priority=DEFAULT_PRIORITY,
            processor=HostProcessor(),
        )
        self.numbers[request] = len(self.numbers)
        result = PendingResult(request, self.clock, lambda _results: None, self.work)
        refused = self.work.submit((result,))
        assert all(isinstance(error, Shed) for _, error in refused)
        return not refused

    def batch_done(self, report: BatchReport) -> None:
        self.observer.batch_done("puppet", report)


def recorded(costs: CostTable, trace: Sequence[Arrival]) -> Record:
    record = Record()
    simulation = RecordingSimulation(costs, record)
    # the server does not know which arrival is the last
    simulation._scheduler.close = lambda: None  # type: ignore[method-assign]
    simulation.run(iter(trace))
    return record


GAPS = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 2, 3, 5, 9, 12, 30]), st.sampled_from([1, 1, 1, 2, 5, 20])),
    min_size=1,
    max_size=60,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(GAPS, st.sampled_from(sorted(TABLES)))
@example([(0, 1), (3, 5), (12, 1), (0, 1)], "steep")
def test_the_server_launches_the_batches_that_the_simulation_launched(
    gaps: list[tuple[int, int]], name: str
) -> None:
    at, trace = 0.0, []
    for gap, size in gaps:
        at += gap * TICK
        trace.append(Arrival(at, size))
    expected = recorded(table(name), trace)
    played = Server(table(name)).play(expected)
    assert played.batches == expected.batches
    assert played.refused == expected.refused
    assert sum(count for _, slices in expected.batches for *_, count in slices) == sum(
        size for number, (_, size) in enumerate(gaps) if number not in expected.refused
    )
