"""Threads for calls that may block.

They are daemons: a view that never returns must not keep the process from ending.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger("brim.app")


class Pool:
    """Runs at most `threads` calls at once, in order of submission.

    A thread is started when there is work and none is idle; it stays until `close`.
    """

    def __init__(self, threads: int) -> None:
        self._max_threads = threads
        self._threads = 0
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, call: Callable[[], object]) -> None:
        """Make this call on a thread. Called from one thread only."""
        self._queue.put(call)
        if not self._idle.acquire(blocking=False) and self._threads < self._max_threads:
            self._threads += 1
            threading.Thread(target=self._run, name="brim-view", daemon=True).start()

    def close(self) -> None:
        """End the threads after what was submitted. Returns at once."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException:  # also SystemExit: a view must not end the thread
                log.exception("a call in the pool failed")
            self._idle.release()
