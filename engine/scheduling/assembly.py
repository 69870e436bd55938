"""Chooses the next batch: which bucket, and the rows of which bucket lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic

from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.scheduling.request_queue import Order, R, RequestQueue, RowsByLength

Lengths = tuple[int | None, ...]

ROUNDING_S: Final = 1e-6  # a batch may end so much after a deadline: sums of times are not exact


@dataclass(slots=True)  # not frozen: that would double the cost of making one
class BatchAssembler(Generic[R]):
    """How the next batch is formed from the queue.

    start_at     when the device is free
    load         device-seconds per second that arrive
    complete     no more requests are expected: the queue is closed, or has all of a closed loop
    order        of the requests; the first of them is always in the batch
    """

    costs: CostTable
    queue: RequestQueue[R]
    start_at: float
    load: float
    complete: bool
    order: Order

    def choose(self) -> tuple[Bucket, Lengths]:
        """The bucket, and the bucket lengths whose next rows fill it. The queue must not be empty.

        A batch always contains the first request. Rows of neighbouring lengths may share the bucket
        of the longest, where that batch and the rest take less device time than any other choice.
        """
        first = self.queue.first(self.order).bucket_length
        queued = {length: rows for length, rows in self.queue.rows.items() if rows}
        lengths: Lengths = (first,)
        if len(queued) == 1:
            bucket = self._bucket(first, queued[first])
        else:
            choices = self._choices(first, queued)
            bucket, lengths = min(choices, key=lambda choice: self._total_seconds(queued, *choice))
        return self._in_time(bucket, lengths), lengths

    def _bucket(self, length: int | None, rows: int) -> Bucket:
        # a request is answered with its last row: alone it finishes first by the cheapest partition
        if self.complete or len(self.queue) == 1:
            return self.costs.partition_bucket(length, rows)
        return self.costs.policy_bucket(length, rows, self.load)

    def _choices(self, first: int | None, queued: RowsByLength) -> Iterator[tuple[Bucket, Lengths]]:
        """Every run of queued lengths around `first`, each with two buckets: for the rows of all
        of them, and for those of the longest, which others may fill up.
        """
        order = tuple(queued)
        at = order.index(first)
        for low in range(at, -1, -1):
            for high in range(at, len(order)):
                lengths = order[low : high + 1]
                for rows in {queued[lengths[-1]], sum(queued[length] for length in lengths)}:
                    yield self._bucket(lengths[-1], rows), lengths

    def _total_seconds(self, queued: RowsByLength, bucket: Bucket, lengths: Lengths) -> float:
        """Device-seconds of this batch and then of the remaining rows, each length separately."""
        left = dict(queued)
        for row_slice in self.queue.peek(lengths, bucket.rows, self.order):
            left[row_slice.request.bucket_length] -= row_slice.count
        rest = sum(self.costs.min_device_seconds(length, rows) for length, rows in left.items())
        return self.costs.seconds(bucket) + rest

    def _in_time(self, chosen: Bucket, lengths: Lengths) -> Bucket:
        """The bucket with the least device time by which every row meets its deadline.

        It is `chosen` where that one does, and where none does: hurrying for one request would then
        delay others, and under overload all of them.
        """
        if self._meets_deadlines(chosen, lengths):
            return chosen
        costs, length = self.costs, chosen.length
        rows = sum(self.queue.rows[length] for length in lengths)

        def order(bucket: Bucket) -> tuple[float, int]:
            rest = costs.min_device_seconds(length, max(0, rows - bucket.rows))
            return costs.seconds(bucket) + rest, -bucket.rows

        others = sorted(costs.useful(length), key=order)
        return next((b for b in others if self._meets_deadlines(b, lengths)), chosen)

    def _meets_deadlines(self, bucket: Bucket, lengths: Lengths) -> bool:
        batches = self._batches(bucket)
        return self.queue.meets_deadlines(lengths, batches, self.order)

    def _batches(self, bucket: Bucket) -> Iterator[tuple[int, float]]:
        """Rows and end of `bucket`, and then of the best one repeatedly, as admission predicts."""
        best = self.costs.best(bucket.length)
        ends_at = self.start_at + self.costs.seconds(bucket) - ROUNDING_S
        yield bucket.rows, ends_at
        while True:
            ends_at += self.costs.seconds(best)
            yield best.rows, ends_at
