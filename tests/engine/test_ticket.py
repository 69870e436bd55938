"""A ticket has exactly one outcome, whoever tries to settle it and in whatever order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BrimError, Cancelled, DeadlineExceeded, ModelFailed
from engine.model import Prepared
from engine.spec import Extent
from engine.testing import FakeClock
from engine.ticket import Ticket, announce
from engine.waiting import DEFAULT_PRIORITY


class Heard:
    """Makes tickets, and keeps what they say of themselves."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.settled: list[BrimError | None] = []
        self.withdrawn: list[Ticket] = []

    def ticket(self, rows: int = 1, timeout_s: float = 30.0, kind: type[Ticket] = Ticket) -> Ticket:
        ticket = kind(
            Prepared({}),
            Extent(rows, None),
            lane=None,
            enqueued_at=self.clock(),
            deadline=self.clock() + timeout_s,
            clock=self.clock,
            settled=lambda tickets: self.settled.extend(ticket.error for ticket in tickets),
        )
        ticket.on_withdraw(self.withdrawn.append)
        return ticket


@pytest.fixture
def heard(clock: FakeClock) -> Heard:
    return Heard(clock)


def part(start: int, count: int) -> dict[str, Any]:
    """The outputs of rows `start` to `start + count`: each row answers its own number."""
    return {"y": np.arange(start, start + count)}


def deliver(ticket: Ticket, start: int = 0, count: int = 1) -> bool:
    """As the engine does, for a batch of one."""
    settled = ticket.deliver(start, part(start, count))
    if settled:
        announce([ticket])
    return settled


def answer(ticket: Ticket) -> list[int]:
    return [int(number) for number in ticket.result()["y"]]


# --- an answer ----------------------------------------------------------------------------------


def test_a_ticket_is_settled_by_its_answer(heard: Heard) -> None:
    ticket = heard.ticket(rows=3)
    assert not ticket.done
    assert not ticket.wait(0)
    heard.clock.advance(0.25)
    assert deliver(ticket, 0, 3)
    assert ticket.done
    assert ticket.wait(0)
    assert answer(ticket) == [0, 1, 2]
    assert heard.settled == [None]
    assert ticket.finished_at == heard.clock.now


