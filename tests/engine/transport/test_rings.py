"""The protocol of the rings, over random interleavings of both sides, crashes included."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.transport.protocol.memory import SharedMemory
from engine.transport.protocol.rings import (
    OUTCOME,
    REQUEST,
    BrokenRing,
    RingMemory,
    RingReader,
    RingWriter,
)

SIZE = 8


def new_ring() -> tuple[RingWriter, RingReader]:
    """Both ends of a ring."""
    records = np.zeros(SIZE, OUTCOME)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    return RingWriter(records, event), RingReader(records, os.dup(event))


@pytest.fixture
def ring() -> Iterator[tuple[RingWriter, RingReader]]:
    writer, reader = new_ring()
    yield writer, reader
    writer.close()
    reader.close()


def outcome(writer: RingWriter, request: int) -> tuple[float, ...]:
    return (writer.next_number, request, 0.5, 3, 4)


Ring = tuple[RingWriter, RingReader]


def test_what_is_put_is_not_there_before_it_is_published(ring: Ring) -> None:
    writer, reader = ring
    writer.put(outcome(writer, 77))
    assert reader.take() == ()
    writer.publish()
    assert reader.take() == [(0, 77, 0.5, 3, 4)]
    assert reader.take() == ()
    writer.publish()
    assert reader.take() == (), "nothing new wakes nobody"


def test_records_go_round(ring: Ring) -> None:
    writer, reader = ring
    got = []
    for burst in (5, 8, 3, 8, 1):
        for _ in range(burst):
            writer.put(outcome(writer, writer.next_number))
        writer.publish()
        got += [record[1] for record in reader.take()]
    assert got == list(range(25))


@pytest.mark.parametrize("number", [0, 2, 9], ids=["again", "skipped", "of the next round"])
def test_a_record_with_another_number_breaks_the_ring(ring: Ring, number: int) -> None:
    writer, reader = ring
    writer.put(outcome(writer, 1))
    writer.publish()
    reader.take()
    writer.put((number, 1, 0.0, 0, 0))
    writer.publish()
    with pytest.raises(BrokenRing, match=f"record {number} came where 1 was expected"):
        reader.take()


def test_more_records_than_the_ring_has_break_it(ring: Ring) -> None:
    writer, reader = ring
    for _ in range(SIZE + 1):
        writer.put(outcome(writer, 1))
    writer.publish()
    with pytest.raises(BrokenRing, match="9 records were published in a ring of 8"):
        reader.take()


def test_both_processes_find_the_rings_at_the_same_place() -> None:
    memory = SharedMemory.create("test", RingMemory.size(16, 12))
    mine = RingMemory.of(memory, 16, 12)
    theirs = RingMemory.of(SharedMemory(os.dup(memory.fd)), 16, 12)
    mine.requests[15]["deadline"] = 7.5
    mine.outcomes[0]["request"] = 9
    assert theirs.requests[15]["deadline"] == 7.5
    assert theirs.outcomes[0]["request"] == 9
    assert mine.requests.dtype is REQUEST
    with pytest.raises(ValueError, match="do not fit 17 records"):
        RingMemory.of(memory, 17, 12)
    memory.close_fd()


class BothSides(RuleBasedStateMachine):
    """An HTTP process and the engine, joined by two rings, each step of either in any order.

    The model: requests are open from `put` to the taking of their outcome; the HTTP process never
    has more open than a ring has records. Whatever the order, every request that was published is
    answered exactly once, and none that was not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connect()

    def connect(self) -> None:
        """A new process in place of one that has crashed has new rings."""
        self.requests, self.taken_from = new_ring()
        self.answers, self.answered_from = new_ring()
        self.put: list[int] = []
        self.published: list[int] = []
        self.in_engine: deque[int] = deque()
        self.answered: list[int] = []
        self.seen: list[int] = []
        self.open: set[int] = set()

    @precondition(lambda self: len(self.open) < SIZE)
    @rule()
    def submit(self) -> None:
        number = self.requests.next_number
        self.requests.put((number, number, 0.0, 0, 0))
        self.put.append(number)
        self.open.add(number)

    @rule()
    def publish(self) -> None:
        self.requests.publish()
        self.published = list(self.put)

    @rule()
    def engine_takes(self) -> None:
        self.in_engine += [record[0] for record in self.taken_from.take()]

    @precondition(lambda self: self.in_engine)
    @rule(place=st.integers(0, SIZE), publish=st.booleans())
    def engine_answers(self, place: int, publish: bool) -> None:
        number = self.in_engine[place % len(self.in_engine)]
        self.in_engine.remove(number)
        self.answers.put((self.answers.next_number, number, 0.0, 0, 0))
        self.answered.append(number)
        if publish:
            self.answers.publish()

    @rule()
    def engine_publishes(self) -> None:
        self.answers.publish()

    @rule()
    def client_takes(self) -> None:
        for record in self.answered_from.take():
            self.open.remove(record[1])
            self.seen.append(record[1])

    @rule()
    def client_crashes(self) -> None:
        self.teardown()
        self.connect()

    @rule()
    def everything_settles(self) -> None:
        self.publish()
        self.engine_takes()
        while self.in_engine:
            self.engine_answers(0, publish=True)
        self.engine_publishes()
        self.client_takes()
        assert not self.open
        assert sorted(self.seen) == self.put

    @invariant()
    def nothing_is_invented_lost_or_doubled(self) -> None:
        assert len(set(self.seen)) == len(self.seen)
        assert set(self.seen) <= set(self.answered) <= set(self.published)
        assert self.seen == self.answered[: len(self.seen)], "outcomes keep their order"

    def teardown(self) -> None:
        for end in (self.requests, self.taken_from, self.answers, self.answered_from):
            end.close()


test_every_interleaving_of_both_sides = BothSides.TestCase
