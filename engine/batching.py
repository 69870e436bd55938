"""The policy: what should the device do next? Arithmetic over the cost table.

May touch: nothing; no clock, lock, thread, JAX or numpy. Time is an argument.

`poll(now)` answers with one of four values and the batcher's thread does what it says. The rules,
in order:

1. Who can no longer be answered in time leaves (`Expire`).
2. A batch is formed as late as possible: when the device is free, or about to be, so that the next
   batch is gathered while the last one ends (`_lead_s`). `depth` bounds the batches on their way.
3. The device is held for clients that are about to come back, in a closed loop, where serving them
   together takes less of its time than serving them apart (`_hold_until`). Nothing else is ever
   waited for.
4. Of several models that share the device, the one that is furthest behind goes (`device.Device`).
5. The bucket is the one that the plan has for so many rows (`plan.py`, `formation.py`).

Who may wait at all is asked before: `excess` says by how much a deadline would be missed
(`promises.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, Literal, get_args

from engine.buckets import Bucket
from engine.costs import CostTable
from engine.device import Device, Flight
from engine.estimates import Expectation, Rate, Returns
from engine.formation import Formation
from engine.promises import Promises
from engine.waiting import Piece, Queued, R, R_co, WaitingRoom

Reason = Literal["full", "idle", "next", "held", "drain"]
"""Why a batch was launched as it was: the best bucket could be filled; the device had nothing to
do; it was about to be free; company was waited for; the queue is closed."""

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

GUARD: Final = 8
"""Every so manyth batch goes by deadline alone, so that no priority starves the others: as every
deadline comes, every request is first at some time."""

LOAD_MEMORY: Final = 50
"""Full batches over which the load is measured."""

FORGET_RETURNS: Final = 4.0
"""Who has not come back after this many times `max_wait_s` is not coming back."""


@dataclass(frozen=True, slots=True, eq=False)
class Launch(Generic[R_co]):
    """Run these rows, in this order, in this bucket."""

    bucket: Bucket
    pieces: tuple[Piece[R_co], ...]
    reason: Reason
    flight: Flight
    rows: int = field(init=False)
    """Real rows."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", sum([piece.count for piece in self.pieces]))


@dataclass(frozen=True, slots=True)
class Expire(Generic[R_co]):
    """These have left the queue because they cannot be answered in time any more."""

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
    """What the operator decides.

    max_wait_s  the longest that a free device is held for clients who are about to come back
    max_rows    rows that may wait
    depth       batches on their way at once
    lead_s      what a thread needs to wake up: the next batch is formed so much earlier
    """

    max_wait_s: float
    max_rows: int
    depth: int
    lead_s: float = 0.0