@given(data=st.data())
def test_parts_may_come_in_any_order_and_only_the_last_settles(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    order = data.draw(st.permutations(list(zip(starts, sizes, strict=True))))
    ticket = Heard(FakeClock()).ticket(rows=sum(sizes))
    settled = [deliver(ticket, start, count) for start, count in order]
    assert settled == [False] * (len(sizes) - 1) + [True]
    assert answer(ticket) == list(range(sum(sizes)))


def test_rows_that_come_twice_are_a_bug(heard: Heard) -> None:
    ticket = heard.ticket(rows=2)
    ticket.deliver(0, part(0, 2))
    with pytest.raises(AssertionError, match=r"<Ticket 2 rows, done> was given rows twice"):
        ticket.deliver(0, part(0, 2))


def test_parts_that_come_after_a_cancel_are_ignored(heard: Heard) -> None:
    ticket = heard.ticket(rows=3)
    ticket.deliver(0, part(0, 1))
    ticket.cancel()
    assert not ticket.deliver(1, part(1, 2))
    with pytest.raises(Cancelled):
        ticket.result()


def test_an_answer_is_there_for_nobody_before_it_is_announced(heard: Heard) -> None:
    ticket = heard.ticket()
    calls: list[list[Ticket]] = []
    ticket.on_done(calls.append)
    assert ticket.deliver(0, part(0, 1))
    assert not ticket.done
    assert not ticket.wait(0)
    assert heard.settled == calls == []
    announce([ticket])
    assert ticket.wait(0)
    assert heard.settled == [None]
    assert calls == [[ticket]]


@pytest.mark.parametrize("waiters", [1, 3])
def test_all_who_wait_are_woken(heard: Heard, waiters: int) -> None:
    ticket, waiting = heard.ticket(), threading.Semaphore(0)
    answers: list[list[int]] = []

    class Done(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.release()
            return super().wait(timeout)

    ticket._done = Done()
    threads = [
        threading.Thread(target=lambda: answers.append(answer(ticket))) for _ in range(waiters)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=30)
    deliver(ticket)
    for thread in threads:
        thread.join()
    assert answers == [[0]] * waiters


def test_who_comes_between_the_telling_and_the_waking_is_not_left_waiting(heard: Heard) -> None:
    """An Event that is made too late to be set by whoever tells is born set."""
    ticket = heard.ticket()
    deliver(ticket)
    assert ticket._event().is_set()


def test_an_answer_can_be_asked_for_twice(heard: Heard) -> None:
    ticket = heard.ticket()
    deliver(ticket)
    assert answer(ticket) == answer(ticket) == [0]


# --- an error -----------------------------------------------------------------------------------


def test_a_failed_ticket_raises_its_very_error(heard: Heard) -> None:
    ticket, error = heard.ticket(), ModelFailed("broken")
    assert ticket.fail(error)
    with pytest.raises(ModelFailed) as caught:
        ticket.result()
    assert caught.value is error
    assert heard.settled == [error]


def test_at_the_deadline_the_ticket_gives_up_and_its_rows_leave_the_queue(heard: Heard) -> None:
    ticket = heard.ticket(timeout_s=1.5)
    heard.clock.advance(1.5)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 1\.5 s"):
        ticket.result()
    assert heard.withdrawn == [ticket]


def test_an_answer_that_is_there_counts_though_it_is_fetched_after_the_deadline(
    heard: Heard,
) -> None:
    ticket = heard.ticket(timeout_s=1.5)
    deliver(ticket)
    heard.clock.advance(100)
    assert answer(ticket) == [0]
    assert heard.withdrawn == []


def test_cancelling_takes_the_rows_out_of_the_queue_once(heard: Heard) -> None:
    ticket = heard.ticket()
    assert ticket.cancel()
    assert not ticket.cancel()
    assert heard.withdrawn == [ticket]
    with pytest.raises(Cancelled, match="the client closed the connection"):
        ticket.result()


def test_cancelling_what_is_answered_changes_nothing(heard: Heard) -> None:
    ticket = heard.ticket()
    deliver(ticket)
    assert not ticket.cancel()
    assert answer(ticket) == [0]
    assert heard.withdrawn == []


def test_a_ticket_that_was_never_queued_can_be_cancelled(clock: FakeClock) -> None:
    ticket = Ticket(
        Prepared({}),
        Extent(1, None),
        lane=None,
        enqueued_at=0,
        deadline=1,
        clock=clock,
        settled=lambda _tickets: None,
    )
    assert ticket.cancel()


def test_a_listener_that_fails_does_not_keep_the_client_waiting(heard: Heard) -> None:
    ticket = heard.ticket()

    def broken(_tickets: list[Ticket]) -> None:
        raise ZeroDivisionError

    ticket._settled = broken
    with pytest.raises(ZeroDivisionError):
        ticket.fail(ModelFailed("broken"))
    assert ticket.wait(0)


# --- races --------------------------------------------------------------------------------------

SETTLERS: dict[str, Callable[[Ticket], bool]] = {
    "deliver": deliver,
    "fail": lambda ticket: ticket.fail(ModelFailed("broken")),
    "cancel": lambda ticket: ticket.cancel(),
}


class DawdlingTicket(Ticket):
    """Lets the other thread run between every look at the outcome and what follows from it."""

    @property
    def _outcome(self) -> Any:  # type: ignore[override]
        seen = Ticket._outcome.__get__(self)
        os.sched_yield()
        return seen

    @_outcome.setter
    def _outcome(self, outcome: Any) -> None:
        Ticket._outcome.__set__(self, outcome)


@pytest.mark.parametrize(
    "names",
    [("deliver", "cancel"), ("fail", "cancel"), ("fail", "deliver"), ("fail", "fail")],
    ids="-against-".join,
)
def test_of_two_who_settle_at_once_exactly_one_does(heard: Heard, names: tuple[str, str]) -> None:
    tickets = [heard.ticket(kind=DawdlingTicket) for _ in range(200)]
    together = threading.Barrier(2)
    won: list[list[bool]] = []

    def settle(name: str) -> None:
        wins = []
        for ticket in tickets:
            together.wait()
            wins.append(SETTLERS[name](ticket))
        won.append(wins)

    threads = [threading.Thread(target=settle, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one + other for one, other in zip(*won, strict=True)] == [1] * len(tickets)
    assert len(heard.settled) == len(tickets)


def test_losing_against_somebody_who_has_not_finished_settling_waits_for_it(heard: Heard) -> None:
    """At the deadline, the winner may be between its decision and its announcement."""
    ticket = heard.ticket(timeout_s=1.0)
    deciding, waited_for = threading.Event(), threading.Event()
    order: list[str] = []

    def count(_tickets: list[Ticket]) -> None:
        deciding.set()
        waited_for.wait(30)
        order.append("announced")

    class Done(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None:
                waited_for.set()
            return super().wait(timeout)

    ticket._settled, ticket._done = count, Done()
    settler = threading.Thread(target=deliver, args=(ticket,))
    settler.start()
    assert deciding.wait(30)
    heard.clock.advance(1.0)
    answered = answer(ticket)
    order.append("answered")
    waited_for.set()
    settler.join()
    assert answered == [0]
    assert order == ["announced", "answered"]
    assert heard.withdrawn == []


# --- for people ---------------------------------------------------------------------------------


def test_a_ticket_says_how_it_stands(heard: Heard) -> None:
    opened, answered, failed = heard.ticket(2), heard.ticket(), heard.ticket()
    answered.deliver(0, part(0, 1))
    failed.cancel()
    assert [repr(ticket) for ticket in (opened, answered, failed)] == [
        "<Ticket 2 rows, open>",
        "<Ticket 1 rows, done>",
        "<Ticket 1 rows, Cancelled>",
    ]


def test_a_ticket_keeps_what_was_prepared_for_it_and_how_urgent_it_is(clock: FakeClock) -> None:
    prepared = Prepared({"y": np.zeros(1)}, {"truncated": True}, tokens=3)
    ticket = Ticket(
        prepared,
        Extent(1, None),
        lane=None,
        enqueued_at=0,
        deadline=1,
        clock=clock,
        settled=lambda _tickets: None,
        priority=2,
    )
    assert ticket.prepared is prepared
    assert ticket.inputs is prepared.inputs
    assert ticket.priority == 2


def test_a_ticket_has_no_moments_before_they_come_and_default_priority(heard: Heard) -> None:
    ticket = heard.ticket()
    assert ticket.enqueued_at == heard.clock.now
    moments = (ticket.gathering_at, ticket.launched_at, ticket.computed_at, ticket.finished_at)
    assert moments == (None,) * 4
    assert ticket.priority == DEFAULT_PRIORITY


# --- those who listen -----------------------------------------------------------------------------


def test_a_listener_hears_all_tickets_of_a_batch_in_one_call(heard: Heard) -> None:
    calls: list[list[Ticket]] = []
    others: list[list[Ticket]] = []
    tickets = [heard.ticket() for _ in range(4)]
    for ticket in tickets[:3]:
        ticket.on_done(calls.append)
    tickets[3].on_done(others.append)
    for ticket in tickets:
        ticket.deliver(0, part(0, 1))
    assert calls == others == []
    announce(tickets)
    assert (calls, others) == ([tickets[:3]], [[tickets[3]]])


@pytest.mark.parametrize(
    "settle",
    [
        pytest.param(lambda ticket: ticket.fail(ModelFailed("no")), id="failed"),
        pytest.param(lambda ticket: ticket.cancel(), id="the client left"),
    ],
)
def test_whoever_settles_a_ticket_alone_says_so_once(
    heard: Heard, settle: Callable[[Ticket], object]
) -> None:
    calls: list[list[Ticket]] = []
    ticket = heard.ticket()
    ticket.on_done(calls.append)
    for _ in range(2):
        settle(ticket)
    assert calls == [[ticket]]


def test_who_listens_too_late_hears_at_once(heard: Heard) -> None:
    calls: list[list[Ticket]] = []
    ticket = heard.ticket()
    ticket.cancel()
    ticket.on_done(calls.append)
    assert calls == [[ticket]]


def test_the_deadline_is_heard_of_by_asking_for_the_result(heard: Heard) -> None:
    calls: list[list[Ticket]] = []
    ticket = heard.ticket(timeout_s=1)
    ticket.on_done(calls.append)
    heard.clock.advance(2)
    with pytest.raises(DeadlineExceeded):
        ticket.result()
    assert calls == [[ticket]]
