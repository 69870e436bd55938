"""Threads for what may block.

May touch: threading.

They are started when there is work and nobody idle, they stay, and nobody waits for them at the
end: a view that never returns must not keep a process from ending.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger("brim.app")


class Pool:
    """At most `threads` calls at once, the others in the order in which they came."""

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._threads = 0
        self._waiting: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, call: Callable[[], object]) -> None:
        """Make this call on a thread. Called from one thread only."""
        self._waiting.put(call)
        if not self._idle.acquire(blocking=False) and self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._run, name="brim-view", daemon=True).start()

    def close(self) -> None:
        """End the threads when they have done what was submitted. Returns at once."""
        for _ in range(self._threads):
            self._waiting.put(None)

    def _run(self) -> None:
        while (call := self._waiting.get()) is not None:
            try:
                call()
            except BaseException:  # also one that was to end the thread: it was the view's wish
                log.exception("a call in the pool failed")
            self._idle.release()
