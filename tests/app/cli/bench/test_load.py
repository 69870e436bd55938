"""Both loops, driven step by step with a fake clock and fake connections."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import pytest

from app.cli.bench import load
from app.cli.bench.plan import Arrivals, Plan
from app.cli.bench.report import BASE, Failure, Samples
from tests.app.cli.bench.made import REQUEST, plan_of


class FakeConnection:
    """A connection without a socket."""

    def __init__(self) -> None:
        self.busy = False
        self.intended = 0.0
        self.request = 0
        self.sent: list[bytes] = []
        self.aborted = False

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def abort(self) -> None:
        self.aborted = True


class Driven:
    """A load, and what its caller and its connections report to it."""

    def __init__(self, plan: Plan, warmup_s: float = 0.0) -> None:
        self.samples = Samples(warmup_s, warmup_s + plan.settings.duration_s)
        self.connecting = 0
        self.finished = 0
        self.load = load.of(plan, self.samples, self._connect, self._finish)
        self.load.start(0.0)
        self.load.poll(0.0)

    def _connect(self) -> None:
        self.connecting += 1

    def _finish(self) -> None:
        self.finished += 1

    def open(self, now: float) -> FakeConnection:
        """A connection that is being opened is open."""
        assert self.connecting > 0, "no connection was requested"
        self.connecting -= 1
        connection = FakeConnection()
        self.load.opened(connection, now)
        return connection

    def refuse(self, now: float, failure: Failure = Failure.REFUSED) -> None:
        """A connection that is being opened is refused."""
        assert self.connecting > 0, "no connection was requested"
        self.connecting -= 1
        self.load.open_failed(failure, now)

    def answer(
        self, connection: FakeConnection, now: float, status: int = 200, *, reusable: bool = True
    ) -> None:
        self.load.answered(connection, status, now, reusable=reusable)

    @property
    def outcomes(self) -> Counter[int]:
        return Counter(code % BASE for code in self.samples.codes)

    @property
    def latencies(self) -> list[float]:
        return [round(latency, 6) for latency in self.samples.latencies]


def open_loop(rate: float = 10, **settings: object) -> Driven:
    """Requests are intended at 0, 0.1, 0.2 and so on."""
    return Driven(plan_of(rate=rate, arrivals="constant", **settings))


# --- the closed loop ----------------------------------------------------------------------------


def test_every_client_has_one_request_in_flight() -> None:
    driven = Driven(plan_of(clients=3))
    assert driven.connecting == 3
    connections = [driven.open(0.1) for _ in range(3)]
    assert [connection.sent for connection in connections] == [[REQUEST]] * 3
    driven.answer(connections[1], 0.5)
    assert [len(connection.sent) for connection in connections] == [1, 2, 1]


def test_a_clients_next_request_is_intended_when_its_last_is_answered() -> None:
    driven = Driven(plan_of(clients=1))
    connection = driven.open(0.0)
    driven.answer(connection, 2.0)
    driven.answer(connection, 5.0)
    assert driven.latencies == [2.0, 3.0]


def test_a_closed_loop_ends_with_its_window_and_the_last_answer() -> None:
    driven = Driven(plan_of(clients=2, duration_s=1))
    first, second = driven.open(0), driven.open(0)
    driven.answer(first, 1.5)
    assert (len(first.sent), driven.finished) == (1, 0), "nothing more is sent"
    driven.answer(second, 1.7)
    assert driven.finished == 1
    assert driven.latencies == [1.5, 1.7], "what is answered after the end counts"


def test_a_client_with_a_lost_connection_pauses_and_connects_again() -> None:
    driven = Driven(plan_of(clients=1))
    driven.load.lost(driven.open(0.0), Failure.RESET, 1.0)
    driven.load.poll(1.0 + load.PAUSE_S / 2)
    assert driven.connecting == 0
    driven.load.poll(1.0 + load.PAUSE_S)
    assert driven.open(1.2).sent == [REQUEST]
    assert driven.outcomes == {Failure.RESET: 1}


def test_a_dead_server_is_tried_after_pauses_and_never_in_a_busy_loop() -> None:
    driven = Driven(plan_of(clients=2, duration_s=1))
    now = 0.0
    while not driven.finished:
        while driven.connecting:
            driven.refuse(now)
        now += load.SWEEP_S
        driven.load.poll(now)
        assert now < 3, "it ends"
    # each client fails at 0 and then every PAUSE_S, on the polls that come every SWEEP_S
    assert driven.outcomes == {Failure.REFUSED: 2 * 10}


def test_an_answer_that_closes_the_connection_is_counted_and_a_new_one_is_opened() -> None:
    driven = Driven(plan_of(clients=1))
    connection = driven.open(0.0)
    driven.answer(connection, 1.0, reusable=False)
    assert connection.aborted
    driven.answer(driven.open(1.5), 2.0)
    assert driven.latencies == [1.0, 1.0], "the time to connect counts too"
    assert driven.outcomes == {200: 2}


# --- the open loop ------------------------------------------------------------------------------


def test_requests_that_a_stalled_server_kept_from_being_sent_have_its_latency() -> None:
    """One connection, a server that sleeps for a second: ten requests were due meanwhile."""
    driven = open_loop(connections=1, duration_s=1)
    connection = driven.open(0.0)
    driven.load.poll(1.0)
    assert len(connection.sent) == 1, "the rest waits"
    for _ in range(10):
        driven.answer(connection, 1.0)
    assert driven.latencies == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def test_a_late_generator_adds_its_lag_to_the_latency_and_records_it() -> None:
    driven = open_loop(duration_s=0.25)
    connections = [driven.open(0.0)]
    driven.answer(connections[0], 0.01)
    driven.load.poll(0.15)
    driven.answer(connections[0], 0.16)
    assert driven.latencies == [0.01, 0.06], "intended at 0.1, sent at 0.15, answered at 0.16"
    assert round(max(driven.samples.lags), 6) == 0.1, "the sweep at 0.05 came at 0.15"
    assert 0.05 in [round(lag, 6) for lag in driven.samples.lags]


def test_requests_are_sent_on_time_whatever_the_server_does() -> None:
    driven = open_loop(duration_s=1)
    driven.load.poll(0.3)
    assert driven.connecting == 4, "one for each waiting request"
    assert [driven.open(0.3).sent for _ in range(4)] == [[REQUEST]] * 4


def test_the_open_loop_is_due_at_the_next_intended_time() -> None:
    driven = open_loop(rate=40)
    assert driven.load.due == 0.025
    driven.load.poll(0.025)
    assert driven.load.due == load.SWEEP_S, "and for the sweep"


def test_a_free_connection_is_used_before_another_is_opened() -> None:
    driven = open_loop()
    connection = driven.open(0.0)
    driven.answer(connection, 0.01)
    driven.load.poll(0.1)
    assert (len(connection.sent), driven.connecting) == (2, 0)


def test_no_more_connections_are_opened_than_allowed() -> None:
    driven = open_loop(connections=2)
    driven.load.poll(1.0)
    assert driven.connecting == 2


def test_a_long_backlog_is_sent_in_bursts() -> None:
    """Responses are read between the bursts."""
    driven = open_loop(rate=1000, duration_s=1)
    driven.load.poll(0.5)
    assert driven.connecting == 1 + load.BURST, "the first was due at the start"
    assert driven.load.due < 0.5, "it wants to be polled again at once"


def test_the_open_loop_sends_waiting_requests_after_the_end_of_its_window() -> None:
    driven = open_loop(connections=1, duration_s=0.2)
    connection = driven.open(0.0)
    driven.load.poll(0.3)
    driven.answer(connection, 0.4)
    assert driven.finished == 0
    driven.answer(connection, 0.5)
    assert (driven.finished, driven.latencies) == (1, [0.4, 0.4])


def test_the_open_loop_is_not_over_while_a_request_waits_for_a_connection() -> None:
    driven = open_loop(duration_s=0.05)
    driven.load.poll(1.0)
    assert driven.finished == 0
    driven.answer(driven.open(1.1), 1.2)
    assert (driven.finished, driven.latencies) == (1, [1.2])


def test_a_refused_connection_fails_one_request() -> None:
    driven = open_loop()
    driven.load.poll(0.2)
    driven.refuse(0.2)
    assert driven.outcomes == {Failure.REFUSED: 1}
    assert driven.connecting == 2, "the others are still being opened"


def test_an_idle_connection_that_closes_fails_no_request() -> None:
    driven = open_loop()
    connection = driven.open(0.0)
    driven.answer(connection, 0.01)
    driven.load.lost(connection, Failure.CLOSED, 0.05)
    driven.load.poll(0.1)
    assert driven.connecting == 1
    assert driven.outcomes == {200: 1}


def test_a_request_is_sent_with_nearly_all_of_its_deadline_left_or_not_at_all() -> None:
    """The deadline that is sent along counts from then; one that has passed is no load at all."""
    driven = open_loop(connections=1, duration_s=1, deadline_ms=1000)
    connection = driven.open(0.0)
    driven.load.poll(0.35)
    driven.answer(connection, 0.35)
    assert (driven.outcomes, len(connection.sent)) == ({200: 1, Failure.UNSENT: 2}, 2)
    driven.answer(connection, 0.36)
    assert driven.latencies == [0.25, 0.15, 0.35, 0.06], "the unsent ones ended first"


def test_a_request_with_a_deadline_is_given_up_at_twice_its_deadline() -> None:
    driven = open_loop(connections=1, duration_s=0.05, deadline_ms=100)
    connection = driven.open(0.0)
    driven.load.poll(0.19)
    assert not connection.aborted, "a server's 504 may still come"
    driven.load.poll(0.19 + load.SWEEP_S)
    assert (connection.aborted, driven.outcomes) == (True, {Failure.UNANSWERED: 1})


def test_what_a_late_generator_can_not_send_is_counted_apart() -> None:
    driven = open_loop(rate=100, duration_s=1, deadline_ms=1000)
    driven.open(0.0)
    driven.load.poll(0.5)
    assert driven.outcomes == {Failure.UNSENT: 40}, "those that were due 0.1 s ago or earlier"
    driven.load.poll(9.0)
    assert driven.outcomes == {Failure.UNSENT: 99, Failure.UNANSWERED: 1}
    assert driven.finished == 1, "every request of the schedule is counted, and the run ends"


def test_few_connections_are_opened_at_the_same_time() -> None:
    """A server's listen backlog has its limit."""
    driven = Driven(plan_of(clients=load.OPENING + 2))
    assert driven.connecting == load.OPENING
    driven.open(0.0)
    driven.refuse(0.0)
    assert driven.connecting == load.OPENING


