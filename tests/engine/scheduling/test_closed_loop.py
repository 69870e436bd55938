"""Closed loops: clients that send again are recognised, and independent arrivals are not."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from heapq import heappop, heappush

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.closed_loop import ClosedLoopDetector

LIMIT_S = 4.0


@pytest.fixture
def detector() -> ClosedLoopDetector:
    return ClosedLoopDetector(LIMIT_S)


def closed_loop(
    detector: ClosedLoopDetector,
    *,
    clients: int,
    at_once: int,
    batches: int,
    delay_s: float = 0.1,
    jitter: float = 0.5,
    start_s: float = 0.0,
    seed: int = 0,
) -> float:
    """Every client sends a turnaround after its answer; a batch of `at_once` rows ends every
    second. Returns when the last one ended.
    """
    rng = random.Random(seed)
    arriving = [start_s + i * 1e-3 for i in range(clients)]
    waiting = 0
    now = start_s
    for _ in range(batches):
        now += 1.0
        while arriving and arriving[0] <= now:
            detector.arrived((1,), heappop(arriving))
            waiting += 1
        answered = min(at_once, waiting)
        waiting -= answered
        if answered:
            detector.completed(answered, now)
        for _ in range(answered):
            heappush(arriving, now + delay_s * (1 + jitter * rng.uniform(-1, 1)))
    return now


def poisson(
    detector: ClosedLoopDetector, *, per_batch: float, batches: int, seed: int
) -> Iterator[bool]:
    """Independent arrivals, all of which are answered by the batch that begins after them and
    takes a second. Yields after every batch whether a closed loop is detected.
    """
    rng = random.Random(seed)
    at = rng.expovariate(per_batch)
    gathered = 0
    for end in range(1, batches + 1):
        running, gathered = gathered, 0
        while at <= end:
            detector.arrived((1,), at)
            gathered += 1
            at += rng.expovariate(per_batch)
        if running:
            detector.completed(running, end)
        yield detector.detected


def test_at_first_no_closed_loop_is_detected(detector: ClosedLoopDetector) -> None:
    assert not detector.detected
    assert detector.delay_s == math.inf
    assert detector.outstanding(0.0) == (0, 0.0)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("clients", "at_once"),
    [
        pytest.param(1, 1, id="one-client"),
        pytest.param(32, 32, id="all-in-one-batch"),
        pytest.param(32, 16, id="half-are-queued-while-half-run"),
        pytest.param(64, 8, id="eight-batches-in-rotation"),
    ],
)
def test_clients_that_send_again_are_detected(
    detector: ClosedLoopDetector, clients: int, at_once: int, jitter: float
) -> None:
    ended = closed_loop(
        detector, clients=clients, at_once=at_once, batches=2000 // at_once, jitter=jitter
    )
    assert detector.detected
    assert 0.1 * (1 - jitter) <= detector.delay_s < 0.1 * (1 + jitter) * 2
    outstanding, by = detector.outstanding(ended)
    assert outstanding == at_once, "the last batch was answered at this moment"
    assert by == ended + detector.delay_s


def test_with_several_batches_in_flight_they_are_detected_too() -> None:
    """Two groups of clients, each answered before all clients of the other have sent again."""
    detector, now = ClosedLoopDetector(LIMIT_S), 0.0
    for _ in range(400):
        detector.completed(4, now)
        detector.completed(4, now + 0.1)
        for client in range(8):
            detector.arrived((1,), now + 0.2 + client / 100)
        now += 1.0
    assert detector.detected
    assert 0.17 < detector.delay_s < 0.4


def test_clients_that_take_longer_than_the_device_are_no_closed_loop(
    detector: ClosedLoopDetector,
) -> None:
    # they send again after two and a half batches, so three groups are outstanding at any time
    closed_loop(detector, clients=64, at_once=16, batches=200, delay_s=2.5, jitter=0.1)
    assert not detector.detected


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_batch", [1, 2, 4, 8, 16, 32, 64])
def test_independent_arrivals_are_no_closed_loop(per_batch: int, seed: int) -> None:
    detector = ClosedLoopDetector(LIMIT_S)
    detected = list(poisson(detector, per_batch=per_batch, batches=12_000 // per_batch, seed=seed))
    assert not any(detected)


def test_a_closed_loop_ends_when_other_clients_arrive(detector: ClosedLoopDetector) -> None:
    ended = closed_loop(detector, clients=8, at_once=8, batches=400)
    assert detector.detected
    for _ in range(10):  # none of these was answered before
        ended += LIMIT_S + 1
        detector.arrived((1,), ended)
    assert not detector.detected


def test_independent_arrivals_after_a_closed_loop_are_none() -> None:
    detector = ClosedLoopDetector(LIMIT_S)
    closed_loop(detector, clients=8, at_once=8, batches=400, start_s=-400.0)
    assert detector.detected
    assert not list(poisson(detector, per_batch=8, batches=200, seed=3))[-1]


# --- outstanding rows ----------------------------------------------------------------------------


def test_answered_rows_are_outstanding_until_as_many_have_arrived(
    detector: ClosedLoopDetector,
) -> None:
    detector.completed(3, 10.0)
    assert detector.outstanding(10.0)[0] == 3
    detector.arrived((2,), 10.5)
    assert detector.outstanding(10.5)[0] == 1
    detector.arrived((1,), 11.0)
    assert detector.outstanding(11.0) == (0, 11.0)
    # the first sample deviates by half of itself; and 10 % more
    assert detector.delay_s == pytest.approx(1.1 * 2.0)


def test_batches_that_are_answered_one_after_the_other_add_up(detector: ClosedLoopDetector) -> None:
    detector.completed(3, 10.0)
    detector.completed(2, 11.0)
    assert detector.outstanding(11.0)[0] == 5
    detector.arrived((4,), 11.5)
    assert detector.outstanding(11.5)[0] == 1


def test_rows_beyond_the_outstanding_ones_do_not_count_for_later_batches(
    detector: ClosedLoopDetector,
) -> None:
    detector.completed(1, 10.0)
    detector.arrived((5,), 10.1)
    detector.completed(2, 11.0)
    assert detector.outstanding(11.0)[0] == 2


def test_rows_of_clients_that_left_are_outstanding_until_the_limit(
    detector: ClosedLoopDetector,
) -> None:
    detector.completed(8, 10.0)
    assert detector.outstanding(10.0 + LIMIT_S)[0] == 8
    assert detector.outstanding(10.1 + LIMIT_S) == (0, 10.1 + LIMIT_S)
    assert detector.delay_s > LIMIT_S, "and it counts as that"


def test_rows_are_outstanding_no_longer_when_enough_batches_were_answered() -> None:
    detector = ClosedLoopDetector(1e9)
    detector.completed(8, 0.0)
    for batch in range(1, ClosedLoopDetector.MAX_BATCHES + 1):
        detector.completed(1, float(batch))
    assert detector.outstanding(10.0)[0] == ClosedLoopDetector.MAX_BATCHES


def test_clients_that_left_do_not_hide_those_that_stay() -> None:
    """Of 16 clients 8 leave; the rest goes on and is detected, with 8 rows outstanding."""
    detector = ClosedLoopDetector(LIMIT_S)
    ended = closed_loop(detector, clients=16, at_once=16, batches=200)
    ended = closed_loop(detector, clients=8, at_once=8, batches=400, start_s=ended + LIMIT_S + 1)
    assert detector.detected
    assert detector.outstanding(ended)[0] == 8
    assert detector.delay_s < 0.3


@given(
    events=st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.floats(0, 3)), max_size=60),
    limit_s=st.sampled_from([0.0, 0.5, 4.0]),
)
def test_outstanding_rows_are_never_negative(
    events: list[tuple[bool, int, float]], limit_s: float
) -> None:
    detector, now, answered = ClosedLoopDetector(limit_s), 0.0, 0
    for answers, rows, passes in events:
        now += passes
        if answers:
            detector.completed(rows, now)
        else:
            detector.arrived((rows,), now)
        answered += rows * answers
        outstanding, by = detector.outstanding(now)
        assert 0 <= outstanding <= answered
        assert outstanding or by == now
        assert detector.delay_s >= 0
