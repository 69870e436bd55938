"""The two threads, with a device that is led by hand: everybody gets an outcome, and the right one.

`Rig.quiet` waits until the batcher's thread has seen all that happened and sleeps again, so a test
can also say what did *not* happen.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engine import batcher as batcher_module
from engine.batcher import Batcher, Load, SharedDevice
from engine.batching import BatchQueue, Launch, Policy, Stop, Wait
from engine.buckets import Bucket
from engine.costs import CostTable
from engine.errors import (
    BrimError,
    Cancelled,
    DeadlineExceeded,
    ExecutionFailed,
    ModelFailed,
    NonFiniteOutput,
    QueueFull,
    ShuttingDown,
)
from engine.model import Prepared
from engine.observer import BatchReport
from engine.spec import Array, Arrays, Extent
from engine.testing import (
    FakeClock,
    PuppetExecutable,
    RecordingObserver,
    double_plus_one,
    expected_rows,
    puppet_model,
    rows,
)
from engine.ticket import Ticket

PATIENCE_S = 30.0
"""How long a test waits for what must happen; only a failing test ever waits that long."""

UNLUCKY = 13.0


class Death(BaseException):
    """No `Exception`: nothing that a batch could survive."""


class Fatal(Ticket):
    """Whoever answers it dies."""

    __slots__ = ()

    def deliver(self, start: int, outputs: Arrays) -> bool:
        raise Death


class WatchedQueue(BatchQueue[Ticket]):
    """Tells when the thread that polls it has seen everything and waits."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.broken: BaseException | None = None
        self._changes = self._seen = 0
        self._calm = threading.Condition()

    def _changed(self) -> None:
        with self._calm:
            self._changes += 1

    def offer(self, request: Ticket, now: float) -> None:
        if self.heeds_arrivals:  # otherwise nobody is woken, as nothing could follow from it
            self._changed()
        super().offer(request, now)

    def discard(self, request: Ticket) -> None:
        self._changed()
        super().discard(request)

    def landed(self, launch: Launch[Ticket], now: float, *, failed: bool = False) -> float:
        if self.queued_requests:  # otherwise nobody is woken, as nobody waits for the device
            self._changed()
        return super().landed(launch, now, failed=failed)

    def lost(self, launch: Launch[Ticket], now: float) -> None:
        self._changed()
        super().lost(launch, now)

    def knocked(self) -> None:
        self._changed()

    def close(self) -> None:
        self._changed()
        super().close()

    def poll(self, now: float) -> Any:
        if self.broken is not None:
            raise self.broken
        decision = super().poll(now)
        if isinstance(decision, Wait | Stop):
            with self._calm:
                self._seen = self._changes
                self._calm.notify_all()
        return decision

    def quiet(self) -> None:
        with self._calm:
            assert self._calm.wait_for(lambda: self._seen == self._changes, PATIENCE_S)


