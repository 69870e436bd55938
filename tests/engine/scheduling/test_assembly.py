"""Which bucket, and rows of which lengths: one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.assembly import BatchAssembler
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.request_queue import DEFAULT_PRIORITY, Order, RequestQueue


@dataclass(frozen=True, eq=False)
class Request:
    """What the assembler reads of a request."""

    rows: int
    bucket_length: int | None = None
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
EXPENSIVE_TO_SHARE = lengths(1.0, 8.0)
THREE = CostTable(
    {Bucket(rows, length): (0.9 + rows / 80) * scale for rows in (1, 8) for length, scale in
     ((16, 1.0), (32, 1.05), (64, 1.1))}
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A queue while the device is free from 10 on, and the choice as `bucket: lengths`."""

    expected: str
    queued: Iterable[Request]
    costs: CostTable = ONE
    complete: bool = False
    order: Order = Order.SMALL_FIRST

    def chosen(self) -> str:
        queue: RequestQueue[Request] = RequestQueue(
            dict.fromkeys(cost.length for cost in self.costs.lines())
        )
        for request in self.queued:
            queue.add(request)
        assembler = BatchAssembler(self.costs, queue, 10.0, 0.8, self.complete, self.order)
        bucket, bucket_lengths = assembler.choose()
        return f"{bucket}: {' '.join(map(str, bucket_lengths))}"


TABLE = {
    # one length
    "the-bucket-of-the-policy": Case("8: None", [Request(8)]),
    "the-bucket-of-the-policy-for-one-row": Case("1: None", [Request(1)]),
    "the-policy-expects-later-arrivals": Case("1: None", [Request(1), Request(2)]),
    "one-request-alone-is-answered-with-its-last-row": Case("8: None", [Request(3)]),
    "when-no-more-arrive-the-cheapest-partition": Case(
        "8: None", [Request(1), Request(2)], complete=True
    ),
    "more-than-all-buckets": Case("16: None", [Request(500)]),
    # sharing
    "two-that-share-the-longer-bucket": Case(
        "8x64: 16 64", [Request(4, 16), Request(4, 64)], CHEAP_TO_SHARE
    ),
    "whichever-is-first": Case("8x64: 16 64", [Request(4, 64), Request(4, 16)], CHEAP_TO_SHARE),
    "separately-where-the-longer-is-expensive": Case(
        "8x16: 16", [Request(7, 16), Request(1, 64)], EXPENSIVE_TO_SHARE
    ),
    "the-longer-first-if-it-is-first": Case(
        "1x64: 64", [Request(1, 64, 500.0), Request(7, 16)], EXPENSIVE_TO_SHARE
    ),
    "two-full-ones-have-nothing-to-share": Case(
        "8x16: 16", [Request(8, 16), Request(8, 64)], CHEAP_TO_SHARE
    ),
    "a-shorter-row-fills-a-free-place": Case(
        "8x64: 16 64", [Request(7, 64), Request(1, 16)], CHEAP_TO_SHARE
    ),
    "three-neighbours-together": Case(
        "8x64: 16 32 64", [Request(2, 16), Request(2, 32), Request(3, 64)], THREE
    ),
    "an-empty-length-between-them-does-not-matter": Case(
        "8x64: 16 64", [Request(2, 16), Request(3, 64)], THREE
    ),
    # in time
    "a-small-urgent-one-goes-first-if-all-others-can-wait": Case(
        "1: None", [Request(1, deadline=10.75), Request(15, deadline=20.0)]
    ),
    "and-not-if-one-of-them-cannot": Case(
        "16: None", [Request(1, deadline=10.75), Request(15, deadline=11.75)]
    ),
    "the-bucket-with-the-least-device-time-and-of-equals-the-larger": Case(
        "8: None", [Request(1, deadline=11.25), Request(15, deadline=20.0)]
    ),
    "a-request-that-is-late-anyway-changes-nothing": Case(
        "16: None", [Request(1, deadline=10.25), Request(15, deadline=20.0)]
    ),
    "more-urgent-rows-than-a-small-bucket-holds": Case(
        "16: None", [Request(9, deadline=11.25), Request(7, deadline=20.0)]
    ),
    "padding-up-if-rows-left-over-would-be-late": Case(
        "8: None", [Request(1, deadline=11.25), Request(2, deadline=11.25)]
    ),
    "and-not-if-rows-left-over-can-wait": Case(
        "1: None", [Request(1, deadline=12.0), Request(2, deadline=12.0)]
    ),
    "exactly-in-time": Case("16: None", [Request(1, deadline=11.5), Request(15, deadline=20.0)]),
    "under-overload-where-all-are-late-the-policy-stands": Case(
        "16: None", [Request(8, deadline=10.75), Request(40, deadline=11.25)]
    ),
    # priorities
    "of-several-priorities-the-highest": Case(
        "1x64: 64", [Request(1, 16, 20.0), Request(1, 64, 90.0, priority=1)], EXPENSIVE_TO_SHARE
    ),
    "by-deadline-the-earliest": Case(
        "1x16: 16",
        [Request(1, 16, 20.0), Request(1, 64, 90.0, priority=1)],
        EXPENSIVE_TO_SHARE,
        order=Order.DEADLINE,
    ),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_a_batch_is_chosen(case: Case) -> None:
    assert case.chosen() == case.expected


requests = st.builds(
    Request,
    rows=st.integers(1, 12),
    bucket_length=st.sampled_from([16, 32, 64]),
    deadline=st.integers(9, 20).map(float),
    priority=st.sampled_from([1, 5]),
)


@settings(deadline=None)
@given(
    queued=st.lists(requests, min_size=1, max_size=12),
    complete=st.booleans(),
    order=st.sampled_from(Order),
)
def test_the_batch_contains_the_first_request_and_its_lengths_fit_the_bucket(
    queued: list[Request], complete: bool, order: Order
) -> None:
    queue: RequestQueue[Request] = RequestQueue((16, 32, 64))
    for request in queued:
        queue.add(request)
    first = queue.first(order)
    bucket, bucket_lengths = BatchAssembler(THREE, queue, 10.0, 0.8, complete, order).choose()
    assert first.bucket_length in bucket_lengths
    assert bucket in THREE.useful(bucket_lengths[-1])
    assert list(bucket_lengths) == sorted(
        {bucket_length for bucket_length in bucket_lengths if bucket_length is not None}
    )
    assert all(queue.rows[bucket_length] for bucket_length in bucket_lengths)
    assert queue.take(bucket_lengths, bucket.rows, order)[0].request is first
