"""Carries out what the work queue decides: gathers rows, launches batches, expires requests."""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import DeadlineExceeded
from engine.runtime.completion import Completion, InFlight
from engine.runtime.device_group import Replica
from engine.runtime.pending import Pending, fail_all
from engine.runtime.staging import gather
from engine.runtime.work_queue import Dispatch, Expiry, WorkQueue
from engine.scheduling.scheduler import Stop


class Dispatcher:
    """`run` is the dispatcher's thread. A batch that has finished when its launch returns, with no
    batch before it, is completed here: waking the completion thread would cost more.
    """

    def __init__(
        self,
        queue: WorkQueue,
        replica: Replica,
        completion: Completion,
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._replica = replica
        self._completion = completion
        self._clock = clock

    def run(self) -> None:
        """Until the queue is closed and empty."""
        while not isinstance(action := self._queue.next(), Stop):
            self.carry_out(action)

    def run_here(self) -> None:
        """Dispatch in the calling thread, unless the dispatcher's thread is busy: two hand-overs
        between threads cost more than a short batch.
        """
        if self._queue.borrow():
            while (action := self._queue.next_now()) is not None:
                self.carry_out(action)

    def carry_out(self, action: Dispatch | Expiry) -> None:
        """Launch a batch, or set `DeadlineExceeded` for requests."""
        if isinstance(action, Dispatch):
            batch = self._launch(action)
            if not self._completion.complete_now(batch):
                self._completion.put(batch)
            return
        fail_all((result, _expired(result)) for result in action.results)

    def _launch(self, dispatch: Dispatch) -> InFlight:
        """An error in here is the batch's failure, not the thread's."""
        replica, launch = self._replica, dispatch.launch
        execution, failure = None, None
        gathering_at = self._clock()
        try:
            staged = gather(launch.bucket, replica.signature.device_inputs, launch.slices)
            launched_at = self._clock()
            execution = replica.launch(launch.bucket, staged)
        except Exception as error:
            launched_at, failure = self._clock(), error
        for result in dispatch.results:
            if result.launched_at is None:
                result.gathering_at, result.launched_at = gathering_at, launched_at
        return InFlight(dispatch, execution, failure, launched_at, launched_at - gathering_at)


def _expired(result: Pending) -> DeadlineExceeded:
    allowed = result.request.deadline - result.request.enqueued_at
    return DeadlineExceeded(f"no answer is possible within {allowed:.3g} s")
