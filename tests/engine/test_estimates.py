"""What is learned from what is seen: delays, and whether clients come back."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from heapq import heappop, heappush

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.estimates import DEVIATIONS, Expectation, Returns

# --- a mean and its deviation --------------------------------------------------------------------


def test_of_nothing_nothing_is_expected() -> None:
    assert Expectation().upper(7.0) == 7.0
    assert Expectation().upper(math.inf) == math.inf


@pytest.mark.parametrize(
    ("samples", "mean", "deviation"),
    [
        pytest.param([4.0], 4.0, 2.0, id="the-first-is-the-mean"),
        pytest.param([-4.0], -4.0, 2.0, id="a-deviation-is-never-negative"),
        pytest.param([4.0, 4.0], 4.0, 1.5, id="the-same-again"),
        pytest.param([4.0, 12.0], 5.0, 3.5, id="an-eighth-in-the-mean-a-fourth-in-the-deviation"),
        pytest.param([4.0] * 200, 4.0, 0.0, id="what-never-varies"),
        pytest.param([90.0] + [4.0] * 200, 4.0, 0.0, id="old-samples-fade"),
    ],
)
def test_samples_make_a_mean_and_a_deviation(
    samples: list[float], mean: float, deviation: float
) -> None:
    expected = Expectation()
    for sample in samples:
        expected.add(sample)
    assert expected.mean == pytest.approx(mean)
    assert expected.deviation == pytest.approx(deviation, abs=1e-6)
    assert expected.upper(0.0) == expected.mean + DEVIATIONS * expected.deviation


def test_hardly_a_sample_exceeds_what_is_expected_at_most() -> None:
    rng, expected, above = random.Random(1), Expectation(), 0
    for _ in range(4000):
        sample = rng.gauss(10.0, 1.0)
        above += sample > expected.upper(math.inf)
        expected.add(sample)
    assert 0 < above / 4000 < 0.1


# --- do clients come back? -----------------------------------------------------------------------

LIMIT_S = 4.0


@pytest.fixture
def returns() -> Returns:
    return Returns(LIMIT_S)


def closed_loop(
    returns: Returns,
    *,
    clients: int,
    at_once: int,
    batches: int,
    delay_s: float = 0.1,
    jitter: float = 0.5,
    start_s: float = 0.0,
    seed: int = 0,
) -> float:
    """Every client sends a turnaround after its answer; batches of `at_once` end every second,
    or at its last moment. Returns when it ended.
    """
    rng = random.Random(seed)
    arriving = [start_s + i * 1e-3 for i in range(clients)]
    waiting = 0
    now = start_s
    for _ in range(batches):
        now += 1.0
        while arriving and arriving[0] <= now:
            returns.arrived(1, heappop(arriving))
            waiting += 1
        answered = min(at_once, waiting)
        waiting -= answered
        if answered:
            returns.answered(answered, now)
        for _ in range(answered):
            heappush(arriving, now + delay_s * (1 + jitter * rng.uniform(-1, 1)))
    return now


def poisson(returns: Returns, *, per_batch: float, batches: int, seed: int) -> Iterator[bool]:
    """Independent arrivals, all of which are answered by the batch that begins after them and
    takes a second. Says after every batch whether that is taken for a closed loop.
    """
    rng = random.Random(seed)
    at = rng.expovariate(per_batch)
    gathered = 0
    for end in range(1, batches + 1):
        running, gathered = gathered, 0
        while at <= end:
            returns.arrived(1, at)
            gathered += 1
            at += rng.expovariate(per_batch)
        if running:
            returns.answered(running, end)
        yield returns.closed


def test_nothing_is_taken_for_a_closed_loop_at_first(returns: Returns) -> None:
    assert not returns.closed
    assert returns.delay_s == math.inf
    assert returns.missing(0.0) == (0, 0.0)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("clients", "at_once"),
    [
        pytest.param(1, 1, id="one-client"),
        pytest.param(32, 32, id="all-in-one-batch"),
        pytest.param(32, 16, id="half-wait-while-half-run"),
        pytest.param(64, 8, id="eight-batches-take-turns"),
    ],
)
def test_clients_who_come_back_are_recognised(
    returns: Returns, clients: int, at_once: int, jitter: float
) -> None:
    ended = closed_loop(
        returns, clients=clients, at_once=at_once, batches=2000 // at_once, jitter=jitter
    )
    assert returns.closed
    assert 0.1 * (1 - jitter) <= returns.delay_s < 0.1 * (1 + jitter) * 2
    missing, back_at = returns.missing(ended)
    assert missing == at_once, "the last batch was answered this moment"
    assert back_at == ended + returns.delay_s


def test_with_several_batches_on_their_way_they_are_recognised_too() -> None:
    """Two groups of clients, each answered before the other has all come back."""
    returns, now = Returns(LIMIT_S), 0.0
    for _ in range(400):
        returns.answered(4, now)
        returns.answered(4, now + 0.1)
        for client in range(8):
            returns.arrived(1, now + 0.2 + client / 100)
        now += 1.0
    assert returns.closed
    assert 0.17 < returns.delay_s < 0.4


def test_clients_who_are_always_on_their_way_are_not_worth_waiting_for(returns: Returns) -> None:
    # back after two and a half batches, so three groups are missing at any time
    closed_loop(returns, clients=64, at_once=16, batches=200, delay_s=2.5, jitter=0.1)
    assert not returns.closed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_batch", [1, 2, 4, 8, 16, 32, 64])
def test_independent_arrivals_are_not_taken_for_clients(per_batch: int, seed: int) -> None:
    returns = Returns(LIMIT_S)
    said = list(poisson(returns, per_batch=per_batch, batches=12_000 // per_batch, seed=seed))
    assert not any(said)


def test_a_closed_loop_is_left_when_others_come(returns: Returns) -> None:
    ended = closed_loop(returns, clients=8, at_once=8, batches=400)
    assert returns.closed
    for _ in range(10):  # nobody of these was ever answered
        ended += LIMIT_S + 1
        returns.arrived(1, ended)
    assert not returns.closed


def test_open_traffic_after_a_closed_loop_is_seen_as_that() -> None:
    returns = Returns(LIMIT_S)
    closed_loop(returns, clients=8, at_once=8, batches=400, start_s=-400.0)
    assert returns.closed
    assert not list(poisson(returns, per_batch=8, batches=200, seed=3))[-1]


# --- who is missing ------------------------------------------------------------------------------


def test_who_was_answered_is_missing_until_as_many_have_come(returns: Returns) -> None:
    returns.answered(3, 10.0)
    assert returns.missing(10.0)[0] == 3
    returns.arrived(2, 10.5)
    assert returns.missing(10.5)[0] == 1
    returns.arrived(1, 11.0)
    assert returns.missing(11.0) == (0, 11.0)
    # the first sample deviates by half of itself; and a tenth more
    assert returns.delay_s == pytest.approx(1.1 * 2.0)


def test_batches_that_were_answered_one_after_the_other_add_up(returns: Returns) -> None:
    returns.answered(3, 10.0)
    returns.answered(2, 11.0)
    assert returns.missing(11.0)[0] == 5
    returns.arrived(4, 11.5)
    assert returns.missing(11.5)[0] == 1


def test_who_comes_beyond_those_who_are_missing_owes_nothing(returns: Returns) -> None:
    returns.answered(1, 10.0)
    returns.arrived(5, 10.1)
    returns.answered(2, 11.0)
    assert returns.missing(11.0)[0] == 2


def test_clients_who_left_are_waited_for_no_longer_than_the_limit(returns: Returns) -> None:
    returns.answered(8, 10.0)
    assert returns.missing(10.0 + LIMIT_S)[0] == 8
    assert returns.missing(10.1 + LIMIT_S) == (0, 10.1 + LIMIT_S)
    assert returns.delay_s > LIMIT_S, "and it counts as that"


def test_who_left_is_forgotten_when_enough_others_have_been_answered() -> None:
    returns = Returns(1e9)
    returns.answered(8, 0.0)
    for batch in range(1, Returns.PATIENCE + 1):
        returns.answered(1, float(batch))
    assert returns.missing(10.0)[0] == Returns.PATIENCE


def test_clients_who_left_do_not_hide_those_who_are_still_there() -> None:
    """Of 16 clients 8 leave; the rest goes on and is recognised, with 8 missing at most."""
    returns = Returns(LIMIT_S)
    ended = closed_loop(returns, clients=16, at_once=16, batches=200)
    ended = closed_loop(returns, clients=8, at_once=8, batches=400, start_s=ended + LIMIT_S + 1)
    assert returns.closed
    assert returns.missing(ended)[0] == 8
    assert returns.delay_s < 0.3


@given(
    events=st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.floats(0, 3)), max_size=60),
    limit_s=st.sampled_from([0.0, 0.5, 4.0]),
)
def test_never_are_fewer_than_none_missing(
    events: list[tuple[bool, int, float]], limit_s: float
) -> None:
    returns, now, answered = Returns(limit_s), 0.0, 0
    for answers, rows, passes in events:
        now += passes
        (returns.answered if answers else returns.arrived)(rows, now)
        answered += rows * answers
        missing, back_at = returns.missing(now)
        assert 0 <= missing <= answered
        assert missing or back_at == now
        assert returns.delay_s >= 0