# --- both loops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [{"clients": 1}, {"rate": 1, "arrivals": "constant"}])
def test_a_request_without_an_answer_times_out(pace: dict[str, object]) -> None:
    driven = Driven(plan_of(duration_s=0.5, give_up_s=3, **pace))
    connection = driven.open(0.0)
    driven.load.poll(2.9)
    assert not driven.finished
    driven.load.poll(3.0)
    assert (connection.aborted, driven.finished) == (True, 1)
    assert driven.outcomes == {Failure.UNANSWERED: 1}


@pytest.mark.parametrize("pace", [{"clients": 1}, {"rate": 1, "arrivals": "constant"}])
def test_a_request_without_a_connection_times_out(pace: dict[str, object]) -> None:
    driven = Driven(plan_of(duration_s=0.5, give_up_s=3, **pace))
    driven.load.poll(3.0)
    assert (driven.outcomes, driven.finished) == ({Failure.UNSENT: 1}, 1)
    driven.open(4.0)  # a connection that opens too late changes nothing
    assert driven.finished == 1


def test_requests_of_the_warm_up_do_not_count_even_if_answered_later() -> None:
    driven = Driven(plan_of(clients=1, duration_s=10), warmup_s=2)
    connection = driven.open(0.0)
    driven.answer(connection, 1.0)
    driven.answer(connection, 3.0)
    assert driven.latencies == []
    driven.answer(connection, 4.5)
    assert driven.latencies == [1.5]
    assert driven.samples.completed == 3, "the progress bar counts all of them"


