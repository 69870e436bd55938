"""When will it be answered, and may that be promised? Arithmetic, and a device that is exact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batching import BatchQueue, Policy
from engine.buckets import Bucket
from engine.costs import CostTable
from engine.device import Device
from engine.promises import Promises
from engine.simulate import Request as SimulatedRequest
from engine.simulate import Simulation
from engine.traces import Arrival
from engine.waiting import DEFAULT_PRIORITY, WaitingRoom


@dataclass(frozen=True, eq=False)
class Request:
    """What is promised an answer."""

    rows: int
    deadline: float = 1000.0
    priority: int = DEFAULT_PRIORITY
    lane: int | None = None
    enqueued_at: float = 0.0


class House:
    """A model's waiting room, its table and the device: what promises are made of."""

    def __init__(self, costs: CostTable, waiting: Iterable[Request], lanes: Iterable[int | None]):
        self.device = Device()
        self.device.join("m")
        self.waiting: WaitingRoom[Request] = WaitingRoom(lanes)
        for request in waiting:
            self.waiting.add(request)
        self.promises: Promises[Request] = Promises("m", costs, self.waiting, self.device)


COSTS = CostTable({Bucket(1): 1.0, Bucket(8): 2.0, Bucket(16): 3.0})
LANES = CostTable({Bucket(1, 16): 1.0, Bucket(8, 16): 2.0, Bucket(8, 64): 5.0})


@dataclass(frozen=True)
class Case:
    """Who waits when `request` comes at 10, and when it would be answered."""

    expected: float
    waiting: tuple[Request, ...] = ()
    request: Request = Request(1)
    in_flight: float = 0.0
    costs: CostTable = COSTS
    lanes: tuple[int | None, ...] = (None,)


FINISHES = {
    "alone-it-takes-its-cheapest-cut": Case(11.0),
    "rows-that-fill-several": Case(14.0, request=Request(17)),
    "while-it-waits-for-the-device-others-join-it": Case(15.5, in_flight=2.5),
    "behind-others-as-long-as-a-full-batch": Case(13.0, (Request(1),)),
    "in-the-batch-that-is-not-full": Case(13.0, (Request(15),)),
    "in-the-next": Case(16.0, (Request(16),)),
    "behind-those-with-earlier-deadlines-only": Case(
        13.0, (Request(1, 20.0), Request(16, 40.0)), Request(1, 30.0)
    ),
    "before-all-others-it-is-as-alone": Case(11.0, (Request(16, 40.0),), Request(1, 30.0)),
    "behind-a-higher-priority": Case(
        16.0, (Request(16, 90.0, priority=1),), Request(1, 30.0, priority=5)
    ),
    "before-a-lower-priority": Case(
        11.0, (Request(16, 20.0, priority=9),), Request(1, 30.0, priority=5)
    ),
    "other-lengths-take-their-time-too": Case(
        16.0, (Request(8, lane=64),), Request(1, lane=16), costs=LANES, lanes=(16, 64)
    ),
}


@pytest.mark.parametrize("case", FINISHES.values(), ids=FINISHES)
def test_when_it_would_be_answered(case: Case) -> None:
    house = House(case.costs, case.waiting, case.lanes)
    if case.in_flight:
        house.device.launch("m", case.in_flight, 10.0)
    assert house.promises.finish(case.request, 10.0) == case.expected
    # exactly at the deadline is in time; nobody is behind it in these cases who would mind
    late = Request(case.request.rows, case.expected - 0.25, 5, case.request.lane)
    if not case.waiting:
        assert house.promises.excess(late, 10.0) == 0.25


def test_among_models_that_want_the_device_it_takes_longer() -> None:
    house = House(COSTS, [], (None,))
    house.device.join("other", 3.0)
    house.device.want("other", True)
    assert house.promises.finish(Request(1), 10.0) == 14.0


@pytest.mark.parametrize(
    ("waiting", "request_", "excess"),
    [
        pytest.param([], Request(1, 11.0), 0.0, id="just-in-time"),
        pytest.param([], Request(1, 10.75), 0.25, id="a-quarter-late"),
        pytest.param([], Request(1, 20.0), -9.0, id="much-time"),
        pytest.param(
            [Request(16, 13.5)],
            Request(1, 12.0),
            2.5,
            id="it-would-make-one-late-who-is-not",
        ),
        pytest.param(
            [Request(16, 20.0)], Request(1, 12.0), -1.0, id="the-one-behind-can-afford-it"
        ),
        pytest.param(
            [Request(16, 12.5)], Request(1, 12.0), -1.0, id="who-is-late-anyway-does-not-count"
        ),
        pytest.param(
            [Request(16, 20.0), Request(16, 18.0), Request(16, 19.5)],
            Request(1, 12.0),
            2.0,
            id="the-worst-of-all-behind-it",
        ),
        pytest.param(
            [Request(16, 13.5, priority=9)],
            Request(1, 12.0),
            -1.0,
            id="a-lower-priority-may-be-made-late",
        ),
        pytest.param(
            [Request(16, 13.5, priority=1)],
            Request(1, 12.0),
            4.0,
            id="a-higher-priority-goes-first-whatever-the-deadlines",
        ),
    ],
)
def test_by_how_much_a_deadline_would_be_missed(
    waiting: list[Request], request_: Request, excess: float
) -> None:
    assert House(COSTS, waiting, (None,)).promises.excess(request_, 10.0) == excess


