"""The policy: what should the device do next? Numbers only.

May touch: nothing; no clock, lock, thread, JAX or numpy. Time is an argument.

The rows of a request wait in the *lane* of their bucket length, first come, first served, and a
request may be cut at any row: its remainder stays at the front, which never makes it later.
`poll(now)` answers with one of four values and the batcher's thread does what it says.

The rules, in order:

1. What is past its deadline leaves (`Expire`).
2. With `depth` batches in flight nothing is launched.
3. A lane launches when it is *full* (its best bucket can be filled), when the device is *idle*
   (nothing in flight; `hold` switches this off), when its oldest row has waited for
   `max_wait_s` (*window*), or when the queue is closed (*drain*). Of several such lanes the one
   whose oldest row is older goes first.
4. The bucket is the one with the least seconds per real row (`CostTable.cheapest`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from engine.buckets import Bucket
from engine.costs import CostTable

Reason = Literal["full", "idle", "window", "drain"]


class Queued(Protocol):
    """What the policy sees of a request."""

    @property
    def rows(self) -> int: ...
    @property
    def lane(self) -> int | None: ...
    @property
    def enqueued_at(self) -> float: ...
    @property
    def deadline(self) -> float: ...


R = TypeVar("R", bound=Queued)
R_co = TypeVar("R_co", bound=Queued, covariant=True)


@dataclass(frozen=True, slots=True)
class Piece(Generic[R_co]):
    """`count` rows of `request` from its row `start`."""

    request: R_co
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Launch(Generic[R_co]):
    """Run these rows, in this order, in this bucket."""

    bucket: Bucket
    pieces: tuple[Piece[R_co], ...]
    reason: Reason

    @property
    def rows(self) -> int:
        """Real rows."""
        return sum(piece.count for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Expire(Generic[R_co]):
    """These have left the queue because their deadline has passed."""

    requests: tuple[R_co, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`, or before something happens (None)."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Stop:
    """The queue is closed and empty."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers that the rules above speak of."""

    max_wait_s: float
    hold: bool
    max_rows: int
    depth: int


class BatchQueue(Generic[R]):
    """Rows that wait, and how many batches are on their way.

    Invariants:
      - `queued_rows` is the sum of the rows that wait and never exceeds `policy.max_rows`
      - every row offered leaves exactly once: in a `Launch`, in an `Expire`, by `discard`,
        or by `clear`
      - once closed, `offer` is a bug and `poll` waits only for batches in flight
      - `_earliest` is at most the earliest deadline of a request that waits

    Not thread-safe: whoever holds the batcher's lock owns it.
    """

    def __init__(self, policy: Policy, costs: CostTable, lanes: tuple[int | None, ...]) -> None:
        self._policy = policy
        self._costs = costs
        # request -> its first row that still waits, by lane, oldest request first
        self._lanes: Mapping[int | None, OrderedDict[R, int]] = {
            lane: OrderedDict() for lane in lanes
        }
        self._rows: dict[int | None, int] = dict.fromkeys(lanes, 0)
        self._earliest = float("inf")
        self.closed = False
        self.in_flight = 0

    def __repr__(self) -> str:
        rows = ", ".join(f"{lane}: {rows}" for lane, rows in self._rows.items())
        closed = ", closed" if self.closed else ""
        return f"<BatchQueue rows {{{rows}}}, {self.in_flight} in flight{closed}>"

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return sum(self._rows.values())

    @property
    def queued_requests(self) -> int:
        """Requests with at least one row that waits."""
        return sum(len(lane) for lane in self._lanes.values())

    def has_room(self, rows: int) -> bool:
        """May `rows` more be offered?"""
        return self.queued_rows + rows <= self._policy.max_rows

    @property
    def may_launch(self) -> bool:
        """Could a row more change what `poll` answers? Not while `depth` batches are in flight."""
        return self.in_flight < self._policy.depth

    def drain_seconds(self) -> float:
        """How long the device needs for what waits now."""
        return self._costs.drain_seconds(self._rows)

    def offer(self, request: R) -> None:
        """Let a request wait. The caller has asked `has_room` and `closed` under the same lock."""
        if self.closed or not self.has_room(request.rows):
            raise AssertionError(f"{self!r} cannot take {request!r}; this is a bug")
        self._lanes[request.lane][request] = 0
        self._rows[request.lane] += request.rows
        self._earliest = min(self._earliest, request.deadline)

    def discard(self, request: R) -> None:
        """Forget what still waits of `request`; nothing happens when nothing does."""
        start = self._lanes[request.lane].pop(request, None)
        if start is not None:
            self._rows[request.lane] -= request.rows - start

    def clear(self) -> tuple[R, ...]:
        """Take out everybody who waits."""
        everybody = tuple(request for lane in self._lanes.values() for request in lane)
        for request in everybody:
            self.discard(request)
        return everybody

    def close(self) -> None:
        """No more offers; what waits is launched without waiting for company."""
        self.closed = True

    def landed(self) -> None:
        """A batch has come back from the device."""
        self.in_flight -= 1

    def poll(self, now: float) -> Launch[R] | Expire[R] | Wait | Stop:
        """What to do at `now`. A `Launch` counts as in flight until `landed`."""
        expired = self._expire(now)
        if expired:
            return Expire(expired)
        until = self._earliest if self.queued_requests else None
        if not self.may_launch:
            return Wait(until)
        for age, lane in sorted(self._heads(), key=lambda head: head[0]):
            reason = self._reason(lane, age, now)
            if reason is not None:
                self.in_flight += 1
                return self._launch(lane, reason)
            window_ends = age + self._policy.max_wait_s
            until = window_ends if until is None else min(until, window_ends)
        return Stop() if self.closed and until is None else Wait(until)

    def _heads(self) -> list[tuple[float, int | None]]:
        """The arrival time of the oldest request of every lane that has one."""
        return [
            (next(iter(waiting)).enqueued_at, lane)
            for lane, waiting in self._lanes.items()
            if waiting
        ]

    def _reason(self, lane: int | None, oldest: float, now: float) -> Reason | None:
        """Why `lane` should be launched now, or None while it should wait."""
        if self._rows[lane] >= self._costs.best(lane).rows:
            return "full"
        if self.closed:
            return "drain"
        if self.in_flight == 0 and not self._policy.hold:
            return "idle"
        return "window" if now >= oldest + self._policy.max_wait_s else None

    def _launch(self, lane: int | None, reason: Reason) -> Launch[R]:
        """Take the rows for the cheapest bucket from the front of `lane`."""
        bucket = self._costs.cheapest(lane, self._rows[lane])
        waiting = self._lanes[lane]
        room = bucket.rows
        pieces: list[Piece[R]] = []
        while room and waiting:
            request, start = next(iter(waiting.items()))
            count = min(room, request.rows - start)
            pieces.append(Piece(request, start, count))
            room -= count
            if start + count == request.rows:
                del waiting[request]
            else:
                waiting[request] = start + count
        self._rows[lane] -= bucket.rows - room
        return Launch(bucket, tuple(pieces), reason)

    def _expire(self, now: float) -> tuple[R, ...]:
        """Take out whoever is past the deadline.

        `_earliest` is only a lower bound (requests leave without raising it), so the scan is rare:
        once when it is reached, and it is exact again afterwards.
        """
        if now < self._earliest:
            return ()
        everybody = [request for lane in self._lanes.values() for request in lane]
        expired = tuple(request for request in everybody if request.deadline <= now)
        for request in expired:
            self.discard(request)
        self._earliest = min(
            (request.deadline for request in everybody if request.deadline > now),
            default=float("inf"),
        )
        return expired