class Rig:
    """A batcher with buckets of 1, 2 and 4 rows, and everything that a test wants to see of it."""

    def __init__(
        self,
        clock: FakeClock,
        function: Callable[[Arrays], dict[str, Array]],
        policy: dict[str, Any],
        seconds: float,
        self_contained: bool,
    ) -> None:
        self.clock = clock
        self.model = puppet_model()
        self.observer = RecordingObserver()
        self.costs = CostTable(
            {Bucket(1): seconds, Bucket(2): 1.1 * seconds, Bucket(4): 1.2 * seconds}
        )
        fields = {"max_wait_s": 60.0, "max_rows": 100, "depth": 2} | policy
        self.shared = SharedDevice()
        self.queue = WatchedQueue(
            Policy(**fields), self.costs, (None,), self.shared.device, "puppet"
        )
        self.devices = {size: PuppetExecutable(function) for size in (1, 2, 4)}
        for puppet in self.devices.values():
            puppet.self_contained = self_contained
        self.settled: list[Ticket] = []
        self.deaths: list[str] = []
        self.died = threading.Event()
        runnables = {Bucket(size): puppet for size, puppet in self.devices.items()}
        self.batcher = Batcher(
            "puppet",
            self.model,
            self.queue,
            runnables,
            self.observer,
            clock,
            self._note_death,
            self.shared,
        )

    def _note_death(self, reason: str) -> None:
        self.deaths.append(reason)
        self.died.set()

    def ticket(
        self, *values: float, timeout_s: float = 300.0, kind: type[Ticket] = Ticket
    ) -> Ticket:
        inputs = rows(*values)
        return kind(
            Prepared(inputs),
            Extent(len(values), None),
            lane=None,
            enqueued_at=self.clock(),
            deadline=self.clock() + timeout_s,
            clock=self.clock,
            settled=self.settled.extend,
        )

    def submit(self, *values: float, timeout_s: float = 300.0) -> Ticket:
        ticket = self.ticket(*values, timeout_s=timeout_s)
        self.batcher.submit(ticket)
        return ticket

    def hold(self) -> None:
        """From now on the device answers nothing before `free` or `release`."""
        for puppet in self.devices.values():
            puppet.hold()

    def occupy(self, value: float = 0.0) -> Ticket:
        """Hold the device, and let one row run that does not come back."""
        self.hold()
        ticket = self.submit(value)
        assert self.devices[1].entered.acquire(timeout=PATIENCE_S)
        self.quiet()
        return ticket

    def free(self) -> None:
        """Let everything go that is held now or later."""
        for puppet in self.devices.values():
            puppet.held = False
            puppet.proceed.release(1000)

    def quiet(self) -> None:
        self.queue.quiet()

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and let the batcher look at it."""
        self.clock.advance(seconds)
        with self.batcher._lock:
            self.queue.knocked()
            self.batcher._wake.notify()
        self.quiet()

    def launched(self, size: int) -> list[list[float]]:
        """The first number of every row of every batch that went to one bucket."""
        return [batch["x"][:, 0].tolist() for batch in self.devices[size].launched]

    def reports(self, count: int) -> list[BatchReport]:
        return [event[1] for event in self.observer.wait_for("batch_done", count)]


RigMaker = Callable[..., Rig]


@pytest.fixture
def make_rig(clock: FakeClock) -> Iterator[RigMaker]:
    """`make_rig(function, depth=1, ...)`: started, and closed afterwards."""
    rigs: list[Rig] = []

    def make(
        function: Callable[[Arrays], dict[str, Array]] = double_plus_one,
        *,
        start: bool = True,
        seconds: float = 1.0,
        self_contained: bool = True,
        **policy: Any,
    ) -> Rig:
        rig = Rig(clock, function, policy, seconds, self_contained)
        rigs.append(rig)
        if start:
            rig.batcher.start()
        return rig

    yield make
    for rig in rigs:
        rig.free()
        rig.batcher.close(PATIENCE_S)


@pytest.fixture
def rig(make_rig: RigMaker) -> Rig:
    """Two batches on their way at most; each takes a second or so, as far as the policy knows."""
    return make_rig()


def assert_answers(ticket: Ticket, *values: float) -> None:
    assert ticket.wait(PATIENCE_S)
    assert np.array_equal(ticket.result()["y"], expected_rows(*values))


def error_of(ticket: Ticket) -> BrimError:
    assert ticket.wait(PATIENCE_S)
    with pytest.raises(BrimError) as caught:
        ticket.result()
    return caught.value


# --- batches ------------------------------------------------------------------------------------


def test_a_row_comes_back_doubled_plus_one(rig: Rig) -> None:
    assert_answers(rig.submit(3), 3)


def test_an_idle_device_takes_the_first_row_at_once(rig: Rig) -> None:
    assert_answers(rig.submit(3), 3)
    (report,) = rig.reports(1)
    assert (report.bucket, report.rows, report.reason) == (Bucket(1), 1, "idle")


def test_those_who_come_while_the_device_is_busy_share_the_next_batch(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    tickets = [rig.submit(value) for value in (1, 2, 3)]
    rig.quiet()
    rig.free()
    for ticket, value in zip(tickets, (1, 2, 3), strict=True):
        assert_answers(ticket, value)
    assert [(r.bucket, r.rows) for r in rig.reports(2)] == [(Bucket(1), 1), (Bucket(4), 3)]


def test_the_next_batch_is_launched_while_one_computes_but_not_one_more(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=2)
    rig.occupy(0)
    rig.submit(1)
    rig.pass_time(1.0)
    rig.submit(2)
    rig.pass_time(1.0)
    assert rig.launched(1) == [[0], [1]]
    assert rig.batcher.load() == Load(
        queued_rows=1, queued_requests=1, in_flight=2, oldest_batch_s=2.0
    )
    rig.devices[1].proceed.release()
    assert rig.devices[1].entered.acquire(timeout=PATIENCE_S)
    rig.pass_time(1.0)
    assert rig.launched(1) == [[0], [1], [2]]


def test_the_next_batch_is_formed_when_the_device_should_be_free_and_not_before(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(lead_s=0.25)
    rig.occupy(0)
    waits = rig.submit(1)
    rig.pass_time(0.5)
    too = rig.submit(2)
    assert (rig.launched(1), rig.launched(2)) == ([[0]], [])
    rig.pass_time(0.25)
    assert rig.launched(2) == [[1, 2]]
    rig.free()
    assert_answers(waits, 1)
    assert_answers(too, 2)
    assert [report.reason for report in rig.reports(2)] == ["idle", "next"]


def test_the_thread_wakes_by_itself_when_the_device_should_be_free(make_rig: RigMaker) -> None:
    """On a clock that moves with every look, nobody has to knock."""
    rig = make_rig(start=False, seconds=0.001)
    rig.batcher._clock = lambda: rig.clock.advance(0.0005) or rig.clock()
    rig.batcher.start()
    rig.hold()
    waits = rig.submit(0)
    assert rig.devices[1].started.acquire(timeout=PATIENCE_S)
    too = rig.submit(1)
    assert rig.devices[1].started.acquire(timeout=PATIENCE_S)
    rig.free()
    assert_answers(waits, 0)
    assert_answers(too, 1)


def test_a_large_request_is_cut_and_put_together_again(rig: Rig) -> None:
    values = tuple(range(11))
    assert_answers(rig.submit(*values), *values)
    assert sum(report.rows for report in rig.reports(3)) == 11


def test_64_threads_get_their_own_answers(rig: Rig) -> None:
    together = threading.Barrier(64)
    answers: dict[int, Array] = {}

    def client(number: int) -> None:
        together.wait()
        for turn in range(3):
            value = number * 10 + turn
            answers[value] = rig.submit(value).result()["y"]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 64 * 3
    for value, answer in answers.items():
        assert np.array_equal(answer, expected_rows(value))


def test_padding_goes_to_the_device_but_never_to_a_client(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    tickets = [rig.submit(1, 2), rig.submit(3)]
    rig.quiet()
    rig.free()
    assert_answers(tickets[0], 1, 2)
    assert_answers(tickets[1], 3)
    staged = rig.devices[4].launched[0]["x"]
    assert np.isnan(staged[3:]).all()
    assert np.isfinite(staged[:3]).all()


def test_whoever_is_answered_finds_the_load_settled(rig: Rig) -> None:
    for value in range(20):
        rig.submit(value).result()
        assert rig.batcher.load() == Load(0, 0, 0, 0.0)


def test_a_batch_says_how_long_it_took(rig: Rig) -> None:
    def slow(inputs: Arrays) -> dict[str, Array]:
        rig.clock.advance(0.25)
        return double_plus_one(inputs)

    rig.devices[1].function = slow
    ticket = rig.submit(1)
    (report,) = rig.reports(1)
    assert (report.gather_s, report.execute_s, report.failed) == (0.0, 0.25, False)
    assert ticket.launched_at == 1000.0
    assert ticket.finished_at == 1000.25


def test_every_moment_of_a_ticket_is_when_it_says(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taking(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            rig.clock.advance(seconds)
            return function(*arguments)

        return slow

    monkeypatch.setattr(batcher_module, "gather", taking(1.0, batcher_module.gather))
    monkeypatch.setattr(batcher_module, "scatter", taking(8.0, batcher_module.scatter))
    rig.devices[1].function = taking(4.0, double_plus_one)
    ticket = rig.submit(1)
    (report,) = rig.reports(1)
    assert (report.gather_s, report.execute_s, report.scatter_s) == (1.0, 4.0, 8.0)
    assert ticket.gathering_at == 1000.0
    assert ticket.launched_at == 1001.0
    assert ticket.computed_at == 1005.0
    assert ticket.finished_at == 1013.0


def test_a_split_request_computes_from_its_first_launch_to_its_last_end(
    make_rig: RigMaker,
) -> None:
    def slow(inputs: Arrays) -> dict[str, Array]:
        rig.clock.advance(1.0)
        return double_plus_one(inputs)

    rig = make_rig(slow, depth=1)
    ticket = rig.submit(*range(8))
    assert_answers(ticket, *range(8))
    assert [report.rows for report in rig.reports(2)] == [4, 4]
    assert (ticket.launched_at, ticket.computed_at) == (1000.0, 1002.0)


def test_a_batch_behind_another_is_timed_from_the_end_of_that_one(make_rig: RigMaker) -> None:
    rig = make_rig()
    rig.occupy(1)
    rig.submit(2)
    rig.pass_time(1.0)
    assert rig.launched(1) == [[1], [2]]
    rig.devices[1].proceed.release()
    rig.reports(1)
    rig.clock.advance(0.25)
    rig.free()
    assert [report.execute_s for report in rig.reports(2)] == [1.0, 0.25]


def test_the_load_says_how_old_the_oldest_batch_is(rig: Rig) -> None:
    rig.occupy()
    rig.clock.advance(7)
    assert rig.batcher.load() == Load(0, 0, 1, 7.0)


# --- what is over at once -------------------------------------------------------------------------


def note_threads(rig: Rig) -> list[str]:
    """The names of the threads that fetch results, as they do."""
    names: list[str] = []

    def noted(inputs: Arrays) -> dict[str, Array]:
        names.append(threading.current_thread().name)
        return double_plus_one(inputs)

    for puppet in rig.devices.values():
        puppet.function = noted
    return names


@pytest.mark.parametrize(
    ("quick", "thread"),
    [
        pytest.param(True, "brim-batcher-puppet", id="over at once"),
        pytest.param(False, "brim-completer-puppet", id="on the device"),
    ],
)
def test_a_batch_that_is_over_when_it_is_launched_wakes_no_other_thread(
    rig: Rig, quick: bool, thread: str
) -> None:
    names = note_threads(rig)
    rig.devices[1].quick = quick
    for value in range(3):
        assert_answers(rig.submit(value), value)
    assert [report.rows for report in rig.reports(3)] == [1, 1, 1]
    assert names == [thread] * 3


def test_a_batch_that_is_over_at_once_does_not_overtake_one_that_is_not(rig: Rig) -> None:
    names = note_threads(rig)
    before = rig.occupy(0)
    rig.devices[2].quick = True
    rig.devices[2].held = False
    behind = [rig.submit(1), rig.submit(2)]
    rig.pass_time(1.0)
    assert rig.launched(2) == [[1, 2]]
    assert not any(ticket.done for ticket in behind)
    rig.free()
    assert_answers(before, 0)
    for ticket, value in zip(behind, (1, 2), strict=True):
        assert_answers(ticket, value)
    assert [report.rows for report in rig.reports(2)] == [1, 2]
    assert names == ["brim-completer-puppet"] * 2


def test_when_the_completer_has_caught_up_the_batcher_completes_again(rig: Rig) -> None:
    names = note_threads(rig)
    assert_answers(rig.submit(0), 0)
    rig.reports(1)
    rig.devices[2].quick = True
    # the completer counts a batch only when it has reported it
    for _ in range(1_000_000):
        if rig.batcher._completed:
            break
        os.sched_yield()
    assert_answers(rig.submit(1, 2), 1, 2)
    assert names == ["brim-completer-puppet", "brim-batcher-puppet"]


def test_while_several_requests_are_submitted_the_batcher_rests_when_it_has_answered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = threading.Semaphore(0)
    wake, wait = rig.batcher._wake, rig.batcher._wake.wait

    def sleep(seconds: float | None = None) -> bool:
        asleep.release()
        return wait(seconds)

    rig.hold()
    for puppet in rig.devices.values():
        puppet.quick = True
    rig.submit(0)
    assert rig.devices[1].entered.acquire(timeout=PATIENCE_S)
    monkeypatch.setattr(wake, "wait", sleep)
    rig.shared.begin_turn(rig.clock(), 10.0)
    first = rig.submit(1)
    rig.free()
    assert asleep.acquire(timeout=PATIENCE_S)
    second = rig.submit(2)
    rig.shared.end_turn()
    assert_answers(first, 1)
    assert_answers(second, 2)
    assert (rig.launched(1), rig.launched(2)) == ([[0]], [[1, 2]])


def test_a_death_while_the_batcher_completes_is_its_own(rig: Rig) -> None:
    rig.devices[1].quick = True
    rig.devices[1].fail_result = Death("at the result")
    ticket = rig.submit(1)
    assert rig.died.wait(PATIENCE_S)
    assert rig.deaths == ["brim-batcher-puppet died: Death('at the result')"]
    assert isinstance(error_of(ticket), ModelFailed)
    assert rig.batcher.load() == Load(0, 0, 0, 0.0)
    assert_threads_end(rig)


# --- turns --------------------------------------------------------------------------------------

SHORT = batcher_module.SHORT_S / 2


@contextlib.contextmanager
def turn(rig: Rig, hold_s: float = 0.0) -> Iterator[None]:
    """As `Engine.turn`."""
    rig.shared.begin_turn(rig.clock(), hold_s)
    yield
    rig.shared.end_turn()


def quick(rig: Rig) -> list[str]:
    """Batches are over when they are launched; who fetches their results?"""
    for puppet in rig.devices.values():
        puppet.quick = True
    return note_threads(rig)


def test_short_batches_of_a_turn_are_run_by_its_thread_at_its_end(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=SHORT)
    names = quick(rig)
    with turn(rig):
        tickets = [rig.submit(value) for value in range(3)]
        assert not any(ticket.done for ticket in tickets)
    assert all(ticket.done for ticket in tickets)
    assert set(names) == {threading.current_thread().name}
    assert sum(report.rows for report in rig.reports(len(names))) == 3


def test_longer_batches_are_the_batchers_and_wait_for_the_turns_end(rig: Rig) -> None:
    names = quick(rig)
    with turn(rig, hold_s=10.0):
        tickets = [rig.submit(value) for value in range(4)]
        assert rig.observer.events == []
    for value, ticket in enumerate(tickets):
        assert_answers(ticket, value)
    assert rig.launched(4) == [[0, 1, 2, 3]]
    assert set(names) == {"brim-batcher-puppet"}


def test_what_calls_back_into_python_is_never_short(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=SHORT, self_contained=False)
    names = quick(rig)
    with turn(rig):
        ticket = rig.submit(1)
    assert_answers(ticket, 1)
    assert names == ["brim-batcher-puppet"]


def test_a_turn_that_lasts_lets_the_batcher_look_now_and_then(rig: Rig) -> None:
    quick(rig)
    with turn(rig, hold_s=10.0):
        first = rig.submit(0)
        rig.clock.advance(11.0)
        second = rig.submit(1)
        assert_answers(first, 0)
        assert_answers(second, 1)


def test_outside_of_a_turn_the_batcher_is_woken_by_every_request(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=SHORT)
    names = quick(rig)
    assert_answers(rig.submit(1), 1)
    assert names == ["brim-batcher-puppet"]


def test_a_batch_that_a_turn_launches_and_that_takes_its_time_is_the_completers(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(seconds=SHORT)
    names = note_threads(rig)
    with turn(rig):
        ticket = rig.submit(1)
    assert_answers(ticket, 1)
    assert names == ["brim-completer-puppet"]


def test_what_a_turn_leaves_for_later_is_the_batchers(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=SHORT, depth=1)
    before = rig.occupy(0)
    with turn(rig):
        later = rig.submit(1)
    rig.free()
    assert_answers(before, 0)
    assert_answers(later, 1)


def test_what_a_turn_leaves_for_a_moment_is_launched_at_that_moment(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=SHORT)
    rig.occupy(0)
    with turn(rig):
        rig.submit(1)
    rig.clock.advance(1.0)
    for _ in range(2):
        assert rig.devices[1].started.acquire(timeout=PATIENCE_S)
    assert rig.launched(1) == [[0], [1]]


def test_two_threads_do_not_both_do_the_batchers_work(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=SHORT, depth=1)
    names = quick(rig)
    rig.hold()

    def first() -> None:
        with turn(rig):
            rig.submit(1)

    other = threading.Thread(target=first, name="other")
    other.start()
    assert rig.devices[1].entered.acquire(timeout=PATIENCE_S)
    with turn(rig):
        ticket = rig.submit(2)
    assert not ticket.done
    rig.free()
    assert_answers(ticket, 2)
    other.join(PATIENCE_S)
    assert names == ["other", "other"]


def test_what_is_submitted_while_the_batcher_is_at_work_is_its_work_too(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(seconds=SHORT)
    names = quick(rig)
    rig.hold()
    tickets = [rig.submit(1)]
    assert rig.devices[1].entered.acquire(timeout=PATIENCE_S)

    def second() -> None:
        with turn(rig):
            tickets.append(rig.submit(2))
            rig.clock.advance(1.0)  # the device should be free by now

    other = threading.Thread(target=second, daemon=True)
    other.start()
    other.join(PATIENCE_S)
    assert not other.is_alive()
    rig.free()
    for value, ticket in enumerate(tickets, 1):
        assert_answers(ticket, value)
    assert names == ["brim-batcher-puppet"] * 2


def test_what_is_too_late_at_the_end_of_a_turn_is_told_so(make_rig: RigMaker) -> None:
    rig = make_rig(seconds=SHORT)
    quick(rig)
    with turn(rig):
        ticket = rig.submit(1, timeout_s=1.0)
        rig.clock.advance(2.0)
    assert ticket.done
    assert isinstance(error_of(ticket), DeadlineExceeded)


def test_a_bug_in_a_turn_is_the_models_death_and_not_its_callers(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(seconds=SHORT)
    rig.queue.broken = ZeroDivisionError("in the policy")
    with turn(rig):
        ticket = rig.submit(1)
    assert rig.deaths == ["MainThread died: ZeroDivisionError('in the policy')"]
    assert isinstance(error_of(ticket), ModelFailed)
    assert "in the policy" in caplog.text
    assert_threads_end(rig)


def test_the_end_of_a_turns_thread_is_its_own_and_leaves_nobody_waiting(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(seconds=SHORT)
    rig.devices[1].fail_launch = SystemExit("told to")
    with pytest.raises(SystemExit), turn(rig):
        ticket = rig.submit(1)
    assert isinstance(error_of(ticket), ModelFailed)
    assert "told to" in caplog.text
    assert_threads_end(rig)


# --- one batch fails ----------------------------------------------------------------------------


def wrong_shape(inputs: Arrays) -> dict[str, Array]:
    return {"y": inputs["x"][1:] * 2 + 1}


def wrong_name(inputs: Arrays) -> dict[str, Array]:
    return {"z": inputs["x"]}


def fail_launch(puppet: PuppetExecutable) -> None:
    puppet.fail_launch = RuntimeError("boom")


def fail_result(puppet: PuppetExecutable) -> None:
    puppet.fail_result = RuntimeError("boom")


def give_wrong_shape(puppet: PuppetExecutable) -> None:
    puppet.function = wrong_shape


def give_wrong_name(puppet: PuppetExecutable) -> None:
    puppet.function = wrong_name


@pytest.mark.parametrize(
    ("break_it", "cause"),
    [
        pytest.param(fail_launch, RuntimeError, id="it-does-not-start"),
        pytest.param(fail_result, RuntimeError, id="it-does-not-finish"),
        pytest.param(give_wrong_shape, AssertionError, id="too-few-rows-come-back"),
        pytest.param(give_wrong_name, KeyError, id="another-tensor-comes-back"),
    ],
)
def test_a_batch_that_fails_fails_its_own_tickets_each_with_its_own_error(
    make_rig: RigMaker, break_it: Callable[[PuppetExecutable], None], cause: type[Exception]
) -> None:
    rig = make_rig(depth=1)
    before = rig.occupy(0)
    together = [rig.submit(1), rig.submit(2)]
    rig.quiet()
    break_it(rig.devices[2])
    rig.free()
    errors = [error_of(ticket) for ticket in together]
    assert all(type(error) is ExecutionFailed for error in errors)
    assert all(type(error.__cause__) is cause for error in errors)
    assert errors[0] is not errors[1]
    assert_answers(before, 0)
    assert_answers(rig.submit(3), 3)
    assert [report.failed for report in rig.reports(3)] == [False, True, False]
    assert rig.batcher.load() == Load(0, 0, 0, 0.0)
    assert rig.deaths == []


def test_the_device_s_message_reaches_the_client_and_the_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.devices[1].fail_result = RuntimeError("out of memory")
    assert str(error_of(rig.submit(1))) == "the device failed this batch: out of memory"
    rig.reports(1)
    assert "a batch of model puppet failed" in caplog.text
    assert "RuntimeError: out of memory" in caplog.text


def test_the_rest_of_a_request_whose_first_part_failed_never_runs(make_rig: RigMaker) -> None:
    rig = make_rig()
    rig.devices[4].fail_result = RuntimeError("boom")
    ticket = rig.submit(1, 2, 3, 4, 5)
    assert isinstance(error_of(ticket), ExecutionFailed)
    rig.reports(1)
    rig.quiet()
    assert rig.batcher.load() == Load(0, 0, 0, 0.0)
    assert rig.launched(1) == []


# --- one row is bad -----------------------------------------------------------------------------


def unlucky(inputs: Arrays) -> dict[str, Array]:
    """Not a number for 13, and what the padding gives."""
    return {"y": np.where(inputs["x"] == UNLUCKY, np.nan, inputs["x"] * 2 + 1)}


def test_a_row_that_makes_nan_fails_alone(make_rig: RigMaker) -> None:
    rig = make_rig(unlucky, depth=1)
    rig.occupy()
    good, bad, fine = rig.submit(1), rig.submit(2, UNLUCKY), rig.submit(3)
    rig.quiet()
    rig.free()
    assert_answers(good, 1)
    assert_answers(fine, 3)
    error = error_of(bad)
    assert isinstance(error, NonFiniteOutput)
    assert str(error) == "the model made NaN or infinity in 'y' for this request's rows"
    assert not rig.reports(2)[1].failed


def test_a_model_may_say_that_nan_is_an_answer(make_rig: RigMaker) -> None:
    rig = make_rig(unlucky, start=False)
    spec = rig.model.outputs[0]
    spec = type(spec)(spec.name, spec.datatype, spec.shape, nonfinite=True)
    rig.batcher._model = puppet_model(outputs=(spec,))
    rig.batcher.start()
    answer = rig.submit(UNLUCKY).result()["y"]
    assert np.isnan(answer[0, 0])


# --- at the door --------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_when_to_come_back(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1, max_rows=5)
    rig.occupy()
    waits = rig.submit(1, 2, 3, 4)
    with pytest.raises(QueueFull, match="2 rows do not fit: 4 wait already") as caught:
        rig.submit(5, 6)
    assert caught.value.retry_after_s == 1.0 + 1.2
    fits = rig.submit(5)
    rig.free()
    assert_answers(waits, 1, 2, 3, 4)
    assert_answers(fits, 5)


def test_a_refused_ticket_has_no_outcome_and_is_not_queued(make_rig: RigMaker) -> None:
    rig = make_rig(max_rows=1)
    ticket = rig.ticket(1, 2)
    with pytest.raises(QueueFull):
        rig.batcher.submit(ticket)
    assert not ticket.done
    assert rig.batcher.load().queued_rows == 0


# --- several models, one device -----------------------------------------------------------------


def test_models_get_their_part_of_the_device_by_weight(clock: FakeClock) -> None:
    shared, observer = SharedDevice(), RecordingObserver()
    devices = PuppetExecutable(), PuppetExecutable()
    # one device: what is launched stands in one line, and comes back in that order
    started, launched = devices[0].started, devices[0].launched
    devices[1].started, devices[1].launched = started, launched
    batchers = []
    for name, weight, device in zip(("light", "heavy"), (1.0, 3.0), devices, strict=True):
        device.hold()
        costs = CostTable({Bucket(1): 1.0})
        with shared.lock:
            waiting: BatchQueue[Ticket] = BatchQueue(
                Policy(0.0, 100, 1), costs, (None,), shared.device, name, weight
            )
        batchers.append(
            Batcher(
                name,
                puppet_model(),
                waiting,
                {Bucket(1): device},
                observer,
                clock,
                lambda _reason: None,
                shared,
            )
        )
    for value, batcher in enumerate(batchers):
        for _ in range(30):
            ticket = Ticket(
                Prepared(rows(value)),
                Extent(1, None),
                lane=None,
                enqueued_at=clock(),
                deadline=clock() + 1000.0,
                clock=clock,
                settled=lambda _tickets: None,
            )
            batcher.submit(ticket)
    for batcher in batchers:
        batcher.start()
    for turn in range(1, 37):
        assert started.acquire(timeout=PATIENCE_S)
        clock.advance(1.0)
        devices[int(launched[turn - 1]["x"][0, 0])].proceed.release()
        observer.wait_for("batch_done", turn)
    turns = [batch["x"][0, 0] for batch in launched[4:36]]  # once both are there
    assert abs(turns.count(1) - 24) <= 1
    assert turns.count(0) + turns.count(1) == 32
    for device in devices:
        device.held = False
        device.proceed.release(1000)
    for batcher in batchers:
        batcher.close(PATIENCE_S)


def test_a_model_that_nobody_asks_sleeps_while_others_are_served(make_rig: RigMaker) -> None:
    rig, polls = make_rig(), 0

    class Idle(WatchedQueue):
        def poll(self, now: float) -> Any:
            nonlocal polls
            polls += 1
            return super().poll(now)

    policy = Policy(max_wait_s=0.0, max_rows=100, depth=2)
    queue = Idle(policy, rig.costs, (None,), rig.shared.device, "idle")
    idle = Batcher(
        "idle",
        rig.model,
        queue,
        {},
        RecordingObserver(),
        rig.clock,
        lambda _reason: None,
        rig.shared,
    )
    queue.knocked()
    idle.start()
    queue.quiet()
    for value in range(5):
        assert_answers(rig.submit(value), value)
    rig.reports(5)
    idle.close(PATIENCE_S)
    assert polls == 2  # when it began, and when it was closed


# --- those who leave ----------------------------------------------------------------------------


def test_rows_that_are_cancelled_while_they_wait_never_reach_the_device(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=1)
    rig.occupy(0)
    stays, leaves, stays_too = (rig.submit(value) for value in (1, 2, 3))
    leaves.cancel()
    assert rig.batcher.load().queued_rows == 2
    rig.quiet()
    rig.free()
    assert_answers(stays, 1)
    assert_answers(stays_too, 3)
    assert isinstance(error_of(leaves), Cancelled)
    assert rig.launched(2) == [[1, 3]]
    assert rig.launched(4) == []


def test_a_client_who_leaves_while_its_rows_compute_changes_nothing_for_the_others(
    rig: Rig,
) -> None:
    computing = rig.occupy(0)
    computing.cancel()
    rig.free()
    assert_answers(rig.submit(1), 1)
    assert isinstance(error_of(computing), Cancelled)


def test_whoever_is_past_the_deadline_is_told_so_while_the_device_is_busy(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=1)
    rig.occupy(0)
    late, patient, leaving = rig.submit(1, timeout_s=2.25), rig.submit(2), rig.submit(3)
    rig.clock.advance(2.25)
    leaving.cancel()  # knocks: the thread looks at the clock
    error = error_of(late)
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == "no answer is possible within 2.25 s"
    rig.quiet()
    rig.free()
    assert_answers(patient, 2)
    assert rig.launched(1) == [[0], [2]]


def test_a_waiting_client_gives_up_at_its_deadline_without_any_help(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    rig.occupy(0)
    late = rig.submit(1, timeout_s=2.25)
    rig.clock.advance(2.25)
    with pytest.raises(DeadlineExceeded):
        late.result()
    assert rig.batcher.load().queued_rows == 0


# --- a thread dies ------------------------------------------------------------------------------


def assert_threads_end(rig: Rig) -> None:
    """By themselves, without a close."""
    for thread in rig.batcher._threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def batcher_dies(rig: Rig) -> None:
    """On its way to the device."""
    rig.devices[4].fail_launch = Death("at the launch")
    rig.submit(7, 8, 9, 10)
    rig.clock.advance(10.0)
    with rig.batcher._lock:
        rig.batcher._wake.notify()


def policy_dies(rig: Rig) -> None:
    """While deciding."""
    rig.queue.broken = ZeroDivisionError("in the policy")
    with rig.batcher._lock:
        rig.batcher._wake.notify()


def completer_dies(rig: Rig) -> None:
    """While waiting for the device."""
    rig.devices[1].fail_result = Death("at the result")
    rig.devices[1].proceed.release()


@pytest.mark.parametrize(
    ("die", "reason"),
    [
        pytest.param(batcher_dies, "brim-batcher-puppet died: Death('at the launch')", id="launch"),
        pytest.param(
            policy_dies, "brim-batcher-puppet died: ZeroDivisionError('in the policy')", id="policy"
        ),
        pytest.param(
            completer_dies, "brim-completer-puppet died: Death('at the result')", id="result"
        ),
    ],
)
def test_when_a_thread_dies_everybody_is_told_and_nobody_is_let_in(
    rig: Rig, die: Callable[[Rig], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    computing = rig.occupy()
    waiting = [rig.submit(1), rig.submit(2)]
    rig.quiet()
    die(rig)
    assert rig.died.wait(PATIENCE_S)
    assert rig.deaths == [reason]
    message = f"model 'puppet' has failed: {reason}"
    errors = [error_of(ticket) for ticket in (computing, *waiting)]
    assert all(type(error) is ModelFailed for error in errors)
    assert {str(error) for error in errors} == {message}
    assert len({id(error) for error in errors}) == 3
    with pytest.raises(ModelFailed) as refused:
        rig.submit(3)
    assert str(refused.value) == message
    assert rig.batcher.load() == Load(0, 0, 0, 0.0)
    assert reason in caplog.text
    rig.free()
    assert_threads_end(rig)


def test_what_the_device_answers_after_the_death_of_the_batcher_is_dropped(rig: Rig) -> None:
    computing = rig.occupy()
    policy_dies(rig)
    assert rig.died.wait(PATIENCE_S)
    rig.free()
    rig.reports(1)
    assert isinstance(error_of(computing), ModelFailed)
    assert len(rig.settled) == 1
    assert rig.queue.in_flight == 0


def test_a_death_between_two_answers_of_one_batch_leaves_nobody_behind(
    make_rig: RigMaker,
) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    first, second = rig.submit(1), rig.ticket(2, kind=Fatal)
    rig.batcher.submit(second)
    rig.quiet()
    rig.free()
    assert rig.died.wait(PATIENCE_S)
    assert_answers(first, 1)
    assert isinstance(error_of(second), ModelFailed)


def test_a_death_while_answers_are_counted_keeps_nobody_waiting(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    rig.occupy()
    tickets = [rig.submit(1), rig.submit(2)]
    rig.quiet()

    def fall(_tickets: list[Ticket]) -> None:
        raise Death

    tickets[0]._settled = fall
    rig.free()
    assert rig.died.wait(PATIENCE_S)
    for ticket, value in zip(tickets, (1, 2), strict=True):
        assert_answers(ticket, value)


# --- close, clause by clause --------------------------------------------------------------------


def threads_of(rig: Rig) -> list[threading.Thread]:
    return [thread for thread in rig.batcher._threads if thread.is_alive()]


def test_close_refuses(rig: Rig) -> None:
    rig.batcher.drain()
    with pytest.raises(ShuttingDown, match="the server is shutting down") as caught:
        rig.submit(1)
    assert caught.value.retry_after_s == 1.0


def test_close_drains_what_waits_without_waiting_for_company(rig: Rig) -> None:
    computing = rig.occupy(0)
    waiting = rig.submit(1)
    rig.batcher.drain()
    rig.free()
    rig.batcher.close(PATIENCE_S)
    assert_answers(computing, 0)
    assert_answers(waiting, 1)
    assert [report.reason for report in rig.reports(2)] == ["idle", "drain"]


def test_close_answers_whoever_is_left_when_the_time_is_up(make_rig: RigMaker) -> None:
    rig = make_rig(depth=1)
    computing = rig.occupy(0)
    waiting = rig.submit(1)
    rig.batcher.close(0.0)
    for ticket in (computing, waiting):
        error = error_of(ticket)
        assert isinstance(error, ShuttingDown)
        assert str(error) == "the server stopped before the answer"
    rig.free()
    rig.batcher.close(PATIENCE_S)
    assert rig.launched(1) == [[0]]


def test_close_joins(rig: Rig) -> None:
    assert len(threads_of(rig)) == 3
    rig.submit(1).result()
    rig.batcher.close(PATIENCE_S)
    assert threads_of(rig) == []


def test_close_is_idempotent(rig: Rig) -> None:
    ticket = rig.submit(1)
    for _ in range(3):
        rig.batcher.close(PATIENCE_S)
    assert_answers(ticket, 1)


def test_close_before_start_answers_those_who_wait(make_rig: RigMaker) -> None:
    rig = make_rig(start=False)
    ticket = rig.submit(1)
    rig.batcher.close(PATIENCE_S)
    assert isinstance(error_of(ticket), ShuttingDown)


def test_start_after_close_ends_at_once(make_rig: RigMaker) -> None:
    rig = make_rig(start=False)
    rig.batcher.close(0.0)
    rig.batcher.start()
    rig.batcher.close(PATIENCE_S)
    assert threads_of(rig) == []


def test_the_threads_are_named_after_their_model(rig: Rig) -> None:
    assert [t.name for t in threads_of(rig)] == [
        "brim-batcher-puppet",
        "brim-completer-puppet",
        "brim-corrector-puppet",
    ]


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    """What fails on purpose is logged, where a test can look."""
    caplog.set_level(logging.ERROR, "brim.engine")
