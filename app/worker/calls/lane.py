"""Threads for calls of one kind, and the queue in front of them."""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from app.worker.calls.estimate import MeanSeconds, finish_s
from app.worker.calls.job import Job, Phase
from app.worker.calls.refusal import Reason, Refusal

log = logging.getLogger("brim.app")

MOST_WAITING: Final = 4096
"""Calls that wait in one lane."""
HANGS_S: Final = 5.0
"""A call that was given up hangs, and is not just late, when it has run for so long."""
RETRY_S: Final = 1.0


class LaneLoad(NamedTuple):
    """What a lane does at this moment.

    `busy`: threads in a call. `stuck`: those of them whose call was given up and has not returned.
    `blocked`: that is so of all threads that the lane may have, and each call hangs.
    """

    waiting: int
    busy: int
    stuck: int
    blocked: bool


class Lane:
    """Runs at most `threads` calls at once, in order of submission, and those that finish a request
    before those that begin one.

    A call that hangs cannot be ended. When it is given up, another thread takes its place; at most
    `threads` are replaced, so there are at most twice as many. When these hang too, calls wait for
    one to return: by then most of them are refused, and the lane is `blocked`.

    A thread is started when there is work and none is idle; it stays until `close`. Threads are
    daemons: a view that never returns must not keep the process from ending. `_lock` guards
    everything but the tokens: one for each call, for which idle threads wait.
    """

    def __init__(self, name: str, threads: int, clock: Callable[[], float]) -> None:
        self._name = name
        self._limit = threads
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._first: deque[Job] = deque()
        self._queue: deque[Job] = deque()
        self._waiting = 0  # without those that were given up
        self._running: set[Job] = set()  # without those that are stuck
        self._threads = 0
        self._stuck: set[Job] = set()
        self._mean = MeanSeconds()

    def submit(self, job: Job, *, first: bool = False) -> Refusal | None:
        """Make this call on a thread. Returns why not, if its deadline cannot be met or there is no
        room. With `first` it comes before all others, and is never refused.
        """
        job.lane = self
        with self._lock:
            refusal = None if first else self._refusal(job.deadline)
            if refusal is not None:
                job.phase = Phase.GIVEN_UP
                return refusal
            (self._first if first else self._queue).append(job)
            self._waiting += 1
        self._tokens.put(True)
        if self.grow() or first:
            return None
        return self._without_thread(job)

    def _refusal(self, deadline: float) -> Refusal | None:
        if self._waiting >= MOST_WAITING:
            return Refusal(Reason.FULL, RETRY_S, self._name, self._waiting)
        late_s = self._clock() + self._finish_s() - deadline
        if late_s <= 0:
            return None
        reason = Reason.LATE if self._usable else Reason.STUCK
        return Refusal(reason, late_s, self._name, self._waiting)

    def _finish_s(self) -> float:
        """Seconds until one more call would return."""
        if self._waiting < self._idle or self._may_grow:
            # while none runs, one is made, to see whether they still take so long
            return self._mean.value if self._running else 0.0
        now = self._clock()
        ages = [now - job.begun_at for job in self._running or self._stuck]
        return finish_s(self._mean.value, ages, self._waiting, len(ages))

    def _without_thread(self, job: Job) -> Refusal | None:
        """No thread could be started; one that runs may still take the job."""
        with self._lock:
            if self._usable or job.phase is not Phase.WAITING:
                return None
            job.phase = Phase.GIVEN_UP
            self._waiting -= 1
        return Refusal(Reason.NO_THREAD, RETRY_S, self._name, 0)

    # --- threads ---------------------------------------------------------------------------------

    @property
    def _usable(self) -> int:
        return self._threads - len(self._stuck)

    @property
    def _idle(self) -> int:
        return self._usable - len(self._running)

    @property
    def _may_grow(self) -> bool:
        return self._usable < self._limit and self._threads < 2 * self._limit

    def grow(self, idle: int = 0) -> bool:
        """Start a thread if more calls wait than threads, or to have so many idle ones. Returns
        False if the system starts no more.
        """
        with self._lock:
            if max(self._waiting, idle) <= self._idle or not self._may_grow:
                return True
            self._threads += 1
        try:
            self._start()
        except RuntimeError as error:
            log.warning("no thread for a call: %s", error)
            with self._lock:
                self._threads -= 1
            return False
        return True

    def _start(self) -> None:
        threading.Thread(target=self._run, name=f"brim-{self._name}", daemon=True).start()

    def _run(self) -> None:
        ends = False
        while not ends and self._tokens.get():
            job = self._take()
            if job is not None:
                ends = self._make(job)

    def _take(self) -> Job | None:
        with self._lock:
            for jobs in (self._first, self._queue):
                if jobs:
                    job = jobs.popleft()
                    if job.phase is Phase.WAITING:
                        job.phase, job.begun_at = Phase.RUNNING, self._clock()
                        self._waiting -= 1
                        self._running.add(job)
                    return job
        return None

    def _make(self, job: Job) -> bool:
        """Make the call. Returns whether this thread ends: another one has taken its place."""
        began = job.begun_at < math.inf  # otherwise it was given up while it waited
        if began:
            _run(job.call)
        with self._lock:
            lost = job.given_up
            if not lost:
                job.phase = Phase.DONE
                self._running.discard(job)
            if began:
                self._mean.add(self._clock() - job.begun_at)
        _run(job.lost if lost else job.done)
        job.forget()
        return lost and began and self._returned(job)

    def _returned(self, job: Job) -> bool:
        """A call that was stuck has returned. Returns whether there is a thread too many."""
        with self._lock:
            self._stuck.discard(job)
            ends = self._usable > self._limit
            self._threads -= ends
        return ends

    def close(self) -> None:
        """End the threads after what was submitted. Returns at once."""
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._tokens.put(False)

    # --- jobs ------------------------------------------------------------------------------------

    def keep(self, job: Job) -> bool:
        """See `Job.keep`."""
        with self._lock:
            if job.phase is Phase.RUNNING:
                job.phase = Phase.ANSWERING
            return job.phase is not Phase.GIVEN_UP

    def give_up(self, job: Job) -> bool:
        """See `Job.give_up`."""
        with self._lock:
            if job.phase is Phase.WAITING:
                self._waiting -= 1
            elif job.phase is Phase.RUNNING:
                self._running.discard(job)
                self._stuck.add(job)
            else:
                return False
            job.phase = Phase.GIVEN_UP
        self.grow()
        return True

    def load(self) -> LaneLoad:
        """What it does at this moment. Any thread may call it."""
        with self._lock:
            stuck, long_ago = len(self._stuck), self._clock() - HANGS_S
            blocked = stuck >= 2 * self._limit and all(
                job.begun_at <= long_ago for job in self._stuck
            )
            return LaneLoad(self._waiting, len(self._running) + stuck, stuck, blocked)


def _run(call: Callable[[], object]) -> None:
    try:
        call()
    except BaseException:  # also SystemExit: a view must not end the thread
        log.exception("a call in the pool failed")
