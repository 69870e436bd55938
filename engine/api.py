"""The boundary of the engine: everything that `app/` may import of it.

`EngineClient`, `Endpoint` and `PendingResult` are interfaces. An HTTP process cannot tell whether
the engine behind them runs in the same process (`InProcessClient`) or in another one.

A request goes through them in this order: `client.endpoint(name, version)`, once; `admit()` returns
the signature to decode by; `prepare(...)` preprocesses and validates; `submit(...)` queues it, or
raises its refusal; `on_ready(...)` or `result()` of the pending result gives the outcome.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from engine import errors as errors
from engine.errors import BrimError as BrimError
from engine.errors import Cancelled as Cancelled
from engine.errors import ConfigError as ConfigError
from engine.errors import DeadlineExceeded as DeadlineExceeded
from engine.errors import DeadlineTooShort as DeadlineTooShort
from engine.errors import EngineLost as EngineLost
from engine.errors import ExecutionFailed as ExecutionFailed
from engine.errors import InvalidRequest as InvalidRequest
from engine.errors import ModelFailed as ModelFailed
from engine.errors import NonFiniteOutput as NonFiniteOutput
from engine.errors import NoThread as NoThread
from engine.errors import NotReady as NotReady
from engine.errors import QueueFull as QueueFull
from engine.errors import Refused as Refused
from engine.errors import RequestTooLarge as RequestTooLarge
from engine.errors import Shed as Shed
from engine.errors import ShuttingDown as ShuttingDown
from engine.errors import TooManyWaiting as TooManyWaiting
from engine.errors import UnknownModel as UnknownModel
from engine.errors import UnknownVersion as UnknownVersion
from engine.errors import WarmupError as WarmupError
from engine.errors import reason_of as reason_of
from engine.models import registry as registry
from engine.models.config import ModelConfig as ModelConfig
from engine.models.config import Source as Source
from engine.models.model import ModelState as ModelState
from engine.models.processor import Parameter as Parameter
from engine.models.processor import TokenIds as TokenIds
from engine.models.signature import Signature as Signature
from engine.models.tensors import DTYPES as DTYPES
from engine.models.tensors import LENGTH as LENGTH
from engine.models.tensors import Array as Array
from engine.models.tensors import Arrays as Arrays
from engine.models.tensors import TensorSpec as TensorSpec
from engine.runtime.request import Request as Request
from engine.runtime.request import too_many_rows as too_many_rows
from engine.scheduling.buckets import Bucket as Bucket
from engine.scheduling.buckets import BucketGrid as BucketGrid
from engine.scheduling.costs.bucket_policy import LOADS as LOADS
from engine.scheduling.costs.cost_table import Cost as Cost
from engine.scheduling.costs.cost_table import CostTable as CostTable
from engine.scheduling.request_queue import DEFAULT_PRIORITY as DEFAULT_PRIORITY
from engine.scheduling.request_queue import LOWEST_PRIORITY as LOWEST_PRIORITY
from engine.scheduling.scheduler import REASONS as REASONS
from engine.serving.client import InProcessClient as InProcessClient
from engine.serving.examination import examine as examine
from engine.serving.version import ModelInterface as ModelInterface
from engine.simulation.scenario import BRIM as BRIM
from engine.simulation.scenario import POLICIES as POLICIES
from engine.simulation.scenario import Scenario as Scenario
from engine.simulation.scenario import capacity as capacity
from engine.simulation.scenario import closed_loop_bound as closed_loop_bound
from engine.simulation.simulator import Result as Result
from engine.simulation.simulator import replicas_needed as replicas_needed
from engine.simulation.traces import TRACES as TRACES
from engine.simulation.traces import Arrival as Arrival
from engine.simulation.traces import Clients as Clients
from engine.simulation.traces import Shape as Shape
from engine.simulation.traces import recorded as recorded
from engine.simulation.traces import split as split
from engine.simulation.tuner import Goal as Goal
from engine.simulation.tuner import Tuner as Tuner
from engine.simulation.tuner import grid_of as grid_of
from engine.simulation.tuner import p99 as p99
from engine.simulation.tuner import restricted as restricted
from engine.telemetry.events import Observer as Observer
from engine.telemetry.events import Observers as Observers
from engine.telemetry.snapshots import OUTCOMES as OUTCOMES
from engine.telemetry.snapshots import Activity as Activity
from engine.telemetry.snapshots import BatchStats as BatchStats
from engine.telemetry.snapshots import Counts as Counts
from engine.telemetry.snapshots import Duration as Duration
from engine.telemetry.snapshots import Durations as Durations
from engine.telemetry.snapshots import EngineSnapshot as EngineSnapshot
from engine.telemetry.snapshots import EngineStatus as EngineStatus
from engine.telemetry.snapshots import HistogramSnapshot as HistogramSnapshot
from engine.telemetry.snapshots import MemoryUse as MemoryUse
from engine.telemetry.snapshots import ModelSnapshot as ModelSnapshot
from engine.telemetry.snapshots import ModelStatus as ModelStatus

if TYPE_CHECKING:
    from engine.transport.client.shared_memory_client import SharedMemoryClient
    from engine.transport.protocol.status import StatusPage
    from engine.transport.server.engine_server import EngineServer
    from engine.transport.server.hooks import HookThreads


class PendingResult(Protocol):
    """The result of one submitted request: one outcome, set once."""

    @property
    def request(self) -> Request:
        """What was submitted."""

    @property
    def ready(self) -> bool:
        """Whether the outcome is there."""

    @property
    def deadline(self) -> float:
        """When it expires, on the clock of `time.monotonic`."""

    def on_ready(self, listener: Callable[[Sequence[PendingResult]], object]) -> None:
        """Call `listener` once when it is ready, with all results of its batch that have the same
        listener. It is called on a thread of the engine, or at once if it is ready.
        """

    def wait(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` seconds until it is ready. Returns whether it is."""

    def result(self) -> Arrays:
        """Wait until it is ready or the deadline. Returns the client's outputs, or raises. The
        arrays are valid until `release`.
        """

    def release(self) -> None:
        """The outputs are not needed any more: their memory may be used again. Idempotent. Every
        submitted request needs it, whatever its outcome.
        """

    def cancel(self) -> bool:
        """The client has disconnected. Returns False if there was an outcome before."""

    def expire(self) -> None:
        """The deadline has passed. When this returns, it is ready."""


