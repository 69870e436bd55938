"""Sockets for the parts of the worker."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from app.worker.calls.job import Job
from app.worker.calls.lane import Lane


class FakePending:
    """A pending result that a test sets; `outcome` is a value or a reason."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.outcome: object = None
        self._callback: Callable[[list[FakePending]], object] | None = None

    @property
    def ready(self) -> bool:
        """Whether there is an outcome."""
        return self.outcome is not None

    def on_ready(self, callback: Callable[[list[FakePending]], object]) -> None:
        """Call it once."""
        self._callback = callback
        if self.ready:
            self.set("")

    def set(self, outcome: object) -> None:
        """Set the outcome, if there is none, and notify."""
        self.outcome = self.outcome or outcome
        callback, self._callback = self._callback, None
        if callback is not None:
            callback([self])

    def cancel(self) -> None:
        """The client has gone."""
        self.set("cancelled")

    def expire(self) -> None:
        """The deadline has passed."""
        self.set("expired")


class LaneByHand(Lane):
    """A lane whose threads are the test: it does what they would do, when it wants.

    `started` counts threads; with `exhausted` the system starts no more.
    """

    def __init__(self, clock: Callable[[], float], threads: int = 4) -> None:
        super().__init__("by hand", threads, clock)
        self.started = 0
        self.exhausted = False

    def _start(self) -> None:
        if self.exhausted:
            raise RuntimeError("can't start new thread")
        self.started += 1

    @property
    def calls(self) -> int:
        """How many wait."""
        return self.load().waiting

    def take(self) -> Job:
        """What a thread does first."""
        job = self._take()
        assert job is not None
        return job

    def make(self, job: Job | None = None) -> bool:
        """What it does then. Returns whether it ends."""
        return self._make(job or self.take())


Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Ours and theirs."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def tcp() -> Iterator[Pair]:
    """Ours and theirs, over TCP: a client that has closed looks as one that has said all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with ours, theirs:
            yield ours, theirs