# --- promises that were not kept -----------------------------------------------------------------


def kept(promises: Promises[Request], lateness: float, times: int) -> None:
    for _ in range(times):
        request = Request(1)
        promises.give(request, 10.0)
        promises.answered(request, promises.finish(request, 10.0) + lateness)


def behind_one() -> Promises[Request]:
    """Somebody waits, so whoever comes is answered at 13."""
    return House(COSTS, [Request(1, 11.0)], (None,)).promises


def test_the_margin_is_the_worst_of_the_last_thousands() -> None:
    promises = behind_one()
    kept(promises, 0.5, 1)
    kept(promises, 0.0, 63 * 64 - 1)
    assert promises.finish(Request(1), 10.0) == 13.0, "what is expected has no margin"
    assert promises.excess(Request(1, 13.25), 10.0) == 0.25
    kept(promises, 0.0, 65)
    assert promises.excess(Request(1, 13.25), 10.0) == -0.25


def test_the_margin_takes_no_more_than_half_of_what_a_request_may_take() -> None:
    promises = behind_one()
    kept(promises, 100.0, 1)
    assert promises.excess(Request(1, 16.0), 10.0) == 0.0
    assert promises.excess(Request(1, 18.0), 10.0) == -1.0


def test_being_early_promises_nothing_earlier() -> None:
    promises = behind_one()
    kept(promises, -0.5, 300)
    assert promises.excess(Request(1, 13.0), 10.0) == 0.0


def test_on_a_free_device_whoever_has_any_hope_is_let_in() -> None:
    """Else nobody would run, and what was learned in bad times would stay."""
    costs = CostTable({Bucket(1): 1.0})
    for _ in range(64):
        costs.observe(Bucket(1), 50.0)
    costs.correct()
    house = House(costs, [], (None,))
    kept(house.promises, 100.0, 64)
    assert house.promises.finish(Request(1), 10.0) == 60.0
    assert house.promises.excess(Request(1, 11.5), 10.0) == -0.5
    assert house.promises.excess(Request(1, 10.5), 10.0) == 0.5
    house.device.launch("m", 50.0, 10.0)
    assert house.promises.excess(Request(1, 11.5), 10.0) > 0, "it is not free any more"


def test_who_was_forgotten_teaches_nothing() -> None:
    promises = behind_one()
    request = Request(1)
    promises.give(request, 10.0)
    promises.forget(request)
    promises.forget(request)
    promises.answered(request, 99.0)
    assert promises.excess(Request(1, 13.0), 10.0) == 0.0


# --- and on a device that is exact ---------------------------------------------------------------

# eighths, so that sums are exact; and deadlines between them, so that none is met exactly
gaps = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), min_size=1, max_size=60)


@settings(max_examples=50, deadline=None)
@given(
    gaps=gaps,
    table=st.dictionaries(st.integers(1, 12), st.integers(1, 16), min_size=1, max_size=4),
    patience=st.integers(0, 60),
)
def test_whoever_is_admitted_is_answered_in_time(
    gaps: list[tuple[int, int]], table: dict[int, int], patience: int
) -> None:
    costs = CostTable({Bucket(rows): seconds / 8 for rows, seconds in table.items()})
    arrivals, at = [], 0.0
    for gap, wanted in gaps:
        at += gap / 8
        arrivals.append(Arrival(at, wanted))
    queue: BatchQueue[SimulatedRequest] = BatchQueue(Policy(1.0, 10_000, 2), costs, (None,))
    result = Simulation(
        queue, costs.seconds, timeout_s=(max(table.values()) + patience) / 8 + 0.01
    ).run(arrivals)
    assert result.expired == 0
    assert result.good == result.answered == len(arrivals) - result.refused


def test_somebody_is_refused_there_under_overload_and_nobody_when_idle() -> None:
    def refused(gap: float) -> int:
        costs = CostTable({Bucket(4): 1.0})
        queue: BatchQueue[SimulatedRequest] = BatchQueue(Policy(1.0, 10_000, 2), costs, (None,))
        arrivals = [Arrival(number * gap) for number in range(200)]
        return Simulation(queue, costs.seconds, timeout_s=3.0).run(arrivals).refused

    assert refused(0.5) == 0
    assert 70 <= refused(0.125) <= 100, "half of all, less those who may wait"


def test_the_queue_asks_the_promises() -> None:
    queue: BatchQueue[Request] = BatchQueue(Policy(1.0, 100, 2), COSTS, (None,))
    assert queue.excess(Request(1, 10.5), 10.0) == 0.5
    queue.offer(Request(16, 20.0), 10.0)
    assert queue.excess(Request(1, 21.0), 10.0) == -5.0
