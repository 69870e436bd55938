"""The threads of one endpoint: dispatcher, completion and corrector."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final

from engine.errors import ShuttingDown
from engine.runtime.completion import Completion
from engine.runtime.device_group import Replica
from engine.runtime.dispatcher import Dispatcher
from engine.runtime.work_queue import WorkQueue
from engine.scheduling.costs.cost_table import CORRECT_EVERY_S
from engine.telemetry.events import BatchReport

log = logging.getLogger("brim.engine")

INLINE_S: Final = 0.002
"""Seconds. Where no bucket costs more at warm-up, the submitting thread runs the batch instead of
waking the dispatcher: waking it and being woken took 0.2 to 0.3 ms of 0.66, with one client.
Corrected costs are not compared: they contain waits for the GIL."""


class WorkerThreads:
    """Starts and ends the threads that serve one work queue.

    A bug that ends one of them fails the endpoint: the queue refuses new requests, every request
    gets an outcome, and `died(reason)` is called.
    """

    def __init__(
        self,
        name: str,
        work: WorkQueue,
        replica: Replica,
        batch_done: Callable[[BatchReport], object],
        died: Callable[[str], object],
        clock: Callable[[], float],
    ) -> None:
        self._work = work
        self._clock = clock
        self._batch_done = batch_done
        self._died = died
        self._correct_at = float("-inf")
        self._corrections: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._completion = Completion(name, work, replica.signature, clock, self._on_batch_done)
        self.dispatcher = Dispatcher(work, replica, self._completion, clock)
        if work.max_cost_s <= INLINE_S and replica.self_contained:
            work.flush = self._run_here
        roles = {
            "dispatcher": self._dispatch,
            "completion": self._completion.run,
            "corrector": self._correct,
        }
        self._threads = tuple(
            threading.Thread(None, self._guarded, f"brim-{role}-{name}", (loop,), daemon=True)
            for role, loop in roles.items()
        )

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self, timeout_s: float) -> None:
        """Drain and join. What has no answer after `timeout_s` gets `ShuttingDown`. Idempotent."""
        self._work.drain()
        give_up_at = self._clock() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, give_up_at - self._clock()))
        self._work.abandon(lambda: ShuttingDown("the server stopped before the answer", 1.0))
        self._work.leave()

    def _dispatch(self) -> None:
        try:
            self.dispatcher.run()
        finally:
            self._completion.close()
            self._corrections.put(False)

    def _run_here(self) -> None:
        try:
            self.dispatcher.run_here()
        except BaseException as error:
            self._die(error)
            if not isinstance(error, Exception):
                raise  # KeyboardInterrupt and SystemExit are for the calling thread

    def _correct(self) -> None:
        """It only tunes: without corrections the costs of warm-up stay in force."""
        failed = False
        while self._corrections.get():
            try:
                self._work.correct()
                failed = False
            except BaseException:
                if not failed:  # it may fail four times a second
                    log.exception("%s failed; it goes on", threading.current_thread().name)
                failed = True

    def _on_batch_done(self, report: BatchReport) -> None:
        self._batch_done(report)
        now = self._clock()
        if now >= self._correct_at:
            self._correct_at = now + CORRECT_EVERY_S
            self._corrections.put(True)

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            self._die(error)

    def _die(self, error: BaseException) -> None:
        reason = f"{threading.current_thread().name} died: {error!r}"
        log.error("%s", reason, exc_info=error)
        self._work.fail(reason)
        self._died(reason)
