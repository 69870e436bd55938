"""Which bucket, and whose rows go into it: one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.buckets import Bucket
from engine.costs import CostTable
from engine.formation import Formation
from engine.waiting import DEFAULT_PRIORITY, WaitingRoom


@dataclass(frozen=True, eq=False)
class Request:
    """What a batch is formed of."""

    rows: int
    lane: int | None = None
    deadline: float = 1000.0
    priority: int = DEFAULT_PRIORITY
    enqueued_at: float = 0.0


ONE = CostTable({Bucket(1): 0.5, Bucket(8): 1.0, Bucket(16): 1.5})


def lengths(short: float, long: float) -> CostTable:
    """Two lengths, 16 and 64, with buckets of 1 and 8 rows; what 8 rows cost."""
    return CostTable(
        {
            Bucket(1, 16): short / 2,
            Bucket(8, 16): short,
            Bucket(1, 64): long / 2,
            Bucket(8, 64): long,
        }
    )


CHEAP_TO_SHARE = lengths(1.0, 1.2)
DEAR_TO_SHARE = lengths(1.0, 8.0)
THREE = CostTable(
    {Bucket(rows, length): (0.9 + rows / 80) * scale for rows in (1, 8) for length, scale in
     ((16, 1.0), (32, 1.05), (64, 1.1))}
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Who waits while the device is free from 10 on, and `bucket: lanes` of what is formed."""

    expected: str
    waiting: Iterable[Request]
    costs: CostTable = ONE
    complete: bool = False
    by_deadline: bool = False

    def said(self) -> str:
        waiting: WaitingRoom[Request] = WaitingRoom(
            dict.fromkeys(line.length for line in self.costs.lines())
        )
        for request in self.waiting:
            waiting.add(request)
        formation = Formation(self.costs, waiting, 10.0, 0.8, self.complete, self.by_deadline)
        bucket, lanes = formation.choose()
        return f"{bucket}: {' '.join(map(str, lanes))}"


TABLE = {
    # one length
    "what-the-plan-has": Case("8: None", [Request(8)]),
    "what-the-plan-has-for-one": Case("1: None", [Request(1)]),
    "the-plan-expects-others": Case("1: None", [Request(1), Request(2)]),
    "one-request-alone-is-answered-with-its-last-row": Case("8: None", [Request(3)]),
    "when-nobody-else-comes-the-cheapest-cut": Case(
        "8: None", [Request(1), Request(2)], complete=True
    ),
    "more-than-all-buckets": Case("16: None", [Request(500)]),
    # sharing
    "two-that-share-the-longer-bucket": Case(
        "8x64: 16 64", [Request(4, 16), Request(4, 64)], CHEAP_TO_SHARE
    ),
    "whoever-is-first-of-them": Case(
        "8x64: 16 64", [Request(4, 64), Request(4, 16)], CHEAP_TO_SHARE
    ),
    "each-alone-where-the-longer-is-dear": Case(
        "8x16: 16", [Request(7, 16), Request(1, 64)], DEAR_TO_SHARE
    ),
    "the-longer-first-if-it-is-first": Case(
        "1x64: 64", [Request(1, 64, 500.0), Request(7, 16)], DEAR_TO_SHARE
    ),
    "two-full-ones-have-nothing-to-share": Case(
        "8x16: 16", [Request(8, 16), Request(8, 64)], CHEAP_TO_SHARE
    ),
    "a-row-rides-where-there-is-room": Case(
        "8x64: 16 64", [Request(7, 64), Request(1, 16)], CHEAP_TO_SHARE
    ),
    "three-neighbours-together": Case(
        "8x64: 16 32 64", [Request(2, 16), Request(2, 32), Request(3, 64)], THREE
    ),
    "an-empty-lane-between-is-no-hindrance": Case(
        "8x64: 16 64", [Request(2, 16), Request(3, 64)], THREE
    ),
    # in time
    "a-small-urgent-one-goes-first-if-all-others-can-wait": Case(
        "1: None", [Request(1, deadline=10.75), Request(15, deadline=20.0)]
    ),
    "and-not-if-somebody-cannot": Case(
        "16: None", [Request(1, deadline=10.75), Request(15, deadline=11.75)]
    ),
    "the-bucket-that-takes-least-of-the-device-and-of-equals-the-larger": Case(
        "8: None", [Request(1, deadline=11.25), Request(15, deadline=20.0)]
    ),
    "whoever-is-late-anyway-hurries-nobody": Case(
        "16: None", [Request(1, deadline=10.25), Request(15, deadline=20.0)]
    ),
    "more-urgent-rows-than-a-small-bucket-holds": Case(
        "16: None", [Request(9, deadline=11.25), Request(7, deadline=20.0)]
    ),
    "padding-up-if-whoever-would-be-left-behind-is-late": Case(
        "8: None", [Request(1, deadline=11.25), Request(2, deadline=11.25)]
    ),
    "and-not-if-whoever-is-left-behind-can-wait": Case(
        "1: None", [Request(1, deadline=12.0), Request(2, deadline=12.0)]
    ),
    "exactly-in-time": Case("16: None", [Request(1, deadline=11.5), Request(15, deadline=20.0)]),
    "under-overload-where-all-are-late-the-plan-stands": Case(
        "16: None", [Request(8, deadline=10.75), Request(40, deadline=11.25)]
    ),
    # priorities
    "of-several-priorities-the-highest": Case(
        "1x64: 64", [Request(1, 16, 20.0), Request(1, 64, 90.0, priority=1)], DEAR_TO_SHARE
    ),
    "by-deadline-whoever-is-earliest": Case(
        "1x16: 16",
        [Request(1, 16, 20.0), Request(1, 64, 90.0, priority=1)],
        DEAR_TO_SHARE,
        by_deadline=True,
    ),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_a_batch_is_formed(case: Case) -> None:
    assert case.said() == case.expected


requests = st.builds(
    Request,
    rows=st.integers(1, 12),
    lane=st.sampled_from([16, 32, 64]),
    deadline=st.integers(9, 20).map(float),
    priority=st.sampled_from([1, 5]),
)


@settings(deadline=None)
@given(
    waiting=st.lists(requests, min_size=1, max_size=12),
    complete=st.booleans(),
    by_deadline=st.booleans(),
)
def test_whoever_is_first_is_carried_and_the_lanes_fit_the_bucket(
    waiting: list[Request], complete: bool, by_deadline: bool
) -> None:
    room: WaitingRoom[Request] = WaitingRoom((16, 32, 64))
    for request in waiting:
        room.add(request)
    first = room.first(by_deadline=by_deadline)
    bucket, lanes = Formation(THREE, room, 10.0, 0.8, complete, by_deadline).choose()
    assert first.lane in lanes
    assert bucket in THREE.useful(lanes[-1])
    assert list(lanes) == sorted({lane for lane in lanes if lane is not None})
    assert all(room.rows[lane] for lane in lanes)
    assert room.take(lanes, bucket.rows, by_deadline=by_deadline)[0].request is first
