"""The threads: queue -> device -> tickets. No decision of their own.

May touch: threading, a clock. The policy decides (`batching.py`), these carry out.

A request's way from here: `submit` puts its ticket into the queue; the *batcher* thread asks the
policy, gathers the rows and launches them; the *completer* thread waits for the device, scatters
the outputs and settles the tickets. So batch N+1 is gathered while batch N computes. What is over
as soon as it is launched (a small model on a CPU) the batcher completes itself: to wake another
thread would cost more than all the rest. Beside them a
*corrector* puts into force, now and then, what the batches have cost: it may take some 100 ms,
which nobody should wait for.

Models that share a device share one lock (`SharedDevice`). It guards the queues and the sets of
batches on their way, and nothing else: gathering, running, observing and settling happen with it
released.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.batching import BatchQueue, Expire, Launch, Stop, Wait
from engine.buckets import Bucket
from engine.costs import CORRECT_EVERY_S
from engine.device import Device
from engine.errors import (
    BrimError,
    DeadlineExceeded,
    ExecutionFailed,
    ModelFailed,
    NonFiniteOutput,
    QueueFull,
    Shed,
    ShuttingDown,
)
from engine.model import Model
from engine.observer import BatchReport, Observer
from engine.padding import gather, scatter
from engine.runnable import Runnable, Running
from engine.spec import Array, Arrays, TensorSpec
from engine.ticket import Ticket, announce

log = logging.getLogger("brim.engine")

SHORT_S: Final = 0.002
"""Seconds. Where no bucket costs more, whoever submits may run the batch as well as wake the thread
that would: to wake it and to be woken took 0.2 to 0.3 ms of 0.66, with one client."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One launch on its way. `running` is None when it could not even start: then `failure`."""

    launch: Launch[Ticket]
    running: Running | None
    failure: Exception | None
    started_at: float
    gather_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What is on its way at one moment. `oldest_batch_s` is the age of the oldest in flight."""

    queued_rows: int
    queued_requests: int
    in_flight: int
    oldest_batch_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Hope:
    """A request that may come: what is known of it before its rows are."""

    rows: int
    lane: int | None
    enqueued_at: float
    deadline: float
    priority: int


class SharedDevice:
    """One device, the lock that guards it, and the batchers that wait for it."""

    def __init__(self) -> None:
        self.device = Device()
        self.lock = threading.Lock()
        self._behind: set[threading.Condition] = set()
        self._held: set[Batcher] = set()
        self._in_turn = False
        self._hold_s = 0.0
        self._hold_until = float("-inf")

    def begin_turn(self, now: float, hold_s: float) -> None:
        """A thread is about to submit some requests and to end its turn then. Until that they wake
        their batcher only every `hold_s` seconds, or it would take them one by one; one whose
        batches are short not at all: it gets this thread. What batchers do by themselves goes on.
        """
        with self.lock:
            self._in_turn = True
            self._hold_s, self._hold_until = hold_s, now + hold_s

    def end_turn(self) -> None:
        """They have been submitted: let every batcher that got some look."""
        with self.lock:
            self._in_turn = False
            self._hold_s, self._hold_until = 0.0, float("-inf")
            held, self._held = self._held, set()
        for batcher in held:
            batcher.lend()

    def arrived(self, batcher: Batcher, now: float) -> None:
        """A request that its batcher heeds was queued. Hold the lock."""
        if now < self._hold_until or (self._in_turn and batcher.short):
            self._held.add(batcher)
        else:
            self._hold_until = now + self._hold_s
            self._held.discard(batcher)
            batcher.wake()

    def rest(self, batcher: Batcher, wake: threading.Condition, now: float) -> None:
        """Somebody was just answered: if several requests are being submitted now, their batcher
        sleeps as if it had nothing to do. Hold the lock.
        """
        if now < self._hold_until:
            self._held.add(batcher)
            wake.wait(self._hold_until - now)

    def sleep(self, mine: threading.Condition, seconds: float | None) -> None:
        """Wait until something happens, or for so many seconds, with rows that wait for the device;
        for None there are none, and what happens to the others changes nothing. Hold the lock.
        """
        if seconds is not None:
            self._behind.add(mine)
        mine.wait(seconds)
        self._behind.discard(mine)

    def wake_others(self, mine: threading.Condition) -> None:
        """Something happened that the other batchers may have waited for. Hold the lock."""
        for condition in self._behind:
            if condition is not mine:
                condition.notify()


class Batcher:
    """Owns the queue and the threads of one model."""

    def __init__(
        self,
        name: str,
        model: Model,
        queue_: BatchQueue[Ticket],
        runnables: Mapping[Bucket, Runnable],
        observer: Observer,
        clock: Callable[[], float],
        died: Callable[[str], None],
        shared: SharedDevice,
    ) -> None:
        """`died(reason)` hears when a thread ended by a bug of ours rather than by `close`.

        `queue_` was made for the device of `shared`.
        """
        self._name = name
        self._model = model
        self._runnables = runnables
        self._observer = observer
        self._clock = clock
        self._died = died
        self._shared = shared
        self._lock = shared.lock
        self._wake = threading.Condition(shared.lock)
        self._queue = queue_
        self._in_flight: list[Launch[Ticket]] = []
        self._answering: Launch[Ticket] | None = None
        self._to_complete: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._handed_over = self._completed = 0  # batches: by the batcher, and by the completer
        self._to_correct: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._correct_at = float("-inf")
        self._dead: str | None = None
        self._at_work = self._lent = False  # the batcher's thread; one that does its work instead
        # by what they cost in the proof, alone: corrected costs hold waits for the GIL, too, which
        # are there because another thread runs the batches
        self.short = queue_.dearest_s <= SHORT_S and all(
            runnable.self_contained for runnable in runnables.values()
        )
        roles = {
            "batcher": self._batch_loop,
            "completer": self._complete_loop,
            "corrector": self._correct_loop,
        }
        self._threads = tuple(
            threading.Thread(
                target=self._guarded, args=(loop,), name=f"brim-{role}-{name}", daemon=True
            )
            for role, loop in roles.items()
        )

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket, or refuse it: `QueueFull`, `Shed`, `ShuttingDown`, `ModelFailed`."""
        ticket.on_withdraw(self._withdraw)
        with self._lock:
            now = self._clock()
            refusal = self._refusal(ticket, now)
            if refusal is None:
                self._queue.offer(ticket, now)
                # under load the batcher waits for the device, not for one row more
                if self._queue.heeds_arrivals:
                    self._shared.arrived(self, now)
        if refusal is not None:
            raise refusal

    def wake(self) -> None:
        """Let the batcher's thread look. Hold the lock."""
        self._wake.notify()

    def lend(self) -> None:
        """The caller has submitted something, and does now what the batcher's thread would do, if
        that is short and nobody is at it: two hand-overs between threads cost more.
        """
        with self._lock:
            if not self.short:
                self._wake.notify()
                return
            if self._at_work or self._lent:
                return  # whoever is at it will look again
            self._lent = True
        try:
            while (decision := self._next_now()) is not None:
                self._carry_out(decision)
        except BaseException as error:
            self._die(error)
            if not isinstance(error, Exception):
                raise  # the caller's own end, which came by chance while it was here

    def refusal(self, hope: Hope) -> BrimError | None:
        """Why such a request would be refused now, or None."""
        with self._lock:
            return self._refusal(hope, self._clock())

    def load(self) -> Load:
        """What is on its way now."""
        with self._lock:
            now = self._clock()
            return Load(
                self._queue.queued_rows,
                self._queue.queued_requests,
                len(self._in_flight),
                now - min((launch.flight.launched_at for launch in self._in_flight), default=now),
            )

    def drain(self) -> None:
        """Refuse what comes, run what waits without waiting for company. Returns at once."""
        with self._lock:
            self._queue.close()
            self._wake.notify()

    def close(self, timeout_s: float) -> None:
        """Drain and join. What has no answer after `timeout_s` gets `ShuttingDown`. Idempotent."""
        self.drain()
        give_up_at = self._clock() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, give_up_at - self._clock()))
        self._abandon(lambda: ShuttingDown("the server stopped before the answer", 1.0))
        with self._lock:
            self._queue.leave()
            self._shared.wake_others(self._wake)

    # --- under the lock --------------------------------------------------------------------------

    def _refusal(self, ticket: Ticket | Hope, now: float) -> BrimError | None:
        if self._dead is not None:
            return ModelFailed(f"model {self._name!r} has failed: {self._dead}")
        if self._queue.closed:
            return ShuttingDown("the server is shutting down", 1.0)
        if not self._queue.has_room(ticket.rows):
            waiting = self._queue.queued_rows
            problem = f"{ticket.rows} rows do not fit: {waiting} wait already"
            return QueueFull(problem, self._queue.drain_seconds(now))
        excess = self._queue.excess(ticket, now)
        if excess > 0:
            allowed = ticket.deadline - ticket.enqueued_at
            problem = f"an answer within {allowed:.3g} s cannot be promised: it may take"
            waiting = self._queue.queued_rows
            return Shed(f"{problem} {allowed + excess:.3g} s, {waiting} rows are waiting", excess)
        return None

    def _next(self) -> Launch[Ticket] | Expire[Ticket] | Stop:
        """Wait, without polling, until the policy wants something."""
        with self._lock:
            self._at_work = False
            while isinstance(decision := Wait(None) if self._lent else self._poll(), Wait):
                until = decision.until
                seconds = None if until is None else max(0.0, until - self._clock())
                self._shared.sleep(self._wake, seconds)
            self._at_work = True
            return decision

    def _next_now(self) -> Launch[Ticket] | Expire[Ticket] | None:
        """What the policy wants at this moment. To wait, and to stop, is the thread's."""
        with self._lock:
            decision = self._poll()
            if isinstance(decision, Launch | Expire):
                return decision
            self._lent = False
            if isinstance(decision, Stop) or decision.until is not None:
                self._wake.notify()
            return None

    def _poll(self) -> Launch[Ticket] | Expire[Ticket] | Wait | Stop:
        turns = self._queue.turns
        decision = self._queue.poll(self._clock())
        if isinstance(decision, Launch):
            self._in_flight.append(decision)
        if self._queue.turns != turns:
            self._shared.wake_others(self._wake)
        return decision

    def _withdraw(self, ticket: Ticket) -> None:
        with self._lock:
            self._queue.discard(ticket)
            self._wake.notify()

    def _landed(self, batch: Batch, now: float, *, failed: bool) -> float:
        """Returns how many seconds the batch had the device."""
        with self._lock:
            if batch.launch not in self._in_flight:
                return 0.0  # `close` has given it up
            self._in_flight.remove(batch.launch)
            self._answering = batch.launch
            self._queue.started(batch.launch, batch.started_at)
            spent = self._queue.landed(batch.launch, now, failed=failed)
            if failed:
                for piece in batch.launch.pieces:
                    self._queue.discard(piece.request)  # the other rows of one that was cut
            if self._queue.queued_requests:
                self._wake.notify()
            self._shared.wake_others(self._wake)
            return spent

    # --- the threads -------------------------------------------------------------------------

    def _guarded(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop. If a bug ends it, everybody who waits hears of it."""
        try:
            loop()
        except BaseException as error:
            self._die(error)
        finally:
            if loop == self._batch_loop:
                self._to_complete.put(None)
                self._to_correct.put(False)

    def _die(self, error: BaseException) -> None:
        reason = f"{threading.current_thread().name} died: {error!r}"
        log.error("%s", reason, exc_info=error)
        with self._lock:
            self._dead = reason
            self._lent = False
            self._queue.close()
        self._abandon(lambda: ModelFailed(f"model {self._name!r} has failed: {reason}"))
        self._died(reason)

    def _abandon(self, error: Callable[[], BrimError]) -> None:
        """Settle everybody who is left, each with an error of its own."""
        with self._lock:
            left = list(self._queue.clear())
            for launch in self._in_flight:
                left += [piece.request for piece in launch.pieces]
                self._queue.lost(launch, self._clock())
            if self._answering is not None:
                left += [piece.request for piece in self._answering.pieces]
            self._in_flight.clear()
            self._wake.notify()
            self._shared.wake_others(self._wake)
        for ticket in left:
            ticket.fail(error())

    def _batch_loop(self) -> None:
        while not isinstance(decision := self._next(), Stop):
            if self._carry_out(decision):
                with self._lock:
                    self._at_work = False
                    self._shared.rest(self, self._wake, self._clock())

    def _carry_out(self, decision: Launch[Ticket] | Expire[Ticket]) -> bool:
        """Was somebody answered here and now?"""
        if isinstance(decision, Launch):
            return self._carry_on(self._start(decision))
        for ticket in decision.requests:
            waited = ticket.deadline - ticket.enqueued_at
            ticket.fail(DeadlineExceeded(f"no answer is possible within {waited:.3g} s"))
        return False

    def _carry_on(self, batch: Batch) -> bool:
        """Complete a batch here if it is over and the completer has nothing to do, so that batches
        are completed one after the other, in the order of their launch. Was it?
        """
        over = batch.running is not None and batch.running.ready
        if over and self._completed == self._handed_over:
            self._complete(batch)
            return True
        self._handed_over += 1
        self._to_complete.put(batch)
        return False

    def _start(self, launch: Launch[Ticket]) -> Batch:
        """Gather and launch. What goes wrong here is the batch's failure, not the thread's."""
        gathering_at = self._clock()
        running, failure = None, None
        try:
            staged = gather(launch.bucket, self._model.device_inputs, launch.pieces)
            gathered_at = self._clock()
            running = self._runnables[launch.bucket].launch(staged)
        except Exception as error:
            gathered_at, failure = self._clock(), error
        for piece in launch.pieces:
            if piece.request.launched_at is None:
                piece.request.gathering_at = gathering_at
                piece.request.launched_at = gathered_at
        return Batch(launch, running, failure, gathered_at, gathered_at - gathering_at)

    def _complete_loop(self) -> None:
        while (batch := self._to_complete.get()) is not None:
            self._complete(batch)
            self._completed += 1

    def _complete(self, batch: Batch) -> None:
        """Wait for one batch and answer its tickets."""
        launch, failure = batch.launch, batch.failure
        outputs: Arrays = {}
        if batch.running is not None:
            try:
                outputs = batch.running.result()
            except Exception as error:
                failure = error
        finished_at = self._clock()
        # before the tickets: whoever is answered may look at the load and must find it settled
        execute_s = self._landed(batch, finished_at, failed=failure is not None)
        parts: list[dict[str, Array]] = []
        if failure is None:
            try:
                specs = self._model.device_outputs
                parts = scatter(launch.bucket, specs, outputs, launch.pieces)
            except Exception as error:
                failure = error
        for piece in launch.pieces:
            piece.request.computed_at = finished_at
        if failure is None:
            self._answer(launch, outputs, parts)
        else:
            log.error("a batch of model %s failed", self._name, exc_info=failure)
            for piece in launch.pieces:
                self._fail(piece.request, _because(failure))
        self._answering = None
        report = BatchReport(
            bucket=launch.bucket,
            rows=launch.rows,
            reason=launch.reason,
            gather_s=batch.gather_s,
            execute_s=execute_s,
            scatter_s=self._clock() - finished_at,
            failed=failure is not None,
        )
        self._observer.batch_done(self._name, report)
        if finished_at >= self._correct_at:
            self._correct_at = finished_at + CORRECT_EVERY_S
            self._to_correct.put(True)

    def _correct_loop(self) -> None:
        while self._to_correct.get():
            self._queue.correct()

    def _answer(self, launch: Launch[Ticket], outputs: Arrays, parts: Sequence[Arrays]) -> None:
        specs = self._model.device_outputs
        # one look at all rows is as dear as one at a single row; who is to blame is seldom asked
        clean = _nonfinite(specs, {name: all_[: launch.rows] for name, all_ in outputs.items()})
        settled: list[Ticket] = []
        try:
            for piece, part in zip(launch.pieces, parts, strict=True):
                bad = clean and _nonfinite(specs, part)
                if bad is None:
                    if piece.request.deliver(piece.start, part):
                        settled.append(piece.request)
                else:
                    problem = f"the model made NaN or infinity in {bad!r} for this request's rows"
                    self._fail(piece.request, NonFiniteOutput(problem))
        finally:
            # once for the batch: a thread that is woken per request costs as much as the request
            announce(settled)

    def _fail(self, ticket: Ticket, error: ExecutionFailed) -> None:
        """Settle a ticket; if it was split, its other rows need not run any more."""
        ticket.fail(error)
        self._withdraw(ticket)


def _because(failure: Exception) -> ExecutionFailed:
    error = ExecutionFailed(f"the device failed this batch: {failure}")
    error.__cause__ = failure
    return error


def _nonfinite(specs: Sequence[TensorSpec], outputs: Arrays) -> str | None:
    """The first output that must be finite and is not."""
    for spec in specs:
        if spec.nonfinite or spec.dtype.kind in "biu":
            continue
        output = outputs[spec.name]
        # counting is a third of what `all` costs where there is little to look at
        if np.count_nonzero(np.isfinite(output)) != output.size:
            return spec.name
    return None
