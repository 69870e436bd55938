"""Admission: predictions that can be checked by hand, and a simulated device that is exact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.admission import AdmissionController, AdmissionProbe, Quote
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.fair_share import FairShareTimeline
from engine.scheduling.request_queue import DEFAULT_PRIORITY, RequestQueue
from engine.scheduling.scheduler import Expire, Scheduler, SchedulerOptions
from engine.simulation.simulator import Simulation
from engine.simulation.traces import Arrival
from engine.simulation.traces import Request as SimulatedRequest


@dataclass(frozen=True, eq=False)
class Request:
    """What admission reads of a request."""

    rows: int
    deadline: float = 1000.0
    priority: int = DEFAULT_PRIORITY
    bucket_length: int | None = None
    enqueued_at: float = 0.0


class Model:
    """A model's queue, its cost table and the device: what predictions are computed from."""

    def __init__(
        self, costs: CostTable, queued: Iterable[Request], bucket_lengths: Iterable[int | None]
    ):
        self.timeline = FairShareTimeline()
        self.timeline.join("m")
        self.queue: RequestQueue[Request] = RequestQueue(bucket_lengths)
        for request in queued:
            self.queue.add(request)
        self.admission: AdmissionController[Request] = AdmissionController(
            "m", costs, self.queue, self.timeline
        )


def finish(admission: AdmissionController[Request], request: Request) -> float:
    """When it would be answered, if it came at 10."""
    return admission.quote(request, 10.0).finish_at


def lateness(admission: AdmissionController[Request], request: Request) -> float:
    """By how much a deadline would be missed, if it came at 10."""
    return admission.quote(request, 10.0).lateness_s


COSTS = CostTable({Bucket(1): 1.0, Bucket(8): 2.0, Bucket(16): 3.0})
TWO_LENGTHS = CostTable({Bucket(1, 16): 1.0, Bucket(8, 16): 2.0, Bucket(8, 64): 5.0})


@dataclass(frozen=True)
class Case:
    """The queue when `request` comes at 10, and when it would be answered."""

    expected: float
    queued: tuple[Request, ...] = ()
    request: Request = Request(1)
    in_flight: float = 0.0
    costs: CostTable = COSTS
    bucket_lengths: tuple[int | None, ...] = (None,)


FINISHES = {
    "alone-it-takes-its-cheapest-partition": Case(11.0),
    "rows-that-fill-several": Case(14.0, request=Request(17)),
    "while-it-waits-for-the-device-its-batch-is-filled": Case(15.5, in_flight=2.5),
    "behind-others-as-long-as-a-full-batch": Case(13.0, (Request(1),)),
    "in-the-batch-that-is-not-full": Case(13.0, (Request(15),)),
    "in-the-next": Case(16.0, (Request(16),)),
    "behind-those-with-earlier-deadlines-only": Case(
        13.0, (Request(1, 20.0), Request(16, 40.0)), Request(1, 30.0)
    ),
    "before-all-others-it-finishes-as-if-alone": Case(11.0, (Request(16, 40.0),), Request(1, 30.0)),
    "behind-a-higher-priority": Case(
        16.0, (Request(16, 90.0, priority=1),), Request(1, 30.0, priority=5)
    ),
    "before-a-lower-priority": Case(
        11.0, (Request(16, 20.0, priority=9),), Request(1, 30.0, priority=5)
    ),
    "rows-of-other-lengths-are-counted": Case(
        16.0,
        (Request(8, bucket_length=64),),
        Request(1, bucket_length=16),
        costs=TWO_LENGTHS,
        bucket_lengths=(16, 64),
    ),
}


@pytest.mark.parametrize("case", FINISHES.values(), ids=FINISHES)
def test_when_it_would_be_answered(case: Case) -> None:
    model = Model(case.costs, case.queued, case.bucket_lengths)
    if case.in_flight:
        model.timeline.launch("m", case.in_flight, 10.0)
    assert finish(model.admission, case.request) == case.expected
    late = Request(case.request.rows, case.expected - 0.25, 5, case.request.bucket_length)
    if not case.queued:
        assert lateness(model.admission, late) == 0.25


