"""The order of the queue, against a plain list that is sorted every time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain, count
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from engine.scheduling.request_queue import DEFAULT_PRIORITY, Order, RequestQueue


@dataclass(frozen=True, eq=False)
class Request:
    """What the queue reads of a request, and a name."""

    name: str
    rows: int = 1
    deadline: float = 100.0
    priority: int = DEFAULT_PRIORITY
    bucket_length: int | None = None
    enqueued_at: float = 0.0

    def __repr__(self) -> str:
        return self.name


BATCH: Final = 4
"""Rows of one batch: requests of more are large."""


def queued(
    *requests: Request, bucket_lengths: tuple[int | None, ...] = (None,)
) -> RequestQueue[Request]:
    batch_rows = dict.fromkeys(bucket_lengths, BATCH)
    queue: RequestQueue[Request] = RequestQueue(bucket_lengths, batch_rows=batch_rows)
    for request in requests:
        queue.add(request)
    return queue


def taken(
    queue: RequestQueue[Request],
    rows: int,
    bucket_lengths: tuple[int | None, ...] = (None,),
    order: Order = Order.SMALL_FIRST,
) -> str:
    """The next rows as one line: `a[0:3] b[0:5]`."""
    slices = queue.take(bucket_lengths, rows, order)
    return " ".join(f"{p.request}[{p.start}:{p.start + p.count}]" for p in slices)


@pytest.mark.parametrize(
    ("requests", "order", "expected"),
    [
        pytest.param(
            [Request("a"), Request("b"), Request("c")],
            Order.SMALL_FIRST,
            "a[0:1] b[0:1] c[0:1]",
            id="equal-deadlines-keep-the-order-of-arrival",
        ),
        pytest.param(
            [Request("a", deadline=9), Request("b", deadline=7), Request("c", deadline=8)],
            Order.SMALL_FIRST,
            "b[0:1] c[0:1] a[0:1]",
            id="the-earliest-deadline-is-first",
        ),
        pytest.param(
            [Request("a", deadline=1), Request("b", deadline=9, priority=1)],
            Order.SMALL_FIRST,
            "b[0:1] a[0:1]",
            id="priority-comes-before-deadline",
        ),
        pytest.param(
            [Request("a", deadline=1), Request("b", deadline=9, priority=1)],
            Order.DEADLINE,
            "a[0:1] b[0:1]",
            id="by-deadline-priorities-are-ignored",
        ),
        pytest.param(
            [Request("a", priority=9), Request("b", priority=1), Request("c", priority=5)],
            Order.SMALL_FIRST,
            "b[0:1] c[0:1] a[0:1]",
            id="in-whatever-order-priorities-arrive",
        ),
        pytest.param(
            [Request("a", 5), Request("b", 9), Request("c", 4, 101), Request("d", 6, 99)],
            Order.SMALL_FIRST,
            "c[0:4] d[0:6] a[0:5] b[0:9]",
            id="small-before-large-and-by-deadline-where-the-number-of-batches-is-alike",
        ),
        pytest.param(
            [Request("a", 5), Request("b", 9), Request("c", 4, 101), Request("d", 6, 99)],
            Order.PRIORITY,
            "d[0:6] a[0:5] b[0:9] c[0:4]",
            id="by-deadline-sizes-are-ignored",
        ),
        pytest.param(
            [Request("a", 5, 1, priority=9), Request("b", 9, 2), Request("c", 4, 3)],
            Order.PRIORITY,
            "b[0:9] c[0:4] a[0:5]",
            id="and-priorities-not",
        ),
        pytest.param(
            [Request("a", 1, 1, priority=9), Request("b", 9, 2), Request("c", 4, 3)],
            Order.SMALL_FIRST,
            "c[0:4] b[0:9] a[0:1]",
            id="a-large-request-comes-before-a-small-one-of-a-lower-priority",
        ),
    ],
)
def test_the_order_in_which_rows_are_taken(
    requests: list[Request], order: Order, expected: str
) -> None:
    assert taken(queued(*requests), 99, order=order) == expected


def test_a_request_is_split_at_any_row_and_its_rest_stays_in_front() -> None:
    queue = queued(Request("a", 5), Request("b", 5))
    assert taken(queue, 3) == "a[0:3]"
    assert taken(queue, 4) == "a[3:5] b[0:2]"
    queue.add(Request("c", 1))
    assert taken(queue, 9, order=Order.PRIORITY) == "b[2:5] c[0:1]"
    assert (len(queue), queue.rows) == (0, {None: 0})


def test_an_earlier_deadline_precedes_even_a_request_that_was_split() -> None:
    queue = queued(Request("a", 5, deadline=9))
    assert taken(queue, 2) == "a[0:2]"
    queue.add(Request("b", 1, deadline=5))
    assert taken(queue, 9) == "b[0:1] a[2:5]"


def test_several_lengths_are_taken_together_by_deadline_and_others_stay() -> None:
    queue = queued(
        Request("a", deadline=3, bucket_length=16),
        Request("b", deadline=1, bucket_length=64),
        Request("c", deadline=2, bucket_length=32),
        bucket_lengths=(16, 32, 64),
    )
    assert [str(s.request) for s in queue.peek((16, 64), 9)] == ["b", "a"]
    assert taken(queue, 9, (16, 64)) == "b[0:1] a[0:1]"
    assert queue.rows == {16: 0, 32: 1, 64: 0}


def test_only_rows_of_its_own_priority_or_a_higher_one_are_ahead() -> None:
    queue = queued(Request("a", 3, deadline=1))
    assert queue.rows_ahead(Request("urgent", priority=1)) == {None: 0}
    assert queue.rows_ahead(Request("same")) == {None: 3}
    assert queue.rows_ahead(Request("patient", deadline=0, priority=9)) == {None: 3}


def test_requests_behind_are_of_its_priority_and_in_order() -> None:
    first, *others = (
        Request("a", deadline=1),
        Request("b", deadline=9, bucket_length=64),
        Request("c", deadline=8),
        Request("d", deadline=8, priority=9),
    )
    queue = queued(first, *others, bucket_lengths=(None, 64))
    assert [str(r) for r in queue.requests_behind(Request("x", deadline=5))] == ["c", "b"]
    assert [str(r) for r in queue.requests_behind(Request("x", deadline=8))] == ["b"]


@pytest.mark.parametrize(
    ("batches", "expected"),
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
    batches: list[tuple[int, float]], expected: bool
) -> None:
    queue = queued(Request("a", 2, deadline=1), Request("b", 3, deadline=2))
    later = ((9, 50.0 + number) for number in count())
    assert queue.meets_deadlines((None,), chain(batches, later), Order.SMALL_FIRST) == expected


def key_of(request: Request, order: Order) -> tuple[int, int, float]:
    """What an order sorts by."""
    size = ((request.rows - 1) // BATCH).bit_length()
    return {
        Order.SMALL_FIRST: (request.priority, size, request.deadline),
        Order.PRIORITY: (request.priority, 0, request.deadline),
        Order.DEADLINE: (0, 0, request.deadline),
    }[order]


class AnyOrder(RuleBasedStateMachine):
    """Any operations in any order. An entry of the model is (request, queued rows)."""

    requests = Bundle("requests")
    bucket_lengths = st.sampled_from([(16,), (64,), (16, 64)])
    orders = st.sampled_from(Order)

    def __init__(self) -> None:
        super().__init__()
        self.queue: RequestQueue[Request] = queued(bucket_lengths=(16, 64))
        self.model: list[tuple[Request, int]] = []  # in the order of arrival
        self.number = 0

    def made(self, rows: int, deadline: int, priority: int, bucket_length: int) -> Request:
        self.number += 1
        return Request(f"r{self.number}", rows, float(deadline), priority, bucket_length)

    def in_order(self, bucket_lengths: tuple[int, ...], order: Order) -> list[tuple[Request, int]]:
        # sorting keeps the order of arrival among equals
        return sorted(
            ((r, left) for r, left in self.model if r.bucket_length in bucket_lengths),
            key=lambda one: key_of(one[0], order),
        )

    @rule(
        target=requests,
        rows=st.integers(1, 20),
        deadline=st.integers(0, 6),
        priority=st.sampled_from([1, 5, 9]),
        bucket_length=st.sampled_from([16, 64]),
    )
    def add(self, rows: int, deadline: int, priority: int, bucket_length: int) -> Request:
        request = self.made(rows, deadline, priority, bucket_length)
        before = self.in_order((16, 64), Order.PRIORITY)
        ahead = Counter({16: 0, 64: 0})
        for other, left in before:
            if (other.priority, other.deadline) <= (priority, request.deadline):
                ahead[other.bucket_length or 0] += left
        behind = [
            other
            for other, _ in before
            if other.priority == priority and other.deadline > request.deadline
        ]
        assert self.queue.rows_ahead(request) == ahead
        assert list(self.queue.requests_behind(request)) == behind
        self.queue.add(request)
        self.model.append((request, rows))
        return request

    @rule(request=requests)
    def discard(self, request: Request) -> None:
        self.queue.discard(request)
        self.model = [(r, left) for r, left in self.model if r is not request]

    @rule(request=consumes(requests))
    def discard_for_good(self, request: Request) -> None:
        self.discard(request)

    @rule(bucket_lengths=bucket_lengths, rows=st.integers(1, 30), order=orders)
    def take(self, bucket_lengths: tuple[int, ...], rows: int, order: Order) -> None:
        expected, room_left = [], rows
        for request, left in self.in_order(bucket_lengths, order):
            count = min(left, room_left)
            if count:
                expected.append((request, request.rows - left, count))
                room_left -= count
        peeked = self.queue.peek(bucket_lengths, rows, order)
        slices = self.queue.take(bucket_lengths, rows, order)
        assert [(p.request, p.start, p.count) for p in slices] == expected
        assert peeked == list(slices)
        gone = {request: count for request, _, count in expected}
        self.model = [(r, left - gone.get(r, 0)) for r, left in self.model if left > gone.get(r, 0)]

    @rule(
        bucket_lengths=bucket_lengths,
        rows=st.integers(1, 9),
        step=st.integers(1, 8),
        order=orders,
    )
    def ask_whether_deadlines_are_met(
        self, bucket_lengths: tuple[int, ...], rows: int, step: int, order: Order
    ) -> None:
        deadlines = [r.deadline for r, left in self.in_order(bucket_lengths, order)
                     for _ in range(left)]  # fmt: skip
        ends = [step / 4 * (1 + place // rows) for place in range(len(deadlines))]
        expected = all(d >= end for d, end in zip(deadlines, ends, strict=True))
        batches = ((rows, step / 4 * number) for number in count(1))
        assert self.queue.meets_deadlines(bucket_lengths, batches, order) == expected

    @invariant()
    def every_request_is_there(self) -> None:
        assert len(self.queue) == len(self.model)
        assert list(self.queue) == [request for request, _ in self.model]
        for bucket_length in (16, 64):
            assert self.queue.rows[bucket_length] == sum(
                left for r, left in self.model if r.bucket_length == bucket_length
            )
        for request, left in self.model:
            assert self.queue.rows_left(request) == left
        for order in Order:
            ordered = self.in_order((16, 64), order)
            if ordered:
                assert self.queue.first(order) is ordered[0][0]

    @invariant()
    def large_requests_are_known(self) -> None:
        ordered = self.in_order((16, 64), Order.SMALL_FIRST)
        large = [request for request, _ in ordered if request.rows > BATCH]
        assert list(self.queue.large_in_order()) == large
        assert self.queue.large == len(large)
        if large:
            assert self.queue.first_large_deadline() == min(r.deadline for r in large)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