class BatchQueue(Generic[R]):
    """The rows of one model that wait, and what is known about those on their way.

    Invariants:
      - `queued_rows` never exceeds `policy.max_rows`
      - every row offered leaves exactly once: in a `Launch`, in an `Expire`, by `discard`,
        or by `clear`
      - once closed, `offer` is a bug and nothing is held
      - `_earliest` is at most the moment at which the first of those who wait expires

    Not thread-safe: whoever holds the lock of the device owns it.
    """

    def __init__(
        self,
        policy: Policy,
        costs: CostTable,
        lanes: tuple[int | None, ...],
        device: Device | None = None,
        name: str = "",
        weight: float = 1.0,
    ) -> None:
        """`device` is shared with the other models, by `weight`; without one it is this model's."""
        self._policy = policy
        self._costs = costs
        self._device = Device() if device is None else device
        self._device.join(name, weight)
        self._name = name
        self._waiting: WaitingRoom[R] = WaitingRoom(lanes)
        self._promises = Promises(name, costs, self._waiting, self._device)
        self._earliest = float("inf")
        self._returns = Returns(FORGET_RETURNS * policy.max_wait_s)
        self._load = Rate(LOAD_MEMORY * max(costs.seconds(costs.best(lane)) for lane in lanes))
        self._gathering = Expectation()
        self._earliness = Expectation()
        self._flying_rows = 0
        self._launches = 0
        self._held = False
        self._behind_device = False
        self.closed = False
        self.in_flight = 0

    def __repr__(self) -> str:
        rows = ", ".join(f"{lane}: {rows}" for lane, rows in self._waiting.rows.items())
        closed = ", closed" if self.closed else ""
        return f"<BatchQueue rows {{{rows}}}, {self.in_flight} in flight{closed}>"

    # --- who waits -------------------------------------------------------------------------------

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._waiting.all_rows

    @property
    def queued_requests(self) -> int:
        """Requests with at least one row that waits."""
        return len(self._waiting)

    def has_room(self, rows: int) -> bool:
        """May `rows` more be offered?"""
        return self._waiting.all_rows + rows <= self._policy.max_rows

    @property
    def heeds_arrivals(self) -> bool:
        """Could a row more change what `poll` answers? Not while it waits for the device."""
        return not self._behind_device

    @property
    def dearest_s(self) -> float:
        """Seconds: the most that one batch costs."""
        return self._costs.dearest

    def drain_seconds(self, now: float) -> float:
        """How long the device needs for what is there now."""
        work = sum(self._costs.work(lane, rows) for lane, rows in self._waiting.rows.items())
        return self._device.free_at(now) - now + work / self._device.share(self._name)

    def excess(self, request: Queued, now: float) -> float:
        """By how many seconds a deadline would be missed if this request were offered: its own, or
        that of one behind it. What is above 0 should be refused.
        """
        return self._promises.excess(request, now)

    def offer(self, request: R, now: float) -> None:
        """Let a request wait. The caller has asked `has_room` and `closed` under the same lock."""
        if self.closed or not self.has_room(request.rows):
            raise AssertionError(f"{self!r} cannot take {request!r}; this is a bug")
        if not len(self._waiting) and not self.in_flight:
            self._device.rejoin(self._name)
        self._promises.give(request, now)
        self._waiting.add(request)
        self._returns.arrived(request.rows, now)
        best = self._costs.best(request.lane)
        self._load.add(request.rows / best.rows * self._costs.seconds(best), now)
        self._earliest = min(self._earliest, self._expires_at(request))

    def discard(self, request: R) -> None:
        """Forget what still waits of `request`; nothing happens when nothing does."""
        self._waiting.discard(request)
        self._promises.forget(request)

    def clear(self) -> tuple[R, ...]:
        """Take out everybody who waits."""
        everybody = tuple(self._waiting)
        for request in everybody:
            self.discard(request)
        self._device.want(self._name, False)  # nobody may be left to poll
        return everybody

    def close(self) -> None:
        """No more offers; what waits is launched without waiting for company."""
        self.closed = True

    # --- what happens on the device --------------------------------------------------------------

    def started(self, launch: Launch[R], at: float) -> None:
        """Its rows are gathered: at this moment it went to the device."""
        self._gathering.add(at - launch.flight.launched_at)
        launch.flight.launched_at = at

    def landed(self, launch: Launch[R], now: float, *, failed: bool = False) -> float:
        """A batch has come back. Returns how many seconds it had the device."""
        self._earliness.add(launch.flight.lands_at - now)
        spent = self._device.land(launch.flight, now)
        self._gone(launch)
        self._returns.answered(launch.rows, now)
        if not failed:
            self._costs.observe(launch.bucket, spent)
        for piece in launch.pieces:
            if piece.start + piece.count == piece.request.rows:
                self._promises.answered(piece.request, now)
        return spent

    def lost(self, launch: Launch[R], now: float) -> None:
        """Nobody waits for this batch any more."""
        self._device.forget(launch.flight, now)
        self._gone(launch)

    def _gone(self, launch: Launch[R]) -> None:
        self.in_flight -= 1
        self._flying_rows -= launch.rows

    def leave(self) -> None:
        """The model does not want the device any more."""
        self._device.leave(self._name)

    @property
    def turns(self) -> int:
        """Another number when it may have become another model's turn; see `Device`."""
        return self._device.turns

    def correct(self) -> None:
        """Put into force what the last batches have cost. To be called without the lock, by one
        thread.
        """
        self._costs.correct()

    # --- what is next ----------------------------------------------------------------------------

    def poll(self, now: float) -> Launch[R] | Expire[R] | Wait | Stop:
        """What to do at `now`. A `Launch` counts as in flight until `landed` or `lost`."""
        self._behind_device = False
        expired = self._expire(now)
        if expired:
            return Expire(expired)
        if not len(self._waiting):
            self._held = False
            self._device.want(self._name, False)
            return Stop() if self.closed else Wait(None)
        start_at = self._device.free_at(now)
        form_at = start_at - self._lead_s
        has_depth = self.in_flight < self._policy.depth
        if not has_depth or now < form_at:
            self._behind_device = True
            self._device.want(self._name, True)
            return Wait(min(form_at, self._earliest) if has_depth else self._earliest)
        hold_until = self._hold_until(now, start_at)
        self._held = self._held or now < hold_until
        self._device.want(self._name, now >= hold_until)
        if now < hold_until:
            return Wait(min(hold_until, self._earliest))
        if not self._device.has_turn(self._name):
            return Wait(self._earliest)
        return self._launch(now, start_at)

    @property
    def _lead_s(self) -> float:
        """How long before the device should be free the next batch is formed: as long as waking up
        and gathering take, and as batches land earlier than expected. Later would leave the device
        without work; earlier, and who comes meanwhile would miss this batch.
        """
        earliness = self._earliness.mean
        early = earliness if earliness > 0 else 0.0
        return self._policy.lead_s + self._gathering.upper(0.0) + early

    def _hold_until(self, now: float, start_at: float) -> float:
        """Until when the device should be held for those who were just answered, or are about to
        be; `now` where that does not pay.

        In a closed loop the device is never out of work, so what counts is its time. Apart, those
        who wait now are served at once and the missing when that is done, or when they are back;
        together, all of them when they are back.
        """
        missing, back_at = self._missing(now, start_at)
        if self.closed or not missing or not self._returns.closed:
            return now
        head, costs = self._waiting.first(), self._costs
        rows, wait = self._waiting.rows[head.lane], back_at - start_at
        full = rows >= costs.best(head.lane).rows
        if full or wait <= 0 or self._returns.delay_s > self._policy.max_wait_s:
            return now
        apart = max(costs.work(head.lane, rows), wait) + costs.work(head.lane, missing)
        together = wait + costs.work_in_company(head.lane, rows + missing)
        return back_at if together < apart and start_at + together <= head.deadline else now

    def _missing(self, now: float, start_at: float) -> tuple[int, float]:
        """The rows that may come back, and by when: of those answered, or about to be."""
        missing, back_at = self._returns.missing(now)
        if self._flying_rows:
            return missing + self._flying_rows, start_at + self._returns.delay_s
        return missing, back_at

    def _launch(self, now: float, start_at: float) -> Launch[R]:
        self._launches += 1
        by_deadline = self._launches % GUARD == 0
        complete = self.closed or (self._returns.closed and not self._missing(now, start_at)[0])
        load = self._load.now(now)
        formation = Formation(self._costs, self._waiting, start_at, load, complete, by_deadline)
        bucket, lanes = formation.choose()
        pieces = self._waiting.take(lanes, bucket.rows, by_deadline=by_deadline)
        flight = self._device.launch(self._name, self._costs.seconds(bucket), now)
        launch = Launch(bucket, pieces, self._reason(bucket, pieces, start_at > now), flight)
        self.in_flight += 1
        self._flying_rows += launch.rows
        self._held = False
        self._device.want(self._name, len(self._waiting) > 0)
        return launch

    def _reason(self, bucket: Bucket, pieces: tuple[Piece[R], ...], busy: bool) -> Reason:
        rows = sum(piece.count for piece in pieces)
        if rows == bucket.rows and rows >= self._costs.best(bucket.length).rows:
            return "full"
        if self.closed:
            return "drain"
        if self._held:
            return "held"
        return "next" if busy else "idle"

    # --- what is too late ------------------------------------------------------------------------

    def _expires_at(self, request: R) -> float:
        """From here on not even one row would be answered in time."""
        return request.deadline - self._costs.hope(request.lane, 1)

    def _expire(self, now: float) -> tuple[R, ...]:
        """Take out whoever is past all hope.

        `_earliest` is only a lower bound (requests leave without raising it), so the scan is rare:
        once when it is reached, and it is exact again afterwards.
        """
        if now < self._earliest:
            return ()
        at = {request: self._expires_at(request) for request in self._waiting}
        expired = tuple(request for request, expires_at in at.items() if expires_at <= now)
        for request in expired:
            self._promises.answered(request, now + self._costs.hope(request.lane, 1))
            self.discard(request)
        self._earliest = min(
            (expires_at for expires_at in at.values() if expires_at > now), default=float("inf")
        )
        return expired
