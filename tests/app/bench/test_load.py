"""Both loops, led step by step: the clock and the connections are the test's own."""

from __future__ import annotations

from collections import Counter

import pytest

from app.bench import load
from app.bench.plan import Plan
from app.bench.tally import BASE, Failure, Tally
from tests.app.bench.made import REQUEST, plan_of


class PuppetLink:
    """A connection that nobody is behind."""

    def __init__(self) -> None:
        self.busy = False
        self.intended = 0.0
        self.shot = 0
        self.sent: list[bytes] = []
        self.aborted = False

    def send(self, request: bytes) -> None:
        self.sent.append(request)

    def abort(self) -> None:
        self.aborted = True


class Led:
    """A load, and everything that happens to it."""

    def __init__(self, plan: Plan, warmup_s: float = 0.0) -> None:
        self.tally = Tally(warmup_s, warmup_s + plan.settings.duration_s)
        self.connecting = 0
        self.finished = 0
        self.load = load.of(plan, self.tally, self._connect, self._finish)
        self.load.start(0.0)
        self.load.poll(0.0)

    def _connect(self) -> None:
        self.connecting += 1

    def _finish(self) -> None:
        self.finished += 1

    def open(self, now: float) -> PuppetLink:
        """The connection that is being opened is there."""
        assert self.connecting > 0, "nobody asked for a connection"
        self.connecting -= 1
        link = PuppetLink()
        self.load.opened(link, now)
        return link

    def refuse(self, now: float, failure: Failure = Failure.REFUSED) -> None:
        """The connection that is being opened cannot be had."""
        assert self.connecting > 0, "nobody asked for a connection"
        self.connecting -= 1
        self.load.unopened(failure, now)

    def answer(
        self, link: PuppetLink, now: float, status: int = 200, *, reusable: bool = True
    ) -> None:
        self.load.answered(link, status, now, reusable=reusable)

    @property
    def outcomes(self) -> Counter[int]:
        return Counter(code % BASE for code in self.tally.codes)

    @property
    def latencies(self) -> list[float]:
        return [round(latency, 6) for latency in self.tally.latencies]


def open_loop(rate: float = 10, **settings: object) -> Led:
    """Requests are intended at 0, 0.1, 0.2 and so on."""
    return Led(plan_of(rate=rate, arrivals="constant", **settings))


# --- the closed loop ----------------------------------------------------------------------------


def test_every_client_has_one_request_on_its_way() -> None:
    led = Led(plan_of(clients=3))
    assert led.connecting == 3
    links = [led.open(0.1) for _ in range(3)]
    assert [link.sent for link in links] == [[REQUEST]] * 3
    led.answer(links[1], 0.5)
    assert [len(link.sent) for link in links] == [1, 2, 1]


def test_a_client_waits_for_its_answer_before_it_intends_its_next() -> None:
    led = Led(plan_of(clients=1))
    link = led.open(0.0)
    led.answer(link, 2.0)
    led.answer(link, 5.0)
    assert led.latencies == [2.0, 3.0]


def test_a_closed_loop_ends_with_its_window_and_the_last_answer() -> None:
    led = Led(plan_of(clients=2, duration_s=1))
    first, second = led.open(0), led.open(0)
    led.answer(first, 1.5)
    assert (len(first.sent), led.finished) == (1, 0), "nothing more is sent"
    led.answer(second, 1.7)
    assert led.finished == 1
    assert led.latencies == [1.5, 1.7], "what is answered after the end counts"


def test_a_client_whose_server_hung_up_pauses_and_connects_again() -> None:
    led = Led(plan_of(clients=1))
    led.load.lost(led.open(0.0), Failure.RESET, 1.0)
    led.load.poll(1.0 + load.PAUSE_S / 2)
    assert led.connecting == 0
    led.load.poll(1.0 + load.PAUSE_S)
    assert led.open(1.2).sent == [REQUEST]
    assert led.outcomes == {Failure.RESET: 1}


def test_a_dead_server_is_asked_now_and_then_and_never_in_a_circle() -> None:
    led = Led(plan_of(clients=2, duration_s=1))
    now = 0.0
    while not led.finished:
        while led.connecting:
            led.refuse(now)
        now += load.SWEEP_S
        led.load.poll(now)
        assert now < 3, "it ends"
    # each client finds nobody at 0 and then every PAUSE_S, on the polls that come every SWEEP_S
    assert led.outcomes == {Failure.REFUSED: 2 * 10}


def test_an_answer_that_ends_the_connection_is_counted_and_the_next_one_is_new() -> None:
    led = Led(plan_of(clients=1))
    link = led.open(0.0)
    led.answer(link, 1.0, reusable=False)
    assert link.aborted
    led.answer(led.open(1.5), 2.0)
    assert led.latencies == [1.0, 1.0], "a client that must connect first waits for that too"
    assert led.outcomes == {200: 2}


# --- the open loop ------------------------------------------------------------------------------


def test_a_stalled_server_cannot_hide_behind_the_requests_that_it_kept_from_being_sent() -> None:
    """One connection, a server that sleeps for a second: ten requests were due meanwhile."""
    led = open_loop(connections=1, duration_s=1)
    link = led.open(0.0)
    led.load.poll(1.0)
    assert len(link.sent) == 1, "the rest waits"
    for _ in range(10):
        led.answer(link, 1.0)
    assert led.latencies == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def test_a_load_generator_that_is_late_itself_adds_it_to_the_latency_and_says_so() -> None:
    led = open_loop(duration_s=0.25)
    links = [led.open(0.0)]
    led.answer(links[0], 0.01)
    led.load.poll(0.15)
    led.answer(links[0], 0.16)
    assert led.latencies == [0.01, 0.06], "intended at 0.1, sent at 0.15, answered at 0.16"
    assert round(max(led.tally.lags), 6) == 0.1, "the sweep at 0.05 came at 0.15"
    assert 0.05 in [round(lag, 6) for lag in led.tally.lags]


