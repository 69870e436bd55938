"""The queued requests, and the orders in which their rows may be taken.

Each combination of priority, size and bucket length has a queue of its own, sorted by deadline.
Rows are taken from the fronts of these queues only, and a request may be split at any row: its
remaining rows stay at the front.

The *size* of a request is 0 if its rows fit into one batch; such a request is *small*, any other
*large*. It is one more each time that the number of batches doubles.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from heapq import merge
from itertools import chain
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from engine.scheduling.places import UNLIMITED, Places

LOWEST_PRIORITY: Final = 9  # 1 is the highest
DEFAULT_PRIORITY: Final = 5

Lengths = Collection[int | None]
RowsByLength = Mapping[int | None, int]


class Queued(Protocol):
    """What the scheduler reads of a request.

    rows           number of rows
    bucket_length  the bucket length that its longest row needs
    deadline       by when it must be answered, in seconds on the scheduler's clock
    priority       1 is the highest
    """

    rows: int
    bucket_length: int | None
    deadline: float
    priority: int


R = TypeVar("R", bound=Queued)
R_co = TypeVar("R_co", bound=Queued, covariant=True)

Entry = tuple[float, int, R]  # deadline, arrival number, request; sorted by deadline, then arrival
Level = tuple[int, int]  # priority and size


class Order(Enum):
    """Which request is taken before which.

    SMALL_FIRST  by priority, then by size, then the earliest deadline
    PRIORITY     by priority, then the earliest deadline
    DEADLINE     the earliest deadline alone
    """

    SMALL_FIRST = 0
    PRIORITY = 1
    DEADLINE = 2


class RowSlice(NamedTuple, Generic[R_co]):
    """`count` rows of `request` from its row `start`."""

    request: R_co
    start: int
    count: int  # type: ignore[assignment]  # it hides `tuple.count`


class RequestQueue(Generic[R]):
    """A priority queue of requests whose rows are taken one by one. Not thread-safe.

    Invariants:
      - `rows[length]` is the sum of the queued rows of that bucket length, `total_rows` that of all
        lengths, `len` the number of requests
      - deadlines never decrease along a queue, and equal deadlines keep the order of arrival
      - a request is in one queue, from `add` until its last row is taken or it is discarded
      - `places.held` are the rows beyond `places.part` of each queued request
    """

    def __init__(
        self,
        bucket_lengths: Iterable[int | None],
        places: int = UNLIMITED,
        batch_rows: RowsByLength | None = None,
    ) -> None:
        """`batch_rows` are the rows of one batch of each length; without, every size is 0."""
        self.closed = False
        self.places = Places(places)
        self.rows: dict[int | None, int] = dict.fromkeys(bucket_lengths, 0)
        self.total_rows = 0
        self.batch_rows = dict.fromkeys(self.rows, UNLIMITED) if batch_rows is None else batch_rows
        self.large = 0  # how many large requests are queued
        # level -> bucket length -> queue
        self._queues: dict[Level, dict[int | None, list[Entry[R]]]] = {}
        self._numbers: dict[R, int] = {}
        self._taken: dict[R, int] = {}  # rows taken already, of the requests that were split
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, request: object) -> bool:
        return request in self._numbers

    def __iter__(self) -> Iterator[R]:
        return iter(self._numbers)

    def add(self, request: R) -> None:
        """Queue a request."""
        self._arrivals += 1
        self._numbers[request] = self._arrivals
        level = self._level_of(request)
        self.large += level[1] > 0
        queue = self._level(level)[request.bucket_length]
        insort(queue, (request.deadline, self._arrivals, request))
        self.rows[request.bucket_length] += request.rows
        self.total_rows += request.rows
        self.places.enter(request.rows)

    def append(self, requests: Sequence[R], rows: int) -> None:
        """Queue small requests of one priority and bucket length, `rows` rows together, none of
        which is divided. Each is due at the same time as the one before it or later, and the first
        as the last of its queue.
        """
        first = requests[0]
        numbers = range(self._arrivals + 1, self._arrivals + 1 + len(requests))
        self._arrivals += len(requests)
        self._numbers.update(zip(requests, numbers, strict=True))
        queue = self._level((first.priority, 0))[first.bucket_length]
        queue += [
            (request.deadline, n, request) for n, request in zip(numbers, requests, strict=True)
        ]
        self.rows[first.bucket_length] += rows
        self.total_rows += rows

    def _level_of(self, request: Queued) -> Level:
        rows, batch = request.rows, self.batch_rows[request.bucket_length]
        return request.priority, (((rows - 1) // batch).bit_length() if rows > batch else 0)

    def _level(self, level: Level) -> dict[int | None, list[Entry[R]]]:
        queues = self._queues.get(level)
        if queues is None:
            queues = self._queues[level] = {length: [] for length in self.rows}
            self._queues = dict(sorted(self._queues.items()))
        return queues

    def discard(self, request: R) -> None:
        """Remove the queued rows of a request, if there are any."""
        number = self._numbers.pop(request, None)
        if number is None:
            return
        level = self._level_of(request)
        self.large -= level[1] > 0
        queue = self._queues[level][request.bucket_length]
        del queue[bisect_left(queue, (request.deadline, number))]
        left = request.rows - self._taken.pop(request, 0)
        if request.rows > self.places.part:
            self.places.take(left, left)
        self.rows[request.bucket_length] -= left
        self.total_rows -= left

    def has_room(self, rows: int) -> bool:
        """Whether a request of so many rows may be queued."""
        return self.places.fit(rows, self.places_taken, self.places.divided)

    @property
    def places_taken(self) -> int:
        """How many places the queued rows take."""
        return self.total_rows - self.places.held

    def first(self, order: Order = Order.SMALL_FIRST) -> R:
        """The next request."""
        return next(self._in_order(self.rows, order))[2]

    def rows_left(self, request: R) -> int:
        """How many rows of a queued request have not been taken."""
        return request.rows - self._taken.get(request, 0)

    def _in_order(self, lengths: Lengths, order: Order) -> Iterator[Entry[R]]:
        if len(lengths) == len(self._queues) == 1:
            (queues,), (length,) = self._queues.values(), lengths
            return iter(queues[length])
        groups: dict[Any, list[list[Entry[R]]]] = {}  # in order; each is taken by deadline
        for level, queues in self._queues.items():
            filled = [queues[length] for length in lengths if queues[length]]
            if filled:
                key = level if order is Order.SMALL_FIRST else order is Order.PRIORITY and level[0]
                groups.setdefault(key, []).extend(filled)
        return chain.from_iterable(
            group[0] if len(group) == 1 else merge(*group) for group in groups.values()
        )

    def large_in_order(self) -> Iterator[R]:
        """The large requests, as `SMALL_FIRST` takes them."""
        for (_, size), queues in self._queues.items():
            if size:
                yield from (request for _, _, request in merge(*queues.values()))

    def first_large_deadline(self) -> float:
        """The earliest deadline of a large request. There must be one."""
        return min(
            queue[0][0]
            for (_, size), queues in self._queues.items()
            for queue in queues.values()
            if size and queue
        )

    def meets_deadlines(
        self, lengths: Lengths, batches: Iterator[tuple[int, float]], order: Order
    ) -> bool:
        """Whether these batches, filled in order, answer all rows of these lengths in time.
        `batches` yields the rows and the end of each, without end.
        """
        room, ends_at = next(batches)
        for deadline, _, request in self._in_order(lengths, order):
            if deadline < ends_at:
                return False
            room -= self.rows_left(request)
            while room < 0:
                rows, ends_at = next(batches)
                room += rows
            if deadline < ends_at:
                return False
            if not room:
                room, ends_at = next(batches)
        return True

    @property
    def last(self) -> tuple[int, float]:
        """The lowest priority in the queue, and its latest deadline; (0, 0) if it is empty."""
        ends = [
            (p, q[-1][0]) for (p, _), queues in self._queues.items() for q in queues.values() if q
        ]
        return max(ends, default=(0, 0.0))

    def peek(
        self, lengths: Lengths, rows: int, order: Order = Order.SMALL_FIRST
    ) -> list[RowSlice[R]]:
        """The next rows of these bucket lengths, `rows` at most, in order."""
        slices: list[RowSlice[R]] = []
        taken = self._taken
        for _, _, request in self._in_order(lengths, order):
            start = taken.get(request, 0) if taken else 0
            count = min(rows, request.rows - start)
            slices.append(RowSlice(request, start, count))
            rows -= count
            if not rows:
                break
        return slices

    def take(
        self, lengths: Lengths, rows: int, order: Order = Order.SMALL_FIRST
    ) -> tuple[RowSlice[R], ...]:
        """Remove and return the rows that `peek` returns."""
        slices = self.peek(lengths, rows, order)
        left, part = self.rows, self.places.part
        for request, start, count in slices:
            left[request.bucket_length] -= count
            self.total_rows -= count
            if request.rows > part:
                self.places.take(request.rows - start, count)
            if start + count == request.rows:
                del self._numbers[request]
                self._taken.pop(request, None)
            else:
                self._taken[request] = start + count
        for (_, size), queues in self._queues.items():
            for length in lengths:
                gone = self._drop_taken(queues[length])
                self.large -= gone if size else 0
        return tuple(slices)

    def _drop_taken(self, queue: list[Entry[R]]) -> int:
        """Remove the requests whose last rows were taken. They are at the front."""
        numbers, gone = self._numbers, 0
        for _, _, request in queue:
            if request in numbers:
                break
            gone += 1
        del queue[:gone]
        return gone

    def rows_ahead(self, request: Queued) -> RowsByLength:
        """Rows, by bucket length, that `PRIORITY` takes before those of a request not yet queued;
        `self.rows` itself where that is every row.
        """
        if self.is_last(request):
            return self.rows
        last = (request.deadline, self._arrivals + 1)
        return {n: self._length_ahead(n, request.priority, last) for n in self.rows}

    def is_last(self, request: Queued) -> bool:
        """Whether `PRIORITY` takes a request not queued yet after all others."""
        priority, deadline = request.priority, request.deadline
        for (level, _), queues in self._queues.items():
            if level >= priority:
                for queue in queues.values():
                    if queue and (level > priority or queue[-1][0] > deadline):
                        return False
        return True

    def _length_ahead(self, length: int | None, priority: int, last: tuple[float, int]) -> int:
        rows = 0
        for (level, _), queues in self._queues.items():
            if level <= priority:
                queue = queues[length]
                end = len(queue) if level < priority else bisect_left(queue, last)
                rows += sum(self.rows_left(request) for _, _, request in queue[:end])
        return rows

    def requests_behind(self, request: Queued) -> Iterator[R]:
        """Requests of its priority that `PRIORITY` takes after one not yet queued, in order."""
        last = (request.deadline, self._arrivals + 1)
        tails = [
            queue[bisect_left(queue, last) :]
            for (level, _), queues in self._queues.items()
            if level == request.priority
            for queue in queues.values()
        ]
        return (other for _, _, other in merge(*filter(None, tails)))
