"""Whatever the order of events, every accepted request gets exactly one outcome.

The queue, the dispatcher and the completion run here without their threads, so hypothesis chooses
the order in which things happen, and shrinks one that fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from queue import Empty

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import DeadlineTooShort, ModelFailed, Refused, ShuttingDown
from engine.models.tensors import Array, Arrays
from engine.runtime.completion import InFlight
from engine.runtime.pending import PendingResult
from engine.runtime.request import Request
from engine.runtime.work_queue import Dispatch, Expiry
from engine.testing import FakeClock
from tests.engine.runtime.rig import Rig, Setup, queue

UNLUCKY = 13.0


def nan_for_unlucky(inputs: Arrays) -> dict[str, Array]:
    return {"y": np.where(inputs["x"] == UNLUCKY, np.nan, inputs["x"])}


class OneOutcome(RuleBasedStateMachine):
    """Keeps its own books: which rows of which request have left the queue, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(Setup(FakeClock(), nan_for_unlucky), {"max_rows": 12, "depth": 3})
        self.work, self.completion = self.rig.work, self.rig.threads._completion
        self.ended = False
        self.accepted: list[PendingResult] = []
        self.rows_dispatched: Counter[Request] = Counter()
        self.left_early: set[Request] = set()
        self.outcomes: Counter[Request] = Counter()
        self.notified: Counter[Request] = Counter()

    def finished(self, results: Sequence[PendingResult]) -> None:
        self.outcomes.update(result.request for result in results)

    def listener(self, results: Sequence[PendingResult]) -> None:
        self.notified.update(result.request for result in results)

    # --- what may happen -------------------------------------------------------------------------

    @rule(
        values=st.lists(st.sampled_from([1.0, 2.0, UNLUCKY]), min_size=1, max_size=7),
        timeout_s=st.sampled_from([1.0, 3.0, 100.0]),
    )
    def submit(self, values: list[float], timeout_s: float) -> None:
        pending = self.rig.pending(*values, timeout_s=timeout_s)
        pending.home = pending.home._replace(finished=self.finished)
        try:
            queue(self.work, pending)
        except (Refused, DeadlineTooShort, ModelFailed):
            assert not pending.ready
            return
        assert not self.ended
        pending.on_ready(self.listener)
        self.accepted.append(pending)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), expire=st.booleans())
    def give_up(self, data: st.DataObject, expire: bool) -> None:
        pending = data.draw(st.sampled_from(self.accepted))
        if not pending.ready:
            self.left_early.add(pending.request)
        if expire:
            pending.expire()
        else:
            pending.cancel()
        assert pending.ready

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.5]))
    def pass_time(self, seconds: float) -> None:
        self.rig.clock.advance(seconds)

    @rule()
    def dispatch(self) -> None:
        """What the dispatcher does when it is woken, once."""
        assert self.work.borrow()
        action = self.work.next_now()
        if action is not None:
            self.note(action)
            self.rig.threads.dispatcher.carry_out(action)
            self.work._borrowed = False

    def note(self, action: Dispatch | Expiry) -> None:
        if isinstance(action, Dispatch):
            for row_slice in action.launch.slices:
                self.rows_dispatched[row_slice.request] += row_slice.count
        else:
            self.left_early.update(result.request for result in action.results)

    @rule(fails=st.sampled_from([False, False, True]))
    def complete(self, fails: bool) -> None:
        """What the completion thread does with its next batch."""
        batch = self.next_batch()
        if batch is not None:
            self.finish(batch, fails=fails)

    def next_batch(self) -> InFlight | None:
        try:
            return self.completion._batches.get_nowait()
        except Empty:
            return None

    def finish(self, batch: InFlight, *, fails: bool) -> None:
        for puppet in self.rig.devices.values():
            puppet.fail_result = RuntimeError("boom") if fails else None
        self.completion._complete(batch)
        self.completion._taken += 1
        for result in batch.dispatch.results:
            if result.error is not None:
                self.left_early.add(result.request)

    @precondition(lambda self: self.accepted and not self.ended)
    @rule(how=st.sampled_from(["fail", "close", "later", "later", "later"]))
    def end(self, how: str) -> None:
        """A thread dies, or a shutdown does not wait any longer; seldom, as little comes after."""
        if how == "later":
            return
        self.ended = True
        if how == "fail":
            self.work.fail("a bug")
        else:
            self.work.drain()
            self.work.abandon(lambda: ShuttingDown("the server stopped", 1.0))
        self.left_early.update(pending.request for pending in self.accepted)
        assert all(pending.ready for pending in self.accepted)

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def a_request_waits_until_its_last_row_leaves(self) -> None:
        waiting = {
            pending.request
            for pending in self.accepted
            if pending.request not in self.left_early
            and self.rows_dispatched[pending.request] < pending.request.rows
        }
        assert set(self.work._waiting) == waiting
        assert len(self.rig.scheduler.queue) == len(waiting)

    @invariant()
    def a_request_without_an_outcome_waits_or_is_in_flight(self) -> None:
        in_flight = {result for each in self.work._in_flight for result in each.results}
        kept = {*self.work._waiting.values(), *in_flight, *self.work._completing}
        assert {pending for pending in self.accepted if not pending.ready} <= kept

    @invariant()
    def no_outcome_is_set_or_notified_twice(self) -> None:
        for counter in (self.outcomes, self.notified):
            assert set(counter) == {p.request for p in self.accepted if p.ready}
            assert max(counter.values(), default=1) == 1

    def teardown(self) -> None:
        """Drain it and let everything come back: nothing may be left."""
        self.work.drain()
        while self.work._waiting or self.work._in_flight:
            self.dispatch()
            self.complete(fails=False)
        while (batch := self.next_batch()) is not None:  # after `end` it comes too late
            self.finish(batch, fails=False)
        self.a_request_waits_until_its_last_row_leaves()
        self.no_outcome_is_set_or_notified_twice()
        assert all(pending.ready for pending in self.accepted)
        assert (self.work._waiting, self.work._in_flight, self.work._completing) == ({}, [], ())
        scheduler = self.rig.scheduler
        assert (scheduler.queue.total_rows, scheduler.in_flight) == (0, 0)
        assert self.rig.group.timeline.in_flight == []


TestOneOutcome = OneOutcome.TestCase
TestOneOutcome.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