class Endpoint(Protocol):
    """A configured model: looked up once per request."""

    @property
    def name(self) -> str:
        """The name in the configuration and in URLs."""

    @property
    def config(self) -> ModelConfig:
        """The configuration."""

    @property
    def interface(self) -> ModelInterface:
        """Signature and host processor of the version that serves. Raises `NotReady`,
        `ModelFailed` or `ShuttingDown`.
        """

    def admit(self) -> ModelInterface:
        """As `interface`, for a request that is not decoded yet; a refusal is counted."""

    def count_refusal(self, error: BrimError, rows: int = 0) -> None:
        """A request was refused before it was submitted."""

    def prepare(
        self,
        interface: ModelInterface,
        inputs: Arrays | TokenIds,
        timeout_s: float | None = None,
        priority: int = 0,
        arrived_at: float | None = None,
    ) -> Request:
        """Preprocess and validate client tensors, rows first, or token ids, in the calling thread.

        `timeout_s` can only shorten the model's own. `priority` 1 is the highest, 9 the lowest, 0
        the default. `arrived_at` is when the request was read; without it, it arrives now. Raises
        `DeadlineExceeded`, `InvalidRequest`, `ExecutionFailed`, or a refusal.
        """

    def submit(self, request: Request) -> PendingResult:
        """Queue a prepared request. Raises `QueueFull`, `Shed`, `ShuttingDown`, `ModelFailed` or
        `EngineLost`; with the engine in another process, the result may raise them instead.
        """

    def status(self) -> ModelStatus:
        """Whether it serves at this moment, and how soon. Costs no round trip."""

    def snapshot(self) -> ModelSnapshot:
        """State and statistics at this moment."""


class EngineClient(Protocol):
    """The engine, as the HTTP side and other hosts see it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The configured models, in the order of the configuration."""

    @property
    def ready(self) -> bool:
        """Whether traffic may come: every required model serves, and at least one."""

    def endpoint(self, name: str, version: str | None = None) -> Endpoint:
        """A configured model. Raises `UnknownModel`, or `UnknownVersion`."""

    def watch(self) -> tuple[int, Callable[[int], object]] | None:
        """A file descriptor, and what to call with epoll's events when it can be read: results
        become ready in that call. The caller does so from now on. None where threads of the engine
        make results ready, and where nothing calls this, a thread of the client does it.
        """

    def coalesce(self) -> AbstractContextManager[None]:
        """Requests that one thread submits inside reach the engine together, at the end: do not
        wait for a result inside.
        """

    def status(self) -> EngineStatus:
        """Whether every model serves at this moment, and how soon. Costs no round trip."""

    def snapshot(self) -> EngineSnapshot:
        """State and statistics of every model at this moment."""


# --- the engine in a process of its own: imported late, since only Linux has what it needs --------


def can_share_memory() -> bool:
    """Whether this system has what the transport needs: memfd, eventfd and epoll."""
    return all(
        hasattr(*each) for each in ((os, "memfd_create"), (os, "eventfd"), (select, "epoll"))
    )


def listen() -> socket.socket:
    """A socket for the engine's process; its address is for the HTTP processes."""
    from engine.transport.protocol import messages

    return messages.listen()


def status_page() -> StatusPage:
    """A new page that the engine's process writes and every HTTP process reads."""
    from engine.transport.protocol.status import StatusPage

    return StatusPage.create()


def engine_server(
    make_client: Callable[[Observer], InProcessClient],
    listener: socket.socket,
    page_fd: int,
    threads: HookThreads,
    drain_s: float,
) -> EngineServer:
    """Serves the engine that `make_client(observer)` makes to other processes. `threads` run the
    hooks that cannot run in these.
    """
    from engine.transport.protocol.memory import SharedMemory
    from engine.transport.protocol.status import StatusPage
    from engine.transport.server.engine_server import EngineServer

    page = StatusPage(SharedMemory(page_fd))
    return EngineServer(make_client, listener, page, threads, drain_s)


def shared_memory_client(
    models: Sequence[ModelConfig], address: bytes, page: StatusPage
) -> SharedMemoryClient:
    """The client of the engine whose process listens at `address`. It is not started."""
    from engine.transport.client.shared_memory_client import SharedMemoryClient

    return SharedMemoryClient(models, address, page)