def test_lags_of_the_warm_up_do_not_count() -> None:
    driven = Driven(plan_of(clients=1), warmup_s=2)
    driven.load.poll(1.9)
    driven.load.poll(2.5)
    assert driven.samples.lags.tolist() == []
    driven.load.poll(2.6)
    assert [round(lag, 6) for lag in driven.samples.lags] == [0.05]


def test_an_answer_without_a_request_closes_the_connection() -> None:
    driven = open_loop()
    connection = driven.open(0.0)
    driven.answer(connection, 0.01)
    driven.answer(connection, 0.02)
    assert connection.aborted
    assert driven.outcomes == {200: 1}


def test_outcomes_are_recorded_with_the_kind_of_their_request() -> None:
    driven = open_loop(connections=1)
    connection = driven.open(0.0)
    for number, status in enumerate((200, 503, 429)):
        driven.answer(connection, number / 10 + 0.05, status)
        driven.load.poll(number / 10 + 0.1)
    driven.load.lost(connection, Failure.CLOSED, 0.4)
    assert list(driven.samples.codes) == [200, 503, 429, Failure.CLOSED]
    assert driven.samples.failed == 3


def test_closing_a_load_closes_its_connections() -> None:
    driven = Driven(plan_of(clients=2))
    connections = [driven.open(0.0), driven.open(0.0)]
    driven.load.close()
    assert all(connection.aborted for connection in connections)


def test_a_constant_rate_is_evenly_spread() -> None:
    assert list(islice(load.offsets("constant", 4, seed=1), 5)) == [0, 0.25, 0.5, 0.75, 1.0]


def test_poisson_arrivals_have_the_mean_and_the_spread_of_their_rate() -> None:
    """Gaps of an exponential distribution: mean and standard deviation are both 1 / rate."""
    offsets = list(islice(load.offsets("poisson", 50, seed=3), 20_000))
    gaps = [later - earlier for earlier, later in pairwise(offsets)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert spread == pytest.approx(1 / 50, rel=0.03)
    assert min(gaps) > 0, "ascending, across chunks too"


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_the_same_seed_makes_the_same_schedule(arrivals: Arrivals) -> None:
    one, same = (list(islice(load.offsets(arrivals, 9, seed=7), 100)) for _ in range(2))
    assert one == same


def test_another_seed_makes_another_poisson_schedule() -> None:
    one, other = (next(load.offsets("poisson", 9, seed)) for seed in (1, 2))
    assert one != other


def test_kinds_are_chosen_in_proportion_to_their_weights() -> None:
    seen = Counter(islice(load.choices([1, 3], seed=1), 10_000))
    assert seen[1] / seen[0] == pytest.approx(3, rel=0.1)


def test_the_only_kind_is_always_chosen() -> None:
    assert set(islice(load.choices([0.2], seed=1), 100)) == {0}
