"""What is served under one name: a version, its queue, its threads, its statistics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Final

from engine.errors import BrimError, ModelFailed, Refused, reason_of
from engine.models.config import ModelConfig
from engine.models.model import ModelState
from engine.models.processor import TokenIds
from engine.models.tensors import Arrays
from engine.runtime.device_group import DeviceGroup
from engine.runtime.pending import Home, Pending, PendingResult
from engine.runtime.request import QueuedRequest, Request
from engine.runtime.work_queue import WorkQueue
from engine.runtime.worker_threads import WorkerThreads
from engine.scheduling.admission import AdmissionProbe
from engine.scheduling.scheduler import Scheduler, SchedulerOptions
from engine.serving.bring_up import BringUp, Toolchain
from engine.serving.lifecycle import Lifecycle, Stopped
from engine.serving.preparation import RequestPreparer
from engine.serving.version import FIRST_VERSION, LoadedVersion, ModelInterface
from engine.telemetry.events import Observer, Observers, Phases, RequestReport
from engine.telemetry.recorder import ModelRecorder
from engine.telemetry.snapshots import LoadSnapshot, ModelSnapshot, ModelStatus

log = logging.getLogger("brim.engine")

STALL_S: Final = 10.0
STALL_TIMES_COST: Final = 20.0
"""A batch in flight for longer than `STALL_TIMES_COST` times the most expensive bucket, plus
`STALL_S` seconds, has stalled."""

ROUNDING: Final = 1e-6
"""A deadline less what was added to a moment differs from that by less than this share."""

HUNG_TIMES: Final = 4.0
"""A batch in flight for so many times longer hangs: a deadlocked callback, a lost device. Nothing
in this process can end it."""

WAKE_S: Final = 0.0001
"""Seconds by which a thread that waits for a moment usually wakes up late."""


class Endpoint:
    """A configured model. `bring_up` runs on the engine's start-up thread; any thread may call the
    other methods at any time.
    """

    def __init__(
        self,
        config: ModelConfig,
        tools: Toolchain,
        observer: Observer,
        clock: Callable[[], float],
        group: DeviceGroup,
    ) -> None:
        """`group` is shared with the other models of the engine."""
        self.config = config
        self._recorder = ModelRecorder(clock)
        self._observer = Observers([self._recorder, observer])
        self._clock = clock
        self._group = group
        changed = partial(self._observer.state_changed, config.name)
        self.lifecycle = Lifecycle(config.name, len(config.grid.buckets), clock, changed)
        self._bring_up = BringUp(config, self.lifecycle, tools, group, self._observer, clock)
        self._preparer = RequestPreparer(config, clock, self._probe, self.count_refusal)
        self._active: LoadedVersion | None = None
        self._work: WorkQueue | None = None
        self._threads: WorkerThreads | None = None

    @property
    def name(self) -> str:
        """The name in the configuration and in URLs."""
        return self.config.name

    def bring_up(self) -> None:
        """Load, compile, verify, serve. Ends READY, or FAILED with the reason; never raises."""
        try:
            self._activate(self._bring_up.run())
        except Stopped:
            log.info("model %s: start-up was interrupted", self.name)
        except BaseException as error:
            # whatever a factory raises, SystemExit too, fails this model and not the engine
            log.exception("model %s failed to start", self.name)
            self.fail(reason_of(error))

    def _activate(self, version: LoadedVersion) -> None:
        """Serve this version."""
        config, group = self.config, self._group
        options = SchedulerOptions(
            config.max_wait_s, config.max_queue_rows, config.in_flight, WAKE_S
        )
        with group.lock:
            scheduler: Scheduler[QueuedRequest] = Scheduler(
                options,
                version.costs,
                config.grid.bucket_lengths,
                group.timeline,
                config.name,
                config.weight,
            )
        work = WorkQueue(config.name, scheduler, group, self._clock)
        done = partial(self._observer.batch_done, config.name)
        died = self._thread_died
        threads = WorkerThreads(config.name, work, version.replica, done, died, self._clock)
        self._active, self._work, self._threads = version, work, threads
        threads.start()
        if not self.lifecycle.become(ModelState.READY):
            threads.close(0.0)

    def fail(self, reason: str) -> None:
        """The model cannot serve any more; the refusal of every later request has the reason."""
        self.lifecycle.become(ModelState.FAILED, reason)

    def _thread_died(self, reason: str) -> None:
        self.fail(reason)
        self._observer.broken(self.name, reason)

    def abandon(self, reason: str) -> None:
        """FAILED, in a forked child, where none of the threads exists."""
        self._work = self._threads = None
        self._recorder.abandon()
        self.lifecycle.abandon(reason)

    def drain(self) -> None:
        """Refuse new requests, finish the accepted ones. Returns at once."""
        self.lifecycle.become(ModelState.DRAINING)
        if self._work is not None:
            self._work.drain()

    def close(self, timeout_s: float) -> None:
        """Refuse, drain, answer, join. Idempotent."""
        self.drain()
        if self._threads is not None:
            self._threads.close(timeout_s)
        self.lifecycle.become(ModelState.CLOSED)

    @property
    def interface(self) -> ModelInterface:
        """That of the version that serves. Raises `NotReady`, `ModelFailed` or `ShuttingDown`."""
        if self.lifecycle.state is not ModelState.READY or self._active is None:
            raise self.lifecycle.refusal()
        return self._active.interface

    def admit(self) -> ModelInterface:
        """As `interface`, for a request that is not decoded yet; a refusal is counted."""
        try:
            return self.interface
        except (Refused, ModelFailed) as error:
            self.count_refusal(error)
            raise

    def count_refusal(self, error: BrimError, rows: int = 0) -> None:
        """A request was refused, here or by the HTTP side."""
        self._observer.refused(self.name, rows, error)

    def prepare(
        self,
        interface: ModelInterface,
        inputs: Arrays | TokenIds,
        timeout_s: float | None = None,
        priority: int = 0,
        arrived_at: float | None = None,
    ) -> Request:
        """Check and preprocess client tensors; see `RequestPreparer.prepare`."""
        return self._preparer.prepare(interface, inputs, timeout_s, priority, arrived_at)

    def submit(self, request: Request) -> PendingResult:
        """Queue a prepared request, or raise its refusal."""
        result = PendingResult(request, *self.home)
        for _, error in self.accept((result,)):
            raise error
        return result

    @property
    def home(self) -> Home:
        """What its results share."""
        return Home(self._clock, self._requests_done, self._running())

    def accept(self, results: Sequence[Pending]) -> list[tuple[Pending, BrimError]]:
        """Queue requests that came together. Returns those that are refused, and why."""
        refused = self._running().submit(results)
        for result, error in refused:
            self.count_refusal(error, result.request.rows)
        if len(refused) < len(results):
            self._observer.queued(self.name, len(results) - len(refused))
        return refused

    def _probe(self, probe: AdmissionProbe) -> BrimError | None:
        return self._running().probe(probe)

    def _running(self) -> WorkQueue:
        if self._work is None:
            raise AssertionError("READY without a queue; this is a bug")
        return self._work

    def status(self) -> ModelStatus:
        """Whether it serves at this moment, and how soon."""
        state, reason = self.lifecycle.state_and_reason()
        active = self._active
        return ModelStatus(
            name=self.name,
            version=FIRST_VERSION if active is None else active.interface.version,
            state=state,
            reason=reason,
            required=self.config.required,
            progress=self.lifecycle.progress(),
            load=self._load(),
        )

    def snapshot(self) -> ModelSnapshot:
        """The state and statistics of this moment."""
        active, status = self._active, self.status()
        return ModelSnapshot(
            **{field.name: getattr(status, field.name) for field in fields(status)},
            activity=self._recorder.activity(),
            cost_table=() if active is None else active.costs.lines(),
            memory=self._bring_up.memory,
        )

    def _load(self) -> LoadSnapshot:
        if self._work is None:
            return LoadSnapshot()
        load = self._work.load()
        allowed_s = STALL_S + STALL_TIMES_COST * self._work.max_cost_s
        if load.oldest_batch_s <= allowed_s:
            return load
        hung = load.oldest_batch_s > HUNG_TIMES * allowed_s
        return replace(load, stalled_s=load.oldest_batch_s, hung=hung)

    def _requests_done(self, results: Sequence[Pending]) -> None:
        promised_s = min(self.config.slo_s, self.config.timeout_s)
        self._observer.requests_done(self.name, [_report(result, promised_s) for result in results])


def _report(result: Pending, promised_s: float) -> RequestReport:
    """`promised_s`: a client that allows less has a deadline of its own."""
    request, finished, launched = result.request, result.finished_at, result.launched_at
    if finished is None:
        raise AssertionError(f"{result!r} has an outcome without a time; this is a bug")
    enqueued = request.enqueued_at
    return RequestReport(
        request.rows,
        None if launched is None else launched - enqueued,
        _phases(result, enqueued, finished),
        finished - enqueued,
        result.error,
        request.deadline - enqueued < (1 - ROUNDING) * promised_s,
    )


def _phases(result: Pending, enqueued: float, finished: float) -> Phases | None:
    gathering, launched, computed = result.gathering_at, result.launched_at, result.computed_at
    if gathering is None or launched is None or computed is None:
        return None
    return Phases(
        gathering - enqueued, launched - gathering, computed - launched, finished - computed
    )
