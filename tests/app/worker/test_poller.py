"""Under overload: what comes first, in which order the rest, and when each of it had happened."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.worker.loop import EVENTS_PER_TICK, TICK_S, Loop
from app.worker.poller import OVERDUE_S
from app.worker.transport import EVENTS, asks_to_read
from engine.testing import FakeClock
from tests.app.worker.conftest import Pair


class Clients:
    """Connections to a loop; each notes when it is handled, and for what moment."""

    def __init__(self, loop: Loop, clock: FakeClock, stack: ExitStack) -> None:
        self.loop, self.clock, self._stack = loop, clock, stack
        self.handled: list[tuple[int, float]] = []
        self.took_s = 0.0
        self.pairs: list[Pair] = []

    def connect(self, count: int) -> None:
        for _ in range(count):
            number, pair = len(self.pairs), socket.socketpair()
            self.pairs.append(pair)
            for sock in pair:
                self._stack.callback(sock.close)
            self.loop.watch(pair[0].fileno(), EVENTS, lambda _events, n=number: self._note(n))
        self.loop.run_once(0)  # each is writable
        while len(self.handled) < len(self.pairs):
            self.loop.run_once(0)
        self.handled.clear()

    def _note(self, number: int) -> None:
        self.handled.append((number, self.loop.happened_at))
        self.clock.advance(self.took_s)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.pairs[number][1].send(b"x")


@pytest.fixture
def clients() -> Iterator[Clients]:
    clock = FakeClock()
    loop = Loop(clock)
    with ExitStack() as stack:
        yield Clients(loop, clock, stack)
    loop.close()


MANY = 3 * EVENTS_PER_TICK


def test_what_waits_for_its_turn_is_known_to_have_come_when_it_came(clients: Clients) -> None:
    clients.connect(MANY)
    began = clients.clock()
    clients.send(*range(MANY))
    for _ in range(3):
        clients.loop.run_once(0)
        clients.clock.advance(1.0)
    assert clients.handled == [(number, began) for number in range(MANY)]


def test_clients_are_handled_in_the_order_in_which_they_came(clients: Clients) -> None:
    clients.connect(MANY + 1)
    clients.send(*range(MANY))
    clients.loop.run_once(0)
    clients.send(MANY, 0)
    while clients.loop._poller._waiting:
        clients.loop.run_once(0)
    numbers = [number for number, _ in clients.handled]
    assert numbers[:MANY] == [*range(MANY)]
    assert set(numbers[MANY:]) == {0, MANY}


def test_where_requests_wait_too_long_the_newest_get_half_of_the_turns(clients: Clients) -> None:
    clients.connect(MANY)
    clients.send(*range(MANY))
    clients.loop.overdue()
    clients.loop.run_once(0)
    half = EVENTS_PER_TICK // 2
    newest = [MANY - 1 - number for number in range(half)]
    assert [number for number, _ in clients.handled] == [*newest, *range(half)]
    clients.handled.clear()
    clients.clock.advance(OVERDUE_S)
    clients.loop.run_once(0)
    order = [number for number, _ in clients.handled]
    assert order == [*range(half, half + EVENTS_PER_TICK)]


def test_listeners_and_wakeups_come_first_in_every_tick(clients: Clients) -> None:
    clients.connect(MANY)
    woken: list[int] = []
    event = os.eventfd(0, os.EFD_NONBLOCK)

    def wake(_events: int) -> None:
        os.eventfd_read(event)
        woken.append(len(clients.handled))

    clients.loop.watch(event, select.EPOLLIN, wake)
    clients.send(*range(MANY))
    for _ in range(3):
        os.eventfd_write(event, 1)
        clients.loop.run_once(0)
    assert woken == [0, EVENTS_PER_TICK, 2 * EVENTS_PER_TICK]
    clients.loop.forget(event)
    os.close(event)


def test_a_tick_ends_when_its_time_is_over_and_loses_nothing(clients: Clients) -> None:
    clients.connect(EVENTS_PER_TICK)
    clients.took_s = 0.6 * TICK_S
    clients.send(*range(EVENTS_PER_TICK))
    clients.loop.run_once(0)
    assert [number for number, _ in clients.handled] == [0, 1]
    for _ in range(EVENTS_PER_TICK):
        clients.loop.run_once(0)
    assert [number for number, _ in clients.handled] == [*range(EVENTS_PER_TICK)]


def test_events_of_a_closed_file_are_not_those_of_the_next_with_its_number(
    clients: Clients,
) -> None:
    clients.connect(MANY)
    clients.send(*range(MANY))
    clients.loop.run_once(0)  # the last ones wait
    fd = clients.pairs[-1][0].fileno()
    clients.loop.forget(fd)
    called: list[int] = []
    clients.loop.watch(fd, select.EPOLLET, called.append)
    while clients.loop._poller._waiting:
        clients.loop.run_once(0)
    assert called == []
    assert len(clients.handled) == MANY - 1


@pytest.mark.parametrize(
    ("sent", "first"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", True),
        (b"POST /v2", False),
        (b"GE", False),
        (b"", False),
    ],
)
def test_a_probe_is_told_from_the_requests_that_wait_by_its_method(
    pair: Pair, sent: bytes, first: bool
) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    if sent:
        theirs.send(sent)
    assert asks_to_read(ours) is first
    if sent:
        assert ours.recv(100) == sent
    theirs.close()
    assert not asks_to_read(ours)
