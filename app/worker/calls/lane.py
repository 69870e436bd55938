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
STUCK_RETRY_S: Final = 30.0
"""When another try makes sense, where all threads hang."""
RETRY_S: Final = 1.0


class LaneLoad(NamedTuple):
    """What a lane does at this moment.

    `busy`: threads in a call. `stuck`: those of them whose call was given up and has not returned.
    `blocked`: all threads that the lane may have are stuck.
    """

    waiting: int
    busy: int
    stuck: int
    blocked: bool


class Lane:
    """Runs at most `threads` calls at once, in order of submission, and those that finish a request
    before those that begin one.

    A call that hangs cannot be ended. When it is given up, another thread takes its place; at most
    `threads` are replaced, so there are at most twice as many. When these hang too, the lane is
    `blocked` and refuses every call until one returns.

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
        self._stuck = 0
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
        if self._blocked:
            return Refusal(Reason.STUCK, STUCK_RETRY_S, self._name, self._waiting)
        if self._waiting < self._idle or self._may_grow:
            return None
        now, usable = self._clock(), self._threads - self._stuck
        ages = [now - job.begun_at for job in self._running]
        late_s = now + finish_s(self._mean.value, ages, self._waiting, usable) - deadline
        if late_s > 0:
            return Refusal(Reason.LATE, late_s, self._name, self._waiting)
        if self._waiting >= MOST_WAITING:
            return Refusal(Reason.FULL, RETRY_S, self._name, self._waiting)
        return None

    def _without_thread(self, job: Job) -> Refusal | None:
        """No thread could be started; one that runs may still take the job."""
        with self._lock:
            if self._threads > self._stuck or job.phase is not Phase.WAITING:
                return None
            job.phase = Phase.GIVEN_UP
            self._waiting -= 1
        return Refusal(Reason.NO_THREAD, RETRY_S, self._name, 0)

    # --- threads ---------------------------------------------------------------------------------

    @property
    def _idle(self) -> int:
        return self._threads - self._stuck - len(self._running)

    @property
    def _may_grow(self) -> bool:
        usable = self._threads - self._stuck
        return usable < self._limit and self._threads < 2 * self._limit

    @property
    def _blocked(self) -> bool:
        return self._stuck >= 2 * self._limit

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
                self._mean.add(self._clock() - job.begun_at)
        _run(job.lost if lost else job.done)
        job.forget()
        return lost and began and self._returned()

    def _returned(self) -> bool:
        """A call that hung has returned. Returns whether there is a thread too many."""
        with self._lock:
            self._stuck -= 1
            ends = self._threads - self._stuck > self._limit
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
                self._stuck += 1
                self._mean.add(self._clock() - job.begun_at)
            else:
                return False
            job.phase = Phase.GIVEN_UP
        self.grow()
        return True

    def load(self) -> LaneLoad:
        """What it does at this moment. Any thread may call it."""
        with self._lock:
            busy = len(self._running) + self._stuck
            return LaneLoad(self._waiting, busy, self._stuck, self._blocked)


def _run(call: Callable[[], object]) -> None:
    try:
        call()
    except BaseException:  # also SystemExit: a view must not end the thread
        log.exception("a call in the pool failed")
