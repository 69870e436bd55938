"""Who waits, and in which order: against a plain list that is sorted every time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain, count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from engine.waiting import DEFAULT_PRIORITY, WaitingRoom


@dataclass(frozen=True, eq=False)
class Request:
    """What the waiting room sees of a request, and a name for people."""

    name: str
    rows: int = 1
    deadline: float = 100.0
    priority: int = DEFAULT_PRIORITY
    lane: int | None = None
    enqueued_at: float = 0.0

    def __repr__(self) -> str:
        return self.name


def room(*requests: Request, lanes: tuple[int | None, ...] = (None,)) -> WaitingRoom[Request]:
    waiting: WaitingRoom[Request] = WaitingRoom(lanes)
    for request in requests:
        waiting.add(request)
    return waiting


def taken(
    waiting: WaitingRoom[Request],
    rows: int,
    lanes: tuple[int | None, ...] = (None,),
    *,
    by_deadline: bool = False,
) -> str:
    """The next rows as one line: `a[0:3] b[0:5]`."""
    pieces = waiting.take(lanes, rows, by_deadline=by_deadline)
    return " ".join(f"{p.request}[{p.start}:{p.start + p.count}]" for p in pieces)


@pytest.mark.parametrize(
    ("requests", "by_deadline", "expected"),
    [
        pytest.param(
            [Request("a"), Request("b"), Request("c")],
            False,
            "a[0:1] b[0:1] c[0:1]",
            id="equal-deadlines-keep-the-order-of-arrival",
        ),
        pytest.param(
            [Request("a", deadline=9), Request("b", deadline=7), Request("c", deadline=8)],
            False,
            "b[0:1] c[0:1] a[0:1]",
            id="the-earliest-deadline-is-first",
        ),
        pytest.param(
            [Request("a", deadline=1), Request("b", deadline=9, priority=1)],
            False,
            "b[0:1] a[0:1]",
            id="priority-comes-before-deadline",
        ),
        pytest.param(
            [Request("a", deadline=1), Request("b", deadline=9, priority=1)],
            True,
            "a[0:1] b[0:1]",
            id="by-deadline-priority-counts-for-nothing",
        ),
        pytest.param(
            [Request("a", priority=9), Request("b", priority=1), Request("c", priority=5)],
            False,
            "b[0:1] c[0:1] a[0:1]",
            id="whatever-priority-came-first",
        ),
    ],
)
def test_the_order_in_which_rows_are_taken(
    requests: list[Request], by_deadline: bool, expected: str
) -> None:
    assert taken(room(*requests), 99, by_deadline=by_deadline) == expected


def test_a_request_is_cut_at_any_row_and_its_rest_stays_in_front() -> None:
    waiting = room(Request("a", 5), Request("b", 5))
    assert taken(waiting, 3) == "a[0:3]"
    assert taken(waiting, 4) == "a[3:5] b[0:2]"
    waiting.add(Request("c", 1))
    assert taken(waiting, 9) == "b[2:5] c[0:1]"
    assert (len(waiting), waiting.rows) == (0, {None: 0})


def test_an_earlier_deadline_passes_even_a_request_that_was_cut() -> None:
    waiting = room(Request("a", 5, deadline=9))
    assert taken(waiting, 2) == "a[0:2]"
    waiting.add(Request("b", 1, deadline=5))
    assert taken(waiting, 9) == "b[0:1] a[2:5]"


def test_lanes_are_taken_together_by_deadline_and_others_stay() -> None:
    waiting = room(
        Request("a", deadline=3, lane=16),
        Request("b", deadline=1, lane=64),
        Request("c", deadline=2, lane=32),
        lanes=(16, 32, 64),
    )
    assert waiting.mix((16, 64), 9, by_deadline=False) == [64, 16]
    assert taken(waiting, 9, (16, 64)) == "b[0:1] a[0:1]"
    assert waiting.rows == {16: 0, 32: 1, 64: 0}


def test_of_a_higher_priority_only_those_of_its_own_or_higher_are_ahead() -> None:
    waiting = room(Request("a", 3, deadline=1))
    assert waiting.ahead(Request("urgent", priority=1)) == {None: 0}
    assert waiting.ahead(Request("same")) == {None: 3}
    assert waiting.ahead(Request("patient", deadline=0, priority=9)) == {None: 3}


def test_those_behind_are_of_its_priority_and_in_order() -> None:
    first, *others = (
        Request("a", deadline=1),
        Request("b", deadline=9, lane=64),
        Request("c", deadline=8),
        Request("d", deadline=8, priority=9),
    )
    waiting = room(first, *others, lanes=(None, 64))
    assert [str(r) for r in waiting.behind(Request("x", deadline=5))] == ["c", "b"]
    assert [str(r) for r in waiting.behind(Request("x", deadline=8))] == ["b"]


@pytest.mark.parametrize(
    ("batches", "in_time"),
    [
        pytest.param([(9, 1.0)], True, id="exactly-at-the-deadline"),
        pytest.param([(9, 1.5)], False, id="the-first-is-late"),
        pytest.param([(2, 1.0), (3, 2.0)], True, id="each-in-its-own"),
        pytest.param([(1, 1.0), (4, 2.0)], False, id="half-of-the-first-is-late"),
        pytest.param([(2, 1.0), (2, 2.0), (1, 2.5)], False, id="the-last-row-is-late"),
        pytest.param([(1, 0.5), (1, 1.0), (1, 1.2), (1, 1.5), (1, 2.0)], True, id="a-row-each"),
    ],
)
def test_rows_are_in_time_if_their_batch_ends_by_their_deadline(
    batches: list[tuple[int, float]], in_time: bool
) -> None:
    waiting = room(Request("a", 2, deadline=1), Request("b", 3, deadline=2))
    later = ((9, 50.0 + number) for number in count())
    assert waiting.in_time((None,), chain(batches, later), by_deadline=False) == in_time


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order. A model's line is (request, rows that wait)."""

    requests = Bundle("requests")
    lanes = st.sampled_from([(16,), (64,), (16, 64)])

    def __init__(self) -> None:
        super().__init__()
        self.room: WaitingRoom[Request] = WaitingRoom((16, 64))
        self.model: list[tuple[Request, int]] = []  # in the order of arrival
        self.number = 0

    def made(self, rows: int, deadline: int, priority: int, lane: int) -> Request:
        self.number += 1
        return Request(f"r{self.number}", rows, float(deadline), priority, lane)

    def in_order(self, lanes: tuple[int, ...], by_deadline: bool) -> list[tuple[Request, int]]:
        # sorting keeps the order of arrival among equals
        return sorted(
            ((r, left) for r, left in self.model if r.lane in lanes),
            key=lambda one: (0 if by_deadline else one[0].priority, one[0].deadline),
        )

    @rule(
        target=requests,
        rows=st.integers(1, 5),
        deadline=st.integers(0, 6),
        priority=st.sampled_from([1, 5, 9]),
        lane=st.sampled_from([16, 64]),
    )
    def add(self, rows: int, deadline: int, priority: int, lane: int) -> Request:
        request = self.made(rows, deadline, priority, lane)
        before = self.in_order((16, 64), False)
        ahead = Counter({16: 0, 64: 0})
        for other, left in before:
            if (other.priority, other.deadline) <= (priority, request.deadline):
                ahead[other.lane or 0] += left
        behind = [
            other
            for other, _ in before
            if other.priority == priority and other.deadline > request.deadline
        ]
        assert self.room.ahead(request) == ahead
        assert list(self.room.behind(request)) == behind
        self.room.add(request)
        self.model.append((request, rows))
        return request

    @rule(request=requests)
    def discard(self, request: Request) -> None:
        self.room.discard(request)
        self.model = [(r, left) for r, left in self.model if r is not request]

    @rule(request=consumes(requests))
    def discard_and_forget(self, request: Request) -> None:
        self.discard(request)

    @rule(lanes=lanes, rows=st.integers(1, 9), by_deadline=st.booleans())
    def take(self, lanes: tuple[int, ...], rows: int, by_deadline: bool) -> None:
        expected, mixed, room_left = [], [], rows
        for request, left in self.in_order(lanes, by_deadline):
            count = min(left, room_left)
            if count:
                expected.append((request, request.rows - left, count))
                mixed += [request.lane] * count
                room_left -= count
        assert self.room.mix(lanes, rows, by_deadline=by_deadline) == mixed
        pieces = self.room.take(lanes, rows, by_deadline=by_deadline)
        assert [(p.request, p.start, p.count) for p in pieces] == expected
        gone = {request: count for request, _, count in expected}
        self.model = [(r, left - gone.get(r, 0)) for r, left in self.model if left > gone.get(r, 0)]

    @rule(lanes=lanes, rows=st.integers(1, 9), step=st.integers(1, 8), by_deadline=st.booleans())
    def ask_whether_all_are_in_time(
        self, lanes: tuple[int, ...], rows: int, step: int, by_deadline: bool
    ) -> None:
        deadlines = [r.deadline for r, left in self.in_order(lanes, by_deadline)
                     for _ in range(left)]  # fmt: skip
        ends = [step / 4 * (1 + place // rows) for place in range(len(deadlines))]
        expected = all(d >= end for d, end in zip(deadlines, ends, strict=True))
        batches = ((rows, step / 4 * number) for number in count(1))
        assert self.room.in_time(lanes, batches, by_deadline=by_deadline) == expected

    @invariant()
    def everybody_is_there(self) -> None:
        assert len(self.room) == len(self.model)
        assert list(self.room) == [request for request, _ in self.model]
        for lane in (16, 64):
            assert self.room.rows[lane] == sum(left for r, left in self.model if r.lane == lane)
        for request, left in self.model:
            assert self.room.left(request) == left
        for by_deadline in (False, True):
            order = self.in_order((16, 64), by_deadline)
            if order:
                assert self.room.first(by_deadline=by_deadline) is order[0][0]


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
