"""The loop: calls of other threads, alarms that move, sockets that close meanwhile."""

from __future__ import annotations

import math
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.worker.limits.budget import ByteBudget
from app.worker.loop import Loop
from app.worker.protocol.write_buffer import HIGH_WATER, WriteBuffer
from engine.testing import FakeClock
from tests.app.conftest import PATIENCE_S
from tests.app.worker.conftest import Pair


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def loop(clock: FakeClock) -> Iterator[Loop]:
    loop = Loop(clock)
    yield loop
    loop.close()


class Sleeper:
    def __init__(self) -> None:
        self.wakes_at = self.scheduled_at = math.inf
        self.rung = 0

    def on_alarm(self) -> None:
        self.rung += 1


def test_however_many_calls_wait_the_loop_is_woken_once(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    write = os.eventfd_write
    monkeypatch.setattr(os, "eventfd_write", lambda fd, n: (writes.append(n), write(fd, n)))
    called: list[int] = []

    def call() -> None:
        for number in range(3):
            loop.call_soon([lambda number=number: called.append(number)] * 2)

    for _ in range(2):
        other = threading.Thread(target=call)
        other.start()
        other.join()
        loop.run_once(PATIENCE_S)
        loop.run_once(0)
    assert called == [0, 0, 1, 1, 2, 2] * 2
    assert writes == [1, 1]


def test_the_loops_own_thread_does_not_wake_itself(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "eventfd_write", lambda *_: pytest.fail("woken"))
    loop.run_once(0)
    called: list[int] = []
    loop.call_soon([lambda: called.append(1)])
    loop.run_once(PATIENCE_S)
    assert called == [1]


def test_a_call_from_an_event_is_made_in_the_same_tick(
    loop: Loop,
) -> None:
    called: list[str] = []
    other = os.eventfd(1, os.EFD_NONBLOCK)

    def happened(_events: int) -> None:
        os.eventfd_read(other)
        loop.call_soon([lambda: called.append("call")])

    loop.watch(other, select.EPOLLIN, happened)
    loop.run_once(PATIENCE_S)
    assert called == ["call"]
    os.close(other)


def test_a_call_from_a_call_is_made_in_the_next_tick(loop: Loop) -> None:
    called: list[str] = []
    loop.call_soon([lambda: loop.call_soon([lambda: called.append("second")])])
    loop.run_once(PATIENCE_S)
    assert called == []
    loop.run_once(PATIENCE_S)
    assert called == ["second"]


def test_a_call_after_the_end_is_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop()
    loop.close()
    monkeypatch.setattr(os, "eventfd_write", lambda *_: pytest.fail("written"))
    loop.call_soon([lambda: pytest.fail("called")])


def test_another_thread_ends_the_wait(loop: Loop) -> None:
    called = threading.Event()
    threading.Thread(target=loop.call_soon, args=([called.set],)).start()
    loop.run_once(PATIENCE_S)
    assert called.is_set()


@pytest.mark.parametrize(
    ("moments", "rings_at"),
    [
        pytest.param([5], 5, id="as set"),
        pytest.param([5, 9], 9, id="later"),
        pytest.param([9, 5], 5, id="earlier"),
        pytest.param([9, 5, 20], 20, id="earlier, then later than both"),
        pytest.param([5, math.inf], None, id="never after all"),
    ],
)
def test_an_alarm_rings_once_at_the_moment_it_was_moved_to(
    loop: Loop, clock: FakeClock, moments: list[float], rings_at: float | None
) -> None:
    sleeper, started = Sleeper(), clock.now
    for moment in moments:
        loop.alarm(sleeper, started + moment)
    rung = []
    for second in range(30):
        clock.now = started + second
        loop.run_once(0)
        rung.append(sleeper.rung)
    assert rung == [int(rings_at is not None and second >= rings_at) for second in range(30)]


def test_a_socket_that_is_forgotten_meanwhile_is_not_called(loop: Loop) -> None:
    first, second = os.eventfd(1), os.eventfd(1)
    called: list[int] = []

    def hear(number: int, other: int) -> None:
        called.append(number)
        loop.forget(other)

    loop.watch(first, select.EPOLLIN, lambda _events: hear(first, second))
    loop.watch(second, select.EPOLLIN, lambda _events: hear(second, first))
    loop.run_once(PATIENCE_S)
    assert len(called) == 1
    os.close(first)
    os.close(second)


def test_the_events_of_one_poll_are_one_tick(loop: Loop) -> None:
    ticks: list[str] = []

    @contextmanager
    def tick() -> Iterator[None]:
        ticks.append("begin")
        yield
        ticks.append("out")

    loop.tick = tick
    loop.run_once(0)
    assert ticks == []
    others = [os.eventfd(1), os.eventfd(1)]

    def happened(other: int) -> None:
        ticks.append("in")
        loop.forget(other)

    for other in others:
        loop.watch(other, select.EPOLLIN, lambda _events, other=other: happened(other))
    loop.run_once(PATIENCE_S)
    assert ticks == ["begin", "in", "in", "out"]
    for other in others:
        os.close(other)


# --- bytes on their way ---------------------------------------------------------------------------


def test_what_the_socket_does_not_take_stays_and_arrives_in_order(pair: Pair) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    budget = ByteBudget()
    write_buffer = WriteBuffer(ours, budget)
    sent = os.urandom(3_000_000)
    write_buffer.sendall(sent[:10])
    write_buffer.send(sent[10:])
    assert write_buffer.full
    first = write_buffer.flush()
    assert first is not None
    assert 0 < first < len(sent)
    assert write_buffer.flush() == 0  # the peer has not read
    assert budget.held == len(sent) - first
    assert not write_buffer.empty
    received = b""
    while len(received) < len(sent):
        received += theirs.recv(1 << 20)
        write_buffer.flush()
    assert received == sent
    assert budget.held == 0
    assert write_buffer.empty
    assert not write_buffer.full


def test_what_a_client_that_is_gone_was_to_get_is_dropped(pair: Pair) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    budget = ByteBudget()
    write_buffer = WriteBuffer(ours, budget)
    write_buffer.sendall(bytes(3_000_000))
    write_buffer.flush()
    assert budget.held
    theirs.close()
    assert write_buffer.flush() is None
    assert write_buffer.empty
    assert budget.held == 0


def test_a_write_buffer_is_full_beyond_its_mark_only(pair: Pair) -> None:
    write_buffer = WriteBuffer(pair[0], ByteBudget())
    write_buffer.sendall(b"x" * HIGH_WATER)
    assert not write_buffer.full
    write_buffer.sendall(b"x")
    assert write_buffer.full
    write_buffer.drop()
    assert write_buffer.empty
    assert not write_buffer.full


# --- threads --------------------------------------------------------------------------------------