def test_requests_are_sent_on_time_whatever_the_server_does() -> None:
    led = open_loop(duration_s=1)
    led.load.poll(0.3)
    assert led.connecting == 4, "one for each that waits"
    assert [led.open(0.3).sent for _ in range(4)] == [[REQUEST]] * 4


def test_the_open_loop_is_due_when_the_schedule_says() -> None:
    led = open_loop(rate=40)
    assert led.load.due == 0.025
    led.load.poll(0.025)
    assert led.load.due == load.SWEEP_S, "and for a look at what is to be given up"


def test_a_free_connection_is_used_before_another_is_opened() -> None:
    led = open_loop()
    link = led.open(0.0)
    led.answer(link, 0.01)
    led.load.poll(0.1)
    assert (len(link.sent), led.connecting) == (2, 0)


def test_no_more_connections_are_opened_than_allowed() -> None:
    led = open_loop(connections=2)
    led.load.poll(1.0)
    assert led.connecting == 2


def test_a_long_backlog_is_taken_up_in_bursts() -> None:
    """Answers that came meanwhile are looked at in between."""
    led = open_loop(rate=1000, duration_s=1)
    led.load.poll(0.5)
    assert led.connecting == 1 + load.BURST, "the first was due at the start"
    assert led.load.due < 0.5, "it wants to be polled again at once"


def test_the_open_loop_sends_what_was_intended_after_the_end_of_its_window_too() -> None:
    led = open_loop(connections=1, duration_s=0.2)
    link = led.open(0.0)
    led.load.poll(0.3)
    led.answer(link, 0.4)
    assert led.finished == 0
    led.answer(link, 0.5)
    assert (led.finished, led.latencies) == (1, [0.4, 0.4])


def test_the_open_loop_is_not_over_while_a_request_hopes_for_a_connection() -> None:
    led = open_loop(duration_s=0.05)
    led.load.poll(1.0)
    assert led.finished == 0
    led.answer(led.open(1.1), 1.2)
    assert (led.finished, led.latencies) == (1, [1.2])


def test_a_refused_connection_is_the_end_of_one_request() -> None:
    led = open_loop()
    led.load.poll(0.2)
    led.refuse(0.2)
    assert led.outcomes == {Failure.REFUSED: 1}
    assert led.connecting == 2, "the others are still hoped for"


def test_an_idle_connection_that_closes_is_nobodys_failure() -> None:
    led = open_loop()
    link = led.open(0.0)
    led.answer(link, 0.01)
    led.load.lost(link, Failure.CLOSED, 0.05)
    led.load.poll(0.1)
    assert led.connecting == 1
    assert led.outcomes == {200: 1}


# --- what both promise --------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [{"clients": 1}, {"rate": 1, "arrivals": "constant"}])
def test_a_request_without_an_answer_is_given_up(pace: dict[str, object]) -> None:
    led = Led(plan_of(duration_s=0.5, give_up_s=3, **pace))
    link = led.open(0.0)
    led.load.poll(2.9)
    assert not led.finished
    led.load.poll(3.0)
    assert (link.aborted, led.finished) == (True, 1)
    assert led.outcomes == {Failure.UNANSWERED: 1}


@pytest.mark.parametrize("pace", [{"clients": 1}, {"rate": 1, "arrivals": "constant"}])
def test_a_request_without_a_connection_is_given_up(pace: dict[str, object]) -> None:
    led = Led(plan_of(duration_s=0.5, give_up_s=3, **pace))
    led.load.poll(3.0)
    assert (led.outcomes, led.finished) == ({Failure.UNSENT: 1}, 1)
    led.open(4.0)  # the connection that came too late harms nobody
    assert led.finished == 1


def test_what_warm_up_sent_does_not_count_even_if_it_is_answered_later() -> None:
    led = Led(plan_of(clients=1, duration_s=10), warmup_s=2)
    link = led.open(0.0)
    led.answer(link, 1.0)
    led.answer(link, 3.0)
    assert led.latencies == []
    led.answer(link, 4.5)
    assert led.latencies == [1.5]
    assert led.tally.settled == 3, "the progress bar has all of them"


def test_how_late_the_generator_was_in_warm_up_does_not_count_either() -> None:
    led = Led(plan_of(clients=1), warmup_s=2)
    led.load.poll(1.9)
    led.load.poll(2.5)
    assert led.tally.lags.tolist() == []
    led.load.poll(2.6)
    assert [round(lag, 6) for lag in led.tally.lags] == [0.05]


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    led = open_loop()
    link = led.open(0.0)
    led.answer(link, 0.01)
    led.answer(link, 0.02)
    assert link.aborted
    assert led.outcomes == {200: 1}


def test_outcomes_are_kept_by_kind_and_by_shot() -> None:
    led = open_loop(connections=1)
    link = led.open(0.0)
    for number, status in enumerate((200, 503, 429)):
        led.answer(link, number / 10 + 0.05, status)
        led.load.poll(number / 10 + 0.1)
    led.load.lost(link, Failure.CLOSED, 0.4)
    assert list(led.tally.codes) == [200, 503, 429, Failure.CLOSED]
    assert led.tally.failed == 3


def test_closing_a_load_closes_its_connections() -> None:
    led = Led(plan_of(clients=2))
    links = [led.open(0.0), led.open(0.0)]
    led.load.close()
    assert all(link.aborted for link in links)
