"""The result of a request in another process; see `engine.api.PendingResult`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from engine.errors import BrimError, Cancelled, DeadlineExceeded
from engine.models.processor import Prepared
from engine.models.tensors import Arrays
from engine.runtime.pending import call_listeners
from engine.runtime.request import Request
from engine.transport.protocol.layout import Layout, unpack
from engine.transport.protocol.memory import Block, SharedMemory
from engine.transport.protocol.outcomes import error_of
from engine.transport.protocol.rings import ERRORS

Content: TypeAlias = "Layout | bytes"
"""The layout of a request's arrays, or the packed request."""


class Place(NamedTuple):
    """Where a request is: from `begin` of `memory`, in a block of the slab or in its own memory."""

    memory: SharedMemory
    begin: int
    capacity: int
    block: Block | None

    def write(self, content: Content, inputs: Arrays) -> None:
        """Copy the inputs, or the packed request."""
        if isinstance(content, Layout):
            content.write(self.memory.map, self.begin, inputs)
        else:
            self.memory.map[self.begin : self.begin + len(content)] = content

    def read(self, size: int) -> bytes:
        """The first bytes."""
        return self.memory.map[self.begin : self.begin + size]


class Owner(Protocol):
    """What a result needs of the link that it was submitted on. `lock` guards all its results."""

    lock: threading.Lock

    def flush(self) -> None:
        """Publish what the calling thread has submitted: it is about to wait."""

    def withdraw(self, number: int, *, expired: bool) -> None:
        """Tell the engine that the answer is not wanted."""

    def free(self, place: Place) -> None:
        """Take back the memory of a request. Hold the lock."""


class RemoteResult:
    """One outcome, set once: by the engine's answer, or here by `cancel`, `expire` or `lose`.

    The block is free when the engine has answered and the outputs are not needed any more, whatever
    the outcome here: the engine may write into it until then.
    """

    __slots__ = (
        "_answer",
        "_content",
        "_error",
        "_event",
        "_listener",
        "_owner",
        "_released",
        "number",
        "place",
        "request",
    )

    def __init__(self, request: Request, content: Content, place: Place, owner: Owner) -> None:
        self.request = request
        self.number = -1
        self.place: Place | None = place
        self._content = content
        self._owner = owner
        self._answer: tuple[int, int, float] | None = None
        self._error: BrimError | None = None
        self._event: threading.Event | None = None
        self._listener: Listener | None = None
        self._released = False

    def __repr__(self) -> str:
        return f"<RemoteResult {self.number}, {self.request.rows} rows, ready {self.ready}>"

    @property
    def ready(self) -> bool:
        """Whether the outcome is there."""
        return self._answer is not None or self._error is not None

    @property
    def deadline(self) -> float:
        """When it expires, on the clock of `time.monotonic`."""
        return self.request.deadline

    # --- the outcome -----------------------------------------------------------------------------

    def answer(self, kind: int, size: int, retry_s: float) -> bool:
        """The engine has answered. Returns whether that is the outcome. Hold the lock."""
        if self._error is not None:
            self._released = True
        self._answer = kind, size, retry_s
        self._free()
        return self._error is None

    def answer_elsewhere(self, place: Place, kind: int, size: int) -> bool:
        """The engine has answered in another place, which is this result's own. Hold the lock."""
        before, self.place = self.place, place
        if before is not None:
            self._owner.free(before)
        return self.answer(kind, size, 0.0)

    def lose(self, error: BrimError) -> bool:
        """The engine's process is gone. Hold the lock."""
        return self._settle(error)

    def _settle(self, error: BrimError) -> bool:
        if self.ready:
            return False
        self._error = error
        return True

    def release(self) -> None:
        """The outputs are not needed any more: their memory may be used again. Idempotent."""
        with self._owner.lock:
            self._released = True
            self._free()

    def _free(self) -> None:
        if self._released and self._answer is not None and self.place is not None:
            place, self.place = self.place, None
            self._owner.free(place)

    def cancel(self) -> bool:
        """The client has disconnected. Returns False if there was an outcome before."""
        return self._give_up(Cancelled("the client closed the connection"), expired=False)

    def expire(self) -> None:
        """The deadline has passed. When this returns, it is ready."""
        allowed = self.request.deadline - self.request.enqueued_at
        self._give_up(DeadlineExceeded(f"no answer within {allowed:.3g} s"), expired=True)

    def _give_up(self, error: BrimError, *, expired: bool) -> bool:
        with self._owner.lock:
            was_set = self._settle(error)
        if was_set:
            self._owner.withdraw(self.number, expired=expired)
            notify((self,))
        return was_set

    # --- waiting ---------------------------------------------------------------------------------

    def on_ready(self, listener: Listener) -> None:
        """Call `listener` once when it is ready, with all results of its batch that have the same
        listener; at once if it is ready.
        """
        with self._owner.lock:
            if not self.ready:
                self._listener = listener
                return
        listener([self])

    def wait(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` seconds until it is ready. Returns whether it is."""
        if self.ready:
            return True
        self._owner.flush()
        with self._owner.lock:
            if self._event is None:
                self._event = threading.Event()
            if self._answer is not None or self._error is not None:
                self._event.set()
        return self._event.wait(timeout_s)

    def notified(self) -> Listener | None:
        """Wake the waiting threads. Returns the listener, for the caller to call."""
        with self._owner.lock:
            listener, self._listener = self._listener, None
        if self._event is not None:
            self._event.set()
        return listener

    def result(self) -> Arrays:
        """Wait until it is ready or the deadline. Returns the client's outputs, or raises.

        Without a `postprocess` the outputs are views of the block, valid until `release`.
        """
        if not self.ready and not self.wait(max(0.0, self.deadline - time.monotonic())):
            self.expire()
        return self._outcome()

    def _outcome(self) -> Arrays:
        error, answer, place = self._error, self._answer, self.place
        if error is not None:
            raise error
        if answer is None or place is None:
            raise AssertionError(f"{self!r} has no outcome, or was released; this is a bug")
        kind, size, retry_s = answer
        if kind >= ERRORS:
            raise error_of(kind - ERRORS, place.read(size).decode(), retry_s)
        if isinstance(self._content, Layout):
            return self._finish(self._content.read_outputs(place.memory.map, place.begin))
        return self._unpack(place.read(size))

    def _unpack(self, data: bytes) -> Arrays:
        arrays, packed = unpack(data)
        old = self.request
        prepared = Prepared(old.prepared.inputs, packed.parameters, packed.tokens)
        self.request = Request(
            prepared,
            old.extent,
            old.bucket_length,
            old.enqueued_at,
            old.deadline,
            old.priority,
            old.processor,
        )
        return arrays

    def _finish(self, outputs: Arrays) -> Arrays:
        processor = self.request.processor
        if processor.postprocess is None:
            return outputs
        # a hook may keep what it gets, and the block will be used again
        return processor.finish({name: array.copy() for name, array in outputs.items()})


Listener: TypeAlias = Callable[[Sequence[RemoteResult]], object]


def notify(results: Sequence[RemoteResult]) -> None:
    """Wake the waiters of results that became ready, and call each listener once."""
    call_listeners((result.notified(), result) for result in results)
