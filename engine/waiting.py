"""Who waits, and in which order: the earliest deadline first, inside a priority.

May touch: nothing.

A request waits in the *line* of its priority and its lane (the bucket length that it needs). A
line is sorted by deadline, so whoever is taken stands at the front of a line, and a request may be
cut at any row: what is left of it stays at the front.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from itertools import chain
from typing import Final, Generic, Protocol, TypeVar

LOWEST_PRIORITY: Final = 9
DEFAULT_PRIORITY: Final = 5
"""Priorities go from 1, the highest, to 9."""


class Queued(Protocol):
    """What the policy sees of a request. `priority` 1 is the highest."""

    @property
    def rows(self) -> int: ...
    @property
    def lane(self) -> int | None: ...
    @property
    def enqueued_at(self) -> float: ...
    @property
    def deadline(self) -> float: ...
    @property
    def priority(self) -> int: ...


R = TypeVar("R", bound=Queued)
R_co = TypeVar("R_co", bound=Queued, covariant=True)


@dataclass(frozen=True, slots=True)
class Piece(Generic[R_co]):
    """`count` rows of `request` from its row `start`."""

    request: R_co
    start: int
    count: int


class WaitingRoom(Generic[R]):
    """Invariants:
      - `rows[lane]` is the sum of the rows that wait there, `all_rows` that of all lanes,
        `len` that of the requests
      - inside a line deadlines never decrease, and equal deadlines keep the order of arrival
      - a request is in one line, from `add` until its last row is taken or it is discarded

    Not thread-safe.
    """

    def __init__(self, lanes: Iterable[int | None]) -> None:
        self.rows: dict[int | None, int] = dict.fromkeys(lanes, 0)
        self.all_rows = 0
        # priority -> lane -> (deadline, number of arrival, request)
        self._lines: dict[int, dict[int | None, list[tuple[float, int, R]]]] = {}
        self._numbers: dict[R, int] = {}
        self._cut: dict[R, int] = {}  # request -> its first row that still waits, if not 0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[R]:
        return iter(self._numbers)

    def add(self, request: R) -> None:
        """Let it wait."""
        self._arrivals += 1
        self._numbers[request] = self._arrivals
        lines = self._lines.get(request.priority)
        if lines is None:
            lines = self._lines[request.priority] = {lane: [] for lane in self.rows}
            self._lines = dict(sorted(self._lines.items()))
        insort(lines[request.lane], (request.deadline, self._arrivals, request))
        self.rows[request.lane] += request.rows
        self.all_rows += request.rows

    def discard(self, request: R) -> None:
        """Forget what still waits of it; nothing happens when nothing does."""
        number = self._numbers.pop(request, None)
        if number is None:
            return
        line = self._lines[request.priority][request.lane]
        del line[bisect_left(line, (request.deadline, number))]
        left = request.rows - self._cut.pop(request, 0)
        self.rows[request.lane] -= left
        self.all_rows -= left

    def first(self, *, by_deadline: bool = False) -> R:
        """Who is next: of the highest priority, or of all, the one with the earliest deadline."""
        return next(self._in_order(self.rows, by_deadline))[2]

    def left(self, request: R) -> int:
        """How many of its rows wait."""
        return request.rows - self._cut.get(request, 0)

    def _in_order(
        self, lanes: Collection[int | None], by_deadline: bool
    ) -> Iterator[tuple[float, int, R]]:
        levels = [[lines[lane] for lane in lanes if lines[lane]] for lines in self._lines.values()]
        if len(levels) == len(lanes) == 1:
            return chain.from_iterable(levels[0])
        if by_deadline:
            return merge(*chain.from_iterable(levels))
        return chain.from_iterable(
            level[0] if len(level) == 1 else merge(*level) for level in levels if level
        )

    def mix(
        self, lanes: Collection[int | None], rows: int, *, by_deadline: bool
    ) -> list[int | None]:
        """The lanes of the next rows of these lanes, `rows` at most, in their order."""
        found: list[int | None] = []
        for _, _, request in self._in_order(lanes, by_deadline):
            found += [request.lane] * min(self.left(request), rows - len(found))
            if len(found) >= rows:
                break
        return found

    def in_time(
        self,
        lanes: Collection[int | None],
        batches: Iterator[tuple[int, float]],
        *,
        by_deadline: bool,
    ) -> bool:
        """Would all rows of these lanes be in time, taken in their order by these batches?

        `batches` are rows and the moment of the end of each, without an end.
        """
        room, ends_at = next(batches)
        for deadline, _, request in self._in_order(lanes, by_deadline):
            if deadline < ends_at:
                return False
            room -= self.left(request)
            while room < 0:
                rows, ends_at = next(batches)
                room += rows
            if deadline < ends_at:
                return False
            if not room:
                room, ends_at = next(batches)
        return True

    def take(
        self, lanes: Collection[int | None], rows: int, *, by_deadline: bool
    ) -> tuple[Piece[R], ...]:
        """Take the next rows of these lanes out, `rows` at most, in their order."""
        pieces: list[Piece[R]] = []
        for _, _, request in self._in_order(lanes, by_deadline):
            start = self._cut.get(request, 0)
            count = min(rows, request.rows - start)
            pieces.append(Piece(request, start, count))
            rows -= count
            if not rows:
                break
        for piece in pieces:
            self._remove(piece)
        return tuple(pieces)

    def _remove(self, piece: Piece[R]) -> None:
        request, end = piece.request, piece.start + piece.count
        if end == request.rows:
            # whoever is taken stands at the front of a line
            del self._lines[request.priority][request.lane][0]
            del self._numbers[request]
            self._cut.pop(request, None)
        else:
            self._cut[request] = end
        self.rows[request.lane] -= piece.count
        self.all_rows -= piece.count

    def ahead(self, request: Queued) -> Mapping[int | None, int]:
        """The rows that would be taken before those of a request that is not there yet."""
        last = (request.deadline, self._arrivals + 1)
        for level, lines in self._lines.items():
            if level >= request.priority:
                for line in lines.values():
                    if line and (level > request.priority or line[-1] > last):
                        return {
                            lane: self._ahead(lane, request.priority, last) for lane in self.rows
                        }
        return self.rows

    def _ahead(self, lane: int | None, priority: int, last: tuple[float, int]) -> int:
        rows = 0
        for level, lines in self._lines.items():
            if level <= priority:
                line = lines[lane]
                end = len(line) if level < priority else bisect_left(line, last)
                rows += sum(self.left(request) for _, _, request in line[:end])
        return rows

    def behind(self, request: Queued) -> Iterator[R]:
        """Those of its priority that a request that is not there yet would be taken before."""
        last = (request.deadline, self._arrivals + 1)
        lines = self._lines.get(request.priority, {})
        tails = [line[bisect_left(line, last) :] for line in lines.values()]
        return (other for _, _, other in merge(*filter(None, tails)))