def test_beside_runnable_models_a_request_takes_longer() -> None:
    model = Model(COSTS, [], (None,))
    model.timeline.join("other", 3.0)
    model.timeline.set_runnable("other", True)
    assert finish(model.admission, Request(1)) == 14.0


@pytest.mark.parametrize(
    ("queued", "request_", "expected"),
    [
        pytest.param([], Request(1, 11.0), 0.0, id="just-in-time"),
        pytest.param([], Request(1, 10.75), 0.25, id="a-quarter-late"),
        pytest.param([], Request(1, 20.0), -9.0, id="much-time"),
        pytest.param(
            [Request(16, 13.5)],
            Request(1, 12.0),
            2.5,
            id="it-would-make-a-request-late-that-is-in-time",
        ),
        pytest.param(
            [Request(16, 20.0)], Request(1, 12.0), -1.0, id="the-one-behind-can-afford-it"
        ),
        pytest.param(
            [Request(16, 12.5)],
            Request(1, 12.0),
            -1.0,
            id="a-request-that-is-late-anyway-does-not-count",
        ),
        pytest.param(
            [Request(16, 20.0), Request(16, 18.0), Request(16, 19.5)],
            Request(1, 12.0),
            2.0,
            id="the-largest-lateness-of-all-behind-it",
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
    queued: list[Request], request_: Request, expected: float
) -> None:
    assert lateness(Model(COSTS, queued, (None,)).admission, request_) == expected


@pytest.mark.parametrize("in_flight", [0.0, 2.5])
@pytest.mark.parametrize("queued", [(), (Request(16, 13.5),), (Request(3, 9.0, priority=1),)])
def test_a_probe_gets_the_quote_of_the_request(
    queued: tuple[Request, ...], in_flight: float
) -> None:
    model = Model(COSTS, queued, (None,))
    model.timeline.launch("m", in_flight, 10.0)
    request = Request(2, 12.0)
    fields = attrgetter("rows", "bucket_length", "enqueued_at", "deadline", "priority")
    probe = AdmissionProbe(*fields(request))
    assert model.admission.quote(probe, 10.0) == model.admission.quote(request, 10.0)


# --- predictions that were wrong -----------------------------------------------------------------


def answered(admission: AdmissionController[Request], late_s: float, times: int) -> None:
    """So many requests came at 10, and were answered so much later than predicted."""
    for _ in range(times):
        request = Request(1)
        quote = admission.quote(request, 10.0)
        admission.record(request, quote)
        admission.completed(request, quote.finish_at + late_s)


def behind_one() -> AdmissionController[Request]:
    """One request is queued, so that the next is answered at 13."""
    return Model(COSTS, [Request(1, 11.0)], (None,)).admission


def test_the_margin_is_the_largest_error_of_the_last_thousands() -> None:
    admission = behind_one()
    answered(admission, 0.5, 1)
    answered(admission, 0.0, 63 * 64 - 1)
    assert finish(admission, Request(1)) == 13.0, "the prediction has no margin"
    assert lateness(admission, Request(1, 13.25)) == 0.25
    answered(admission, 0.0, 65)
    assert lateness(admission, Request(1, 13.25)) == -0.25


def test_a_request_that_is_in_time_by_less_than_the_margin_is_not_made_late() -> None:
    model = Model(COSTS, [Request(16, 13.5)], (None,))
    answered(model.admission, 1.0, 1)
    assert lateness(model.admission, Request(1, 12.0)) == 2.5


def test_the_margin_is_at_most_half_of_the_time_that_a_request_has() -> None:
    admission = behind_one()
    answered(admission, 100.0, 1)
    assert lateness(admission, Request(1, 16.0)) == 0.0
    assert lateness(admission, Request(1, 18.0)) == -1.0


def test_answers_earlier_than_predicted_make_no_prediction_earlier() -> None:
    admission = behind_one()
    answered(admission, -0.5, 300)
    assert lateness(admission, Request(1, 13.0)) == 0.0


def test_on_a_free_device_admission_uses_optimistic_costs_and_no_margin() -> None:
    """Otherwise no batch would run, and costs learned in a slow phase would stay."""
    costs = CostTable({Bucket(1): 1.0})
    for _ in range(64):
        costs.observe(Bucket(1), 50.0)
    costs.correct(costs.samples())
    model = Model(costs, [], (None,))
    answered(model.admission, 100.0, 64)
    assert finish(model.admission, Request(1)) == 60.0
    assert lateness(model.admission, Request(1, 11.5)) == -0.5
    assert lateness(model.admission, Request(1, 10.5)) == 0.5
    model.timeline.launch("m", 50.0, 10.0)
    assert lateness(model.admission, Request(1, 11.5)) > 0, "it is not free any more"


def test_a_discarded_request_does_not_count_for_the_margin() -> None:
    admission = behind_one()
    request = Request(1)
    admission.record(request, admission.quote(request, 10.0))
    admission.discard(request)
    admission.discard(request)
    admission.completed(request, 99.0)
    assert lateness(admission, Request(1, 13.0)) == 0.0


# --- a device that is exact ----------------------------------------------------------------------

# eighths, so that sums are exact; and deadlines between them, so that none is met exactly
gaps = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), min_size=1, max_size=60)


