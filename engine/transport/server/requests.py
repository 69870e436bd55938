"""What the engine's process keeps of a request of another process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, cast

from typing_extensions import override

from engine.errors import BrimError, Cancelled, DeadlineExceeded
from engine.models.tensors import Arrays
from engine.runtime.pending import Home, Listener, Origin, Pending
from engine.scheduling.buckets import BucketGrid
from engine.serving.endpoint import Endpoint
from engine.transport.protocol.layout import Layout, Layouts
from engine.transport.server.blocks import Place

_IN_BLOCK: Final[Arrays] = {}
"""The outcome of a request whose outputs are in its block."""


class RemoteOrigin(Origin, Protocol):
    """The process that a request came from. `lock` guards the outcomes of all its requests."""

    lock: threading.Lock

    def publish(self, results: Sequence[RemoteRequest]) -> None:
        """Let it see these outcomes."""


class RemoteRequest(Pending):
    """A request of another process, and its outcome. Its rows stay in their block: the scheduler
    and the staging read one object of fixed fields, and no array is made for it.
    """

    __slots__ = (
        "bucket_length",
        "deadline",
        "enqueued_at",
        "layout",
        "memory",
        "number",
        "place",
        "priority",
        "rows",
        "rows_missing",
    )

    def __init__(
        self,
        origin: RemoteOrigin,
        home: Home,
        place: Place,
        record: Sequence[Any],
        layout: Layout,
        bucket_length: int | None,
    ) -> None:
        """`record` is that of the ring."""
        super().__init__(home, origin.lock, origin)
        self.place = place
        self.memory = place.blocks
        self.number, self.enqueued_at, self.deadline, _, self.rows = record[:5]
        self.priority = record[9]
        self.layout = layout
        self.bucket_length = bucket_length
        self.rows_missing = self.rows

    @property
    @override
    def request(self) -> Self:
        return self

    def written(self, rows: int, now: float) -> bool:
        """So many rows of its outputs are in the block. Returns whether that is the outcome. Hold
        the lock.
        """
        self.rows_missing -= rows
        if self.rows_missing < 0:
            raise AssertionError(f"{self!r} was given rows twice; this is a bug")
        if self.rows_missing or self._outcome is not None:
            return False
        self._outcome = _IN_BLOCK
        self.finished_at = now
        return True

    @override
    def set_ready(self) -> Listener:
        return cast("RemoteOrigin", self.origin).publish


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A version that other processes may send requests to."""

    endpoint: Endpoint
    home: Home
    layouts: Layouts
    grid: BucketGrid


class HookCall(Protocol):
    """A call of a hook on a thread."""

    def give_up(self) -> bool:
        """The outcome is not wanted any more: a call that waits is not made, one that runs is not
        counted among the threads that there may be.
        """


class Withdrawing(Protocol):
    """The channel of a request."""

    def answer(self, request: PackedRequest, outcome: bytes | BrimError) -> bool:
        """Set the outcome. Returns False if there was one."""


@dataclass(slots=True, eq=False)
class PackedRequest:
    """A request whose hooks run in this process."""

    number: int
    place: Place
    size: int
    enqueued_at: float
    deadline: float
    priority: int
    endpoint: Endpoint
    hook: HookCall | None = None

    def withdraw(self, channel: Withdrawing, *, expired: bool) -> None:
        """The answer is not wanted any more."""
        error: BrimError = Cancelled("the client closed the connection")
        if expired:
            allowed = self.deadline - self.enqueued_at
            error = DeadlineExceeded(f"no answer within {allowed:.3g} s")
        if channel.answer(self, error) and expired:
            self.endpoint.count_refusal(error)
        if self.hook is not None:
            self.hook.give_up()
