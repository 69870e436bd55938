"""Waits for batches, scatters their outputs, and sets the outcomes of their requests."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.compilation.interface import Execution
from engine.errors import ExecutionFailed, NonFiniteOutput
from engine.models.processor import failure
from engine.models.signature import Signature
from engine.models.tensors import Arrays, TensorSpec
from engine.runtime.pending import Origin, Part, Pending, fail_all, notify
from engine.runtime.staging import check_outputs
from engine.runtime.work_queue import Dispatch, WorkQueue
from engine.telemetry.events import BatchReport


@dataclass(slots=True, eq=False)  # not frozen: that would double the cost of making one
class InFlight:
    """One launched batch. `execution` is None if it could not start, for `failure`."""

    dispatch: Dispatch
    execution: Execution | None
    failure: Exception | None
    launched_at: float
    gather_s: float


class Completion:
    """`run` is the completion thread. Batches are completed one at a time, in the order of their
    launch, by it or by the thread that launched them.
    """

    def __init__(
        self,
        name: str,
        queue_: WorkQueue,
        signature: Signature,
        clock: Callable[[], float],
        batch_done: Callable[[BatchReport], object],
    ) -> None:
        """`batch_done` is called with the report of every completed batch."""
        self._name = name
        self._queue = queue_
        self._specs = signature.device_outputs
        self._clock = clock
        self._batch_done = batch_done
        self._batches: queue.SimpleQueue[InFlight | None] = queue.SimpleQueue()
        self._put = self._taken = 0

    def put(self, batch: InFlight) -> None:
        """Let the completion thread complete it."""
        self._put += 1
        self._batches.put(batch)

    def complete_now(self, batch: InFlight) -> bool:
        """Complete a batch in the calling thread, if it has finished and none is before it."""
        execution = batch.execution
        if execution is None or not execution.ready or self._taken != self._put:
            return False
        self._complete(batch)
        return True

    def run(self) -> None:
        """Until `close`."""
        while (batch := self._batches.get()) is not None:
            self._complete(batch)
            self._taken += 1

    def close(self) -> None:
        """Let `run` return when the batches before are complete."""
        self._batches.put(None)

    def _complete(self, batch: InFlight) -> None:
        dispatch = batch.dispatch
        outputs, cause = _outputs_of(batch)
        completed_at = self._clock()
        # before the results are set: a client with an answer may read the load at once
        execute_s = self._queue.complete(
            dispatch, batch.launched_at, completed_at, failed=cause is not None
        )
        for result in dispatch.results:
            result.computed_at = completed_at
        if cause is None:
            cause = self._set_results(dispatch, outputs)
        if cause is not None:
            message = str(failure(f"a batch of model {self._name!r} failed on the device", cause))
            fail_all((result, _batch_failed(message, cause)) for result in dispatch.results)
            for result in dispatch.results:
                self._queue.withdraw(result.request)
        self._queue.completed()
        self._report(batch, execute_s, completed_at, failed=cause is not None)

    def _report(
        self, batch: InFlight, execute_s: float, completed_at: float, *, failed: bool
    ) -> None:
        launch = batch.dispatch.launch
        report = BatchReport(
            bucket=launch.bucket,
            rows=launch.rows,
            reason=launch.reason,
            gather_s=batch.gather_s,
            execute_s=execute_s,
            scatter_s=self._clock() - completed_at,
            failed=failed,
        )
        self._batch_done(report)

    def _set_results(self, dispatch: Dispatch, outputs: Arrays) -> Exception | None:
        """Hand the outputs over, each origin's together. Returns why that failed."""
        ready: list[Pending] = []
        cause: Exception | None = None
        try:
            check_outputs(dispatch.launch.bucket, self._specs, outputs)
            for origin, parts in self._finite_parts(dispatch, outputs).items():
                origin.deliver(self._specs, outputs, parts, ready)
        except Exception as error:
            cause = error
        finally:
            # once for the batch: waking a thread per request costs as much as the request
            notify(ready)
        return cause

    def _finite_parts(self, dispatch: Dispatch, outputs: Arrays) -> dict[Origin, list[Part]]:
        """The rows of the batch by origin. Requests whose outputs are not finite fail."""
        launch, at = dispatch.launch, 0
        parts: dict[Origin, list[Part]] = {}
        # checking all rows at once costs as much as checking one; single rows are rarely checked
        all_finite = _nonfinite(self._specs, outputs, 0, launch.rows) is None
        for result, row_slice in zip(dispatch.results, launch.slices, strict=True):
            end = at + row_slice.count
            bad = None if all_finite else _nonfinite(self._specs, outputs, at, end)
            if bad is None:
                parts.setdefault(result.origin, []).append(Part(result, row_slice, at))
            else:
                problem = f"the model made NaN or infinity in {bad!r} for this request's rows"
                result.fail(NonFiniteOutput(problem))
                self._queue.withdraw(result.request)  # if it was split, the rest need not run
            at = end
        return parts


def _outputs_of(batch: InFlight) -> tuple[Arrays, Exception | None]:
    """The batch's outputs, or why there are none."""
    if batch.execution is None:
        return {}, batch.failure
    try:
        return batch.execution.result(), None
    except Exception as error:
        return {}, error


def _batch_failed(message: str, cause: Exception) -> ExecutionFailed:
    error = ExecutionFailed(message)
    error.__cause__ = cause
    return error


def _nonfinite(specs: Sequence[TensorSpec], outputs: Arrays, start: int, end: int) -> str | None:
    """The first output that must be finite and is not, of the rows from `start` to `end`."""
    for spec in specs:
        if spec.nonfinite or spec.dtype.kind in "biu":
            continue
        rows = outputs[spec.name][start:end]
        # for small arrays, counting takes a third of the time of `all`
        if np.count_nonzero(np.isfinite(rows)) != rows.size:
            return spec.name
    return None