@settings(max_examples=50, deadline=None)
@given(
    gaps=gaps,
    table=st.dictionaries(st.integers(1, 12), st.integers(1, 16), min_size=1, max_size=4),
    patience=st.integers(0, 60),
)
def test_admitted_requests_are_answered_in_time(
    gaps: list[tuple[int, int]], table: dict[int, int], patience: int
) -> None:
    costs = CostTable({Bucket(rows): seconds / 8 for rows, seconds in table.items()})
    arrivals, at = [], 0.0
    for gap, wanted in gaps:
        at += gap / 8
        arrivals.append(Arrival(at, wanted))
    scheduler: Scheduler[SimulatedRequest] = Scheduler(
        SchedulerOptions(1.0, 10_000, 2), costs, (None,)
    )
    result = Simulation(
        scheduler, costs.seconds, timeout_s=(max(table.values()) + patience) / 8 + 0.01
    ).run(arrivals)
    assert result.expired == 0
    assert result.good == result.answered == len(arrivals) - result.refused


def test_requests_are_refused_under_overload_and_not_when_idle() -> None:
    def refused(gap: float) -> int:
        costs = CostTable({Bucket(4): 1.0})
        scheduler: Scheduler[SimulatedRequest] = Scheduler(
            SchedulerOptions(1.0, 10_000, 2), costs, (None,)
        )
        arrivals = [Arrival(number * gap) for number in range(200)]
        return Simulation(scheduler, costs.seconds, timeout_s=3.0).run(arrivals).refused

    assert refused(0.5) == 0
    assert 70 <= refused(0.125) <= 100, "half of all, less those that can wait"


def test_the_scheduler_quotes_and_records_the_prediction_of_the_quote() -> None:
    scheduler: Scheduler[Request] = Scheduler(SchedulerOptions(1.0, 100, 2), COSTS, (None,))
    assert scheduler.quote(Request(1, 10.5), 10.0).lateness_s == 0.5
    request = Request(16, 20.0)
    quote = scheduler.quote(request, 10.0)
    assert quote == Quote(finish_at=13.0, lateness_s=-7.0, waits=False)
    scheduler.enqueue(request, quote._replace(waits=True), 10.0)
    assert scheduler.quote(Request(1, 21.0), 10.0).lateness_s == -5.0
    assert scheduler.poll(19.5) == Expire((request,))
    # it would have ended at 20.5, 7.5 s later than quoted: that is the margin
    scheduler.enqueue(Request(1, 30.0), Quote(21.0, -9.0, waits=False), 20.0)
    assert scheduler.quote(Request(1, 51.0), 20.0).lateness_s == 23.0 + 7.5 - 51.0
