"""The queued requests: by priority, then earliest deadline first.

Each pair of priority and bucket length has a queue of its own, sorted by deadline. Rows are taken
from the fronts of these queues only, and a request may be split at any row: its remaining rows stay
at the front.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import chain
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

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

    def __init__(self, bucket_lengths: Iterable[int | None], places: int = UNLIMITED) -> None:
        self.closed = False
        self.places = Places(places)
        self.rows: dict[int | None, int] = dict.fromkeys(bucket_lengths, 0)
        self.total_rows = 0
        # priority -> bucket length -> queue
        self._queues: dict[int, dict[int | None, list[Entry[R]]]] = {}
        self._numbers: dict[R, int] = {}
        self._taken: dict[R, int] = {}  # rows taken already, of the requests that were split
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[R]:
        return iter(self._numbers)

    def add(self, request: R) -> None:
        """Queue a request."""
        self._arrivals += 1
        self._numbers[request] = self._arrivals
        queue = self._level(request.priority)[request.bucket_length]
        insort(queue, (request.deadline, self._arrivals, request))
        self.rows[request.bucket_length] += request.rows
        self.total_rows += request.rows
        self.places.enter(request.rows)

    def append(self, requests: Sequence[R], rows: int) -> None:
        """Queue requests of one priority and bucket length, `rows` rows together, none of them so
        large that it is divided. Each is due at the same time as the one before it or later, and
        the first as the last of its queue.
        """
        first = requests[0]
        numbers = range(self._arrivals + 1, self._arrivals + 1 + len(requests))
        self._arrivals += len(requests)
        self._numbers.update(zip(requests, numbers, strict=True))
        queue = self._level(first.priority)[first.bucket_length]
        queue += [
            (request.deadline, n, request) for n, request in zip(numbers, requests, strict=True)
        ]
        self.rows[first.bucket_length] += rows
        self.total_rows += rows

    def _level(self, priority: int) -> dict[int | None, list[Entry[R]]]:
        queues = self._queues.get(priority)
        if queues is None:
            queues = self._queues[priority] = {length: [] for length in self.rows}
            self._queues = dict(sorted(self._queues.items()))
        return queues

    def discard(self, request: R) -> None:
        """Remove the queued rows of a request, if there are any."""
        number = self._numbers.pop(request, None)
        if number is None:
            return
        queue = self._queues[request.priority][request.bucket_length]
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

    def first(self, *, by_deadline: bool = False) -> R:
        """The next request: the earliest deadline of the highest priority, or of all."""
        return next(self._in_order(self.rows, by_deadline))[2]

    def rows_left(self, request: R) -> int:
        """How many rows of a queued request have not been taken."""
        return request.rows - self._taken.get(request, 0)

    def _in_order(self, lengths: Lengths, by_deadline: bool) -> Iterator[Entry[R]]:
        if len(lengths) == len(self._queues) == 1:
            (queues,), (length,) = self._queues.values(), lengths
            return iter(queues[length])
        levels = [
            [queues[length] for length in lengths if queues[length]]
            for queues in self._queues.values()
        ]
        if len(levels) == len(lengths) == 1:
            return chain.from_iterable(levels[0])
        if by_deadline:
            return merge(*chain.from_iterable(levels))
        return chain.from_iterable(
            level[0] if len(level) == 1 else merge(*level) for level in levels if level
        )

    def meets_deadlines(
        self, lengths: Lengths, batches: Iterator[tuple[int, float]], *, by_deadline: bool
    ) -> bool:
        """Whether these batches, filled in order, answer all rows of these lengths in time.
        `batches` yields the rows and the end of each, without end.
        """
        room, ends_at = next(batches)
        for deadline, _, request in self._in_order(lengths, by_deadline):
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
        ends = [(p, q[-1][0]) for p, queues in self._queues.items() for q in queues.values() if q]
        return max(ends, default=(0, 0.0))

    def peek(self, lengths: Lengths, rows: int, *, by_deadline: bool) -> list[RowSlice[R]]:
        """The next rows of these bucket lengths, `rows` at most, in order."""
        slices: list[RowSlice[R]] = []
        taken = self._taken
        for _, _, request in self._in_order(lengths, by_deadline):
            start = taken.get(request, 0) if taken else 0
            count = min(rows, request.rows - start)
            slices.append(RowSlice(request, start, count))
            rows -= count
            if not rows:
                break
        return slices

    def take(self, lengths: Lengths, rows: int, *, by_deadline: bool) -> tuple[RowSlice[R], ...]:
        """Remove and return the rows that `peek` returns."""
        slices = self.peek(lengths, rows, by_deadline=by_deadline)
        left, part, done = self.rows, self.places.part, Counter[tuple[int, int | None]]()
        for request, start, count in slices:
            left[request.bucket_length] -= count
            self.total_rows -= count
            if request.rows > part:
                self.places.take(request.rows - start, count)
            if start + count == request.rows:
                done[request.priority, request.bucket_length] += 1
                del self._numbers[request]
                self._taken.pop(request, None)
            else:
                self._taken[request] = start + count
        for (priority, length), requests in done.items():
            # rows are taken from the front of a queue only
            del self._queues[priority][length][:requests]
        return tuple(slices)

    def rows_ahead(self, request: Queued) -> RowsByLength:
        """Rows, by bucket length, that would be taken before those of a request not yet queued;
        `self.rows` itself where that is every row.
        """
        if self.is_last(request):
            return self.rows
        last = (request.deadline, self._arrivals + 1)
        return {n: self._length_ahead(n, request.priority, last) for n in self.rows}

    def is_last(self, request: Queued) -> bool:
        """Whether a request not queued yet would be taken after all others."""
        priority, deadline = request.priority, request.deadline
        for level, queues in self._queues.items():
            if level >= priority:
                for queue in queues.values():
                    if queue and (level > priority or queue[-1][0] > deadline):
                        return False
        return True

    def _length_ahead(self, length: int | None, priority: int, last: tuple[float, int]) -> int:
        rows = 0
        for level, queues in self._queues.items():
            if level <= priority:
                queue = queues[length]
                end = len(queue) if level < priority else bisect_left(queue, last)
                rows += sum(self.rows_left(request) for _, _, request in queue[:end])
        return rows

    def requests_behind(self, request: Queued) -> Iterator[R]:
        """Requests of its priority, in order, that a request not yet queued would precede."""
        last = (request.deadline, self._arrivals + 1)
        queues = self._queues.get(request.priority, {})
        tails = [queue[bisect_left(queue, last) :] for queue in queues.values()]
        return (other for _, _, other in merge(*filter(None, tails)))
