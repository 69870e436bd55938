"""One model's whole life: load, compile, prove, serve, drain, close.

May touch: threading, a clock. JAX arrives through `Compiler`, which a test replaces.

`_lock` guards the state and its reason. The start-up runs on the engine's thread
(`bring_up`); every other method may be called from any thread at any time.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol

from engine.batcher import Batcher, Hope, Load, SharedDevice
from engine.batching import BatchQueue, Policy
from engine.buckets import Bucket
from engine.config import ModelConfig
from engine.costs import CostTable
from engine.errors import (
    BrimError,
    ExecutionFailed,
    InvalidRequest,
    ModelFailed,
    NotReady,
    Refused,
    ShuttingDown,
)
from engine.model import Model, Prepared
from engine.observer import Observer, Observers, Phases, TicketReport
from engine.runnable import Runnable
from engine.spec import Arrays, Extent, validate
from engine.state import ModelState
from engine.stats import MemoryUse, ModelStats, Progress
from engine.tally import Tally
from engine.ticket import Ticket
from engine.waiting import DEFAULT_PRIORITY, LOWEST_PRIORITY
from engine.warmup import Proof

log = logging.getLogger("brim.engine")

STALL_S, STALL_TIMES_COST = 10.0, 20.0
"""A batch that is this many seconds late, beyond this many times the dearest bucket, is stuck."""


WAKE_S = 0.0001
"""A thread that sleeps until a moment wakes up about so much later."""


class BucketCompiler(Protocol):
    """Makes executables of one model; `executable.Compiler` is the real one."""

    @property
    def weights_bytes(self) -> int: ...
    def compile(self, bucket: Bucket) -> Runnable: ...


class Stopped(Exception):
    """Start-up was interrupted by `close`."""


class ServedModel:
    """A configured model and everything that is running for it."""

    def __init__(
        self,
        config: ModelConfig,
        load: Callable[[ModelConfig], Model],
        compiler: Callable[[Model], BucketCompiler],
        observer: Observer,
        clock: Callable[[], float],
        device: SharedDevice,
    ) -> None:
        """`device` is shared with the other models of the engine."""
        self.config = config
        self._grid = config.grid  # made anew whenever the config is asked
        self._device = device
        self._load = load
        self._compiler = compiler
        self._tally = Tally()
        self._observer = Observers([self._tally, observer])
        self._clock = clock
        self._lock = threading.Lock()
        self._state = ModelState.LOADING
        self._reason: str | None = None
        self._compiled = self._proved = 0
        self._started_at: float | None = None
        self._settled_at: float | None = None
        self._model: Model | None = None
        self._costs: CostTable | None = None
        self._memory: MemoryUse | None = None
        self._batcher: Batcher | None = None

    # --- start-up, on the engine's thread --------------------------------------------------------

    def bring_up(self) -> None:
        """Load, compile, prove. Ends READY, or FAILED with the reason; never raises."""
        self._started_at = self._clock()
        try:
            model = self._load(self.config)
            self._raise_if_stopped()
            self._check_axes(model)
            self._become(ModelState.COMPILING)
            runnables = self._compile(model)
            self._become(ModelState.WARMING)
            proof = Proof(model, self._grid, runnables, self.config.tolerance, self._clock)
            self._serve(model, runnables, proof.run(self._note_proved))
        except Stopped:
            log.info("model %s: start-up was interrupted", self.config.name)
        except BaseException as error:
            # whatever a factory raises, SystemExit too, is this model's failure and no other's
            log.exception("model %s failed to start", self.config.name)
            self.fail(f"{type(error).__name__}: {error}")

    def _check_axes(self, model: Model) -> None:
        if model.dynamic and not self.config.lengths:
            raise ValueError("the model has a dynamic axis; the config needs lengths = [...]")
        if not model.dynamic and self.config.lengths:
            raise ValueError("the model has no dynamic axis; the config must not give lengths")
        longest = self._grid.max_length
        if longest and model.max_length and longest > model.max_length:
            raise ValueError(
                f"lengths reach {longest}, but the model's own limit is {model.max_length}"
            )

    def _compile(self, model: Model) -> dict[Bucket, Runnable]:
        """All buckets, several at once; XLA compiles without the GIL."""
        compiler = self._compiler(model)
        runnables: dict[Bucket, Runnable] = {}
        with ThreadPoolExecutor(self.config.compile_threads, "brim-compile") as pool:
            started = self._clock()
            futures = {
                pool.submit(compiler.compile, bucket): bucket for bucket in self._grid.buckets
            }
            try:
                for future in as_completed(futures):
                    bucket = futures[future]
                    runnables[bucket] = future.result()
                    self._compiled += 1
                    self._observer.compiled(self.config.name, bucket, self._clock() - started)
                    self._raise_if_stopped()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        self._memory = MemoryUse(
            compiler.weights_bytes,
            tuple((b.rows, b.length, runnables[b].memory) for b in self._grid.buckets),
        )
        return runnables

    def _note_proved(self, bucket: Bucket, seconds: float) -> None:
        self._proved += 1
        self._observer.proved(self.config.name, bucket, seconds)
        self._raise_if_stopped()

    def _raise_if_stopped(self) -> None:
        if self._state in (ModelState.DRAINING, ModelState.CLOSED):
            raise Stopped

    def _serve(self, model: Model, runnables: Mapping[Bucket, Runnable], costs: CostTable) -> None:
        config = self.config
        policy = Policy(config.max_wait_s, config.max_queue_rows, config.in_flight, WAKE_S)
        with self._device.lock:
            waiting: BatchQueue[Ticket] = BatchQueue(
                policy, costs, self._grid.lanes, self._device.device, config.name, config.weight
            )
        self._model, self._costs = model, costs
        self._batcher = Batcher(
            config.name,
            model,
            waiting,
            runnables,
            self._observer,
            self._clock,
            self.fail,
            self._device,
        )
        self._batcher.start()
        if not self._become(ModelState.READY):
            self._batcher.close(0.0)

    # --- state -----------------------------------------------------------------------------------

    @property
    def state(self) -> ModelState:
        """Where its life stands."""
        return self._state

    def abandon(self, reason: str) -> None:
        """FAILED, in a forked child. No other thread lives here, and a lock may be held by one that
        stayed behind, so none is taken.
        """
        self._lock = threading.Lock()
        self._batcher = None
        self._state, self._reason = ModelState.FAILED, reason

    def fail(self, reason: str) -> None:
        """The model is done for: the state says so, and every later request is told why."""
        self._become(ModelState.FAILED, reason)

    def _become(self, state: ModelState, reason: str | None = None) -> bool:
        with self._lock:
            if not self._state.may_become(state):
                return False
            self._state = state
            if reason is not None:
                self._reason = reason
            if state.settled and self._settled_at is None:
                self._settled_at = self._clock()
        self._observer.state_changed(self.config.name, state, reason)
        return True

    # --- serving ---------------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        """The loaded model. Raises `NotReady`, `ModelFailed` or `ShuttingDown` when there is none
        that serves.
        """
        if self._state is not ModelState.READY or self._model is None:
            raise self._refusal()
        return self._model

    def admit(self) -> Model:
        """The model, for a request that is about to come. A refusal is counted here."""
        try:
            return self.model
        except (Refused, ModelFailed) as error:
            self.count_refusal(0, error)
            raise

    def count_refusal(self, rows: int, error: BrimError) -> None:
        """A request was turned away, here or by whoever stands in front of the engine."""
        self._observer.refused(self.config.name, rows, error)

    def submit(self, inputs: Arrays, timeout_s: float | None = None, priority: int = 0) -> Ticket:
        """Check, preprocess and queue one request: wire tensors, rows first.

        `timeout_s` can only shorten the model's own. `priority` 1 is the highest, 9 the lowest, 0
        the default, which is 5. Raises `InvalidRequest`, or one of the refusals.
        """
        arrived_at = self._clock()
        model = self.admit()
        if not 0 <= priority <= LOWEST_PRIORITY:
            problem = f"got {priority}, expected 1 (highest) to {LOWEST_PRIORITY}, or 0"
            raise InvalidRequest("parameters.priority", problem)
        wanted = self.config.timeout_s if timeout_s is None else timeout_s
        # in this order a NaN is no wish; as a deadline it would never come
        deadline = arrived_at + min(self.config.timeout_s, wanted)
        level = priority or DEFAULT_PRIORITY
        prepared = self._prepare(model, inputs, arrived_at, deadline, level)
        extent = self._extent(model, prepared)
        ticket = Ticket(
            prepared,
            extent,
            lane=self._grid.fit_length(extent.length),
            enqueued_at=arrived_at,
            deadline=deadline,
            clock=self._clock,
            settled=self._settled,
            priority=level,
        )
        self._enqueue(ticket)
        return ticket

    def _extent(self, model: Model, prepared: Prepared) -> Extent:
        extent = validate(model.device_inputs, prepared.inputs, self._grid.max_length)
        most = self.config.max_queue_rows
        if extent.rows > most:
            raise InvalidRequest("inputs", f"{extent.rows} rows never fit, expected 1 to {most}")
        return extent

    def _prepare(
        self, model: Model, inputs: Arrays, now: float, deadline: float, priority: int
    ) -> Prepared:
        if model.preprocess is None:
            return Prepared(inputs)
        count = validate(model.inputs, inputs).rows
        # under overload most requests are refused: those that could not be answered in time even
        # if all their rows were short, before a preprocess is paid for
        hope = Hope(count, self._grid.lanes[0], now, deadline, priority)
        refusal = self._running().refusal(hope)
        if refusal is not None:
            self.count_refusal(count, refusal)
            raise refusal
        try:
            return model.preprocess(inputs)
        except BrimError:
            raise
        except Exception as error:
            raise ExecutionFailed(f"preprocess failed: {error}") from error

    def _running(self) -> Batcher:
        if self._batcher is None:
            raise AssertionError("READY without a batcher; this is a bug")
        return self._batcher

    def _enqueue(self, ticket: Ticket) -> None:
        try:
            self._running().submit(ticket)
        except (Refused, ModelFailed) as error:
            self.count_refusal(ticket.rows, error)
            raise
        self._observer.queued(self.config.name, ticket.rows)

    def result(self, ticket: Ticket) -> Arrays:
        """Wait for a ticket and postprocess: wire tensors, rows first, or the error, raised."""
        outputs = ticket.result()
        model = self._model
        if model is None or model.postprocess is None:
            return outputs
        try:
            return model.postprocess(outputs)
        except Exception as error:
            raise ExecutionFailed(f"postprocess failed: {error}") from error

    def _refusal(self) -> BrimError:
        name, state = self.config.name, self._state
        if state is ModelState.FAILED:
            return ModelFailed(f"model {name!r} has failed: {self._reason}")
        if state in (ModelState.DRAINING, ModelState.CLOSED):
            return ShuttingDown("the server is shutting down", 1.0)
        progress = self._progress()
        left = 1.0
        if progress.expected_s is not None:
            left = max(1.0, progress.expected_s - progress.elapsed_s)
        return NotReady(
            f"model {name!r} is {state.value}: {progress.buckets_done} of "
            f"{progress.buckets_total} buckets are proven",
            left,
        )

    # --- shutdown --------------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse what comes, finish what is there. Returns at once."""
        self._become(ModelState.DRAINING)
        if self._batcher is not None:
            self._batcher.drain()

    def close(self, timeout_s: float) -> None:
        """Refuse, drain, answer, join. Idempotent."""
        self.drain()
        if self._batcher is not None:
            self._batcher.close(timeout_s)
        self._become(ModelState.CLOSED)

    # --- what it says of itself ------------------------------------------------------------------

    def stats(self) -> ModelStats:
        """A frozen picture of this moment."""
        with self._lock:
            state, reason = self._state, self._reason
        load = self._batcher.load() if self._batcher else Load(0, 0, 0, 0.0)
        return ModelStats(
            name=self.config.name,
            state=state,
            reason=reason,
            required=self.config.required,
            progress=self._progress(),
            queued_rows=load.queued_rows,
            queued_requests=load.queued_requests,
            in_flight=load.in_flight,
            stalled_s=self._stalled(load.oldest_batch_s),
            counts=self._tally.counts(),
            durations=self._tally.durations(),
            batches=self._tally.batches(),
            last_inference_ms=self._tally.last_inference_ms,
            cost_table=self._costs.lines() if self._costs else (),
            memory=self._memory,
        )

    def _stalled(self, oldest_batch_s: float) -> float:
        """For how long the device has owed an answer that is overdue beyond doubt."""
        if self._costs is None:
            return 0.0
        allowed = STALL_S + STALL_TIMES_COST * self._costs.dearest
        return oldest_batch_s if oldest_batch_s > allowed else 0.0

    def _progress(self) -> Progress:
        now = self._clock()
        total = len(self._grid.buckets)
        started, settled = self._started_at, self._settled_at
        elapsed = 0.0 if started is None else (now if settled is None else settled) - started
        # compiling and proving are half of the way each: true within a factor of two, and honest
        # enough for a progress bar and a Retry-After
        done = (self._compiled + self._proved) / (2 * total)
        expected = elapsed / done if done and math.isfinite(elapsed) else None
        return Progress(self._proved, total, elapsed, expected)

    def _settled(self, tickets: list[Ticket]) -> None:
        self._observer.tickets_done(self.config.name, [_report(ticket) for ticket in tickets])


def _report(ticket: Ticket) -> TicketReport:
    enqueued, finished = ticket.enqueued_at, ticket.finished_at
    launched = ticket.launched_at
    if finished is None:
        raise AssertionError(f"{ticket!r} is settled at no moment; this is a bug")
    return TicketReport(
        rows=ticket.rows,
        queue_s=None if launched is None else launched - enqueued,
        phases=_phases(ticket, finished),
        latency_s=finished - enqueued,
        error=ticket.error,
    )


def _phases(ticket: Ticket, finished: float) -> Phases | None:
    gathering, launched, computed = ticket.gathering_at, ticket.launched_at, ticket.computed_at
    if gathering is None or launched is None or computed is None:
        return None
    return Phases(
        queue_s=gathering - ticket.enqueued_at,
        input_s=launched - gathering,
        infer_s=computed - launched,
        output_s=finished - computed,
    )
