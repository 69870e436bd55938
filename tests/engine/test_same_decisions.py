"""The simulation and the server decide alike: one trace, through both, batch by batch.

The simulation goes first and notes every moment at which something happened. The threaded batcher
is then led through the same moments by hand, on a clock that stands still between them. Times and
costs are multiples of 1/1024 s, so that no rounding tells the two apart.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.batcher import Batcher, SharedDevice
from engine.batching import BatchQueue, Launch, Policy, Stop, Wait
from engine.buckets import Bucket
from engine.costs import CostTable
from engine.errors import Shed
from engine.model import Prepared
from engine.simulate import Request, Simulation
from engine.spec import Extent
from engine.testing import (
    FakeClock,
    PuppetExecutable,
    RecordingObserver,
    puppet_model,
    rows,
)
from engine.ticket import Ticket
from engine.traces import Arrival

PATIENCE_S = 30.0
TICK = 1 / 1024
TIMEOUT_S = 200 * TICK

TABLES = {
    "flat": {1: 10 * TICK, 2: 11 * TICK, 4: 12 * TICK},
    "steep": {1: 4 * TICK, 2: 7 * TICK, 4: 13 * TICK},
}

Batch = tuple[int, tuple[tuple[int, int, int], ...]]
"""Rows of the bucket, and of every piece: the number of its request, its first row, its rows."""


@dataclass
class Story:
    """What happened, in order: (what, when, rows), and what was decided."""

    events: list[tuple[str, float, int]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)


def policy() -> Policy:
    return Policy(max_wait_s=64 * TICK, max_rows=1000, depth=2, lead_s=2 * TICK)


def table(name: str) -> CostTable:
    return CostTable({Bucket(size): seconds for size, seconds in TABLES[name].items()})


class Told(Simulation):
    """A simulation that tells its story."""

    def __init__(self, costs: CostTable, story: Story) -> None:
        queue: BatchQueue[Request] = BatchQueue(policy(), costs, (None,))
        super().__init__(queue, costs.seconds, timeout_s=TIMEOUT_S)
        self.story = story
        self.numbers: dict[Request, int] = {}

    def _arrive(self, rows: int, length: int | None, client: int | None) -> None:
        self.story.events.append(("arrive", self._now, rows))
        refused = self._result.refused
        number = len(self.numbers) + len(self.story.refused)
        super()._arrive(rows, length, client)
        if self._result.refused > refused:
            self.story.refused.append(number)
        else:
            (new,) = set(self._scheduler._waiting) - set(self.numbers)  # type: ignore[attr-defined]
            self.numbers[new] = number

    def _land(self) -> None:
        self.story.events.append(("land", self._now, self._flights[0][1].bucket.rows))
        super()._land()

    def _decide(self) -> float | None:
        self.story.events.append(("look", self._now, 0))
        return super()._decide()

    def _launch(self, launch: Launch[Request]) -> None:
        pieces = tuple((self.numbers[p.request], p.start, p.count) for p in launch.pieces)
        self.story.batches.append((launch.bucket.rows, pieces))
        super()._launch(launch)


class Queue(BatchQueue[Ticket]):
    """Notes what it decides, and decides only when it is asked to.

    The simulation says when: where an arrival and a wait's end fall together, the real wait might
    end before the arrival comes, and the one row that differs makes another batch.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.launches: list[Launch[Ticket]] = []
        self._asked = False
        self._calm = threading.Semaphore(0)

    def poll(self, now: float) -> Any:
        if not self._asked:
            return Wait(None)
        decision = super().poll(now)
        if isinstance(decision, Launch):
            self.launches.append(decision)
        elif isinstance(decision, Wait | Stop):
            self._asked = False
            self._calm.release()
            return decision if isinstance(decision, Stop) else Wait(None)
        return decision

    def ask(self) -> None:
        """The batcher's next look counts. Hold its lock."""
        self._asked = True

    def seen(self) -> None:
        """Wait until it has been looked at."""
        assert self._calm.acquire(timeout=PATIENCE_S)


class Server:
    """The batcher with its real threads, led through a story."""

    def __init__(self, costs: CostTable) -> None:
        self.clock = FakeClock(0.0)
        self.observer = RecordingObserver()
        self.devices = {size: PuppetExecutable() for size in (1, 2, 4)}
        for puppet in self.devices.values():
            puppet.hold()
        shared = SharedDevice()
        self.queue = Queue(policy(), costs, (None,), shared.device, "puppet")
        self.batcher = Batcher(
            "puppet",
            puppet_model(),
            self.queue,
            {Bucket(size): puppet for size, puppet in self.devices.items()},
            self.observer,
            self.clock,
            lambda reason: None,
            shared,
        )
        self.numbers: dict[Ticket, int] = {}
        self.landed = 0

    def play(self, story: Story) -> Story:
        """The same events; what was decided here."""
        mine = Story()
        self.batcher.start()
        for what, when, size in story.events:
            self.clock.now = when
            if what == "arrive" and not self.submit(size):
                mine.refused.append(len(self.numbers) - 1)
            elif what == "land":
                self.devices[size].proceed.release()
                self.landed += 1
                self.observer.wait_for("batch_done", self.landed)
            elif what == "look":
                self.look()
        for launch in self.queue.launches:
            pieces = tuple((self.numbers[p.request], p.start, p.count) for p in launch.pieces)
            mine.batches.append((launch.bucket.rows, pieces))
        for puppet in self.devices.values():
            puppet.proceed.release(1000)
        self.batcher.drain()
        self.look()
        self.batcher.close(PATIENCE_S)
        return mine

    def look(self) -> None:
        """Let the batcher look at the clock, and wait until it has done what it wants."""
        with self.batcher._lock:
            self.queue.ask()
            self.batcher._wake.notify()
        self.queue.seen()

    def submit(self, count: int) -> bool:
        ticket = Ticket(
            Prepared(rows(*range(count))),
            Extent(count, None),
            lane=None,
            enqueued_at=self.clock(),
            deadline=self.clock() + TIMEOUT_S,
            clock=self.clock,
            settled=lambda _tickets: None,
        )
        self.numbers[ticket] = len(self.numbers)
        try:
            self.batcher.submit(ticket)
        except Shed:
            return False
        return True


def told(costs: CostTable, trace: Sequence[Arrival]) -> Story:
    story = Story()
    simulation = Told(costs, story)
    # the server's trace has no end that it could know of
    simulation._scheduler.close = lambda: None  # type: ignore[method-assign]
    simulation.run(iter(trace))
    return story


GAPS = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 2, 3, 5, 9, 12, 30]), st.sampled_from([1, 1, 1, 2, 5])),
    min_size=1,
    max_size=60,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(GAPS, st.sampled_from(sorted(TABLES)))
@example([(0, 1), (3, 5), (12, 1), (0, 1)], "steep")
def test_the_server_forms_the_batches_that_the_simulation_formed(
    gaps: list[tuple[int, int]], name: str
) -> None:
    at, trace = 0.0, []
    for gap, size in gaps:
        at += gap * TICK
        trace.append(Arrival(at, size))
    story = told(table(name), trace)
    played = Server(table(name)).play(story)
    assert played.batches == story.batches
    assert played.refused == story.refused
    assert sum(count for _, pieces in story.batches for *_, count in pieces) == sum(
        size for number, (_, size) in enumerate(gaps) if number not in story.refused
    )
