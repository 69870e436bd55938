"""One connection to an engine process: the memory, the rings, and what is open on them."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from engine.errors import BrimError, EngineLost, QueueFull, RequestTooLarge
from engine.runtime.request import Request
from engine.transport.client.result import Content, Place, RemoteResult, notify
from engine.transport.protocol.layout import Layout
from engine.transport.protocol.memory import SharedMemory, Slab
from engine.transport.protocol.messages import Hello, MessageSocket, Parcel, Refused, Withdraw
from engine.transport.protocol.rings import (
    PACKED,
    PARCEL,
    SLAB,
    BrokenRing,
    RingMemory,
    RingReader,
    RingWriter,
)

RECORDS: Final = 8192
"""Requests that one process may have in the engine at once."""
SLAB_ORDER: Final = 26
"""64 MiB for the rows of these requests; memory is used as far as it was ever full."""

PARCEL_BYTES: Final = 1 << 28
"""256 MiB for requests of one process that are too large for the slab; one alone may be larger."""

LARGEST: Final = (1 << 32) - 1
"""Bytes of one request: more do not fit into its record."""

MOST: Final = 4096
"""Numbers in one message."""

FULL_RETRY_S: Final = 1.0
"""When another try makes sense, where this process has no room."""

LOST: Final = "the engine's process has ended; it is started again"


class Link:
    """Any thread may submit. Outcomes are taken by one thread at a time.

    `lock` guards the ring of requests, the slab, and the open results with their outcomes. It is
    not held while rows are copied.
    """

    def __init__(
        self, messages: MessageSocket, records: int = RECORDS, order: int = SLAB_ORDER
    ) -> None:
        """Send the hello. Raises OSError if the engine is gone."""
        self.messages = messages
        self.lock = threading.Lock()
        self.event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        request_event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        memory = SharedMemory.create("requests", RingMemory.size(records, order))
        rings = RingMemory.of(memory, records, order)
        self.slab = Slab(memory, order)
        self._writer = RingWriter(rings.requests, request_event)
        self._reader = RingReader(rings.outcomes, self.event)
        self._parcel_bytes = 0  # of requests and outcomes with memory of their own
        self._open: dict[int, RemoteResult] = {}
        self._notices = Notices()
        self._coalescing: int | None = None  # the identifier of the coalescing thread
        self.lost = False
        try:
            fds = [memory.fd, request_event, self.event]
            messages.send(Hello(os.getpid(), records, order), fds)
        except OSError:
            self._writer.close()
            self._reader.close()
            raise
        finally:
            memory.close_fd()

    # --- requests --------------------------------------------------------------------------------

    def submit(self, model: int, request: Request, content: Content) -> RemoteResult:
        """Copy a request into shared memory and let the engine see it.

        Raises `QueueFull` if there is no room, `RequestTooLarge` and `EngineLost`.
        """
        size = content.size if isinstance(content, Layout) else len(content)
        place = self._take(size)
        if place is None:
            raise QueueFull("the memory for requests of this process is full", FULL_RETRY_S)
        result = RemoteResult(request, content, place, self)
        place.write(content, request.inputs)
        with self.lock:
            error = self._put(model, result, 0 if isinstance(content, Layout) else size)
            if error is not None:
                self.free(place)
        if error is not None:
            raise error
        if self._coalescing != threading.get_ident():
            self.flush()
        return result

    def _take(self, size: int) -> Place | None:
        slab = self.slab
        if not slab.fits(size):
            return self._take_parcel_memory(size)
        with self.lock:
            block = slab.take(size)
        if block is None:
            return None
        offset, order = block
        return Place(slab.memory, slab.begin + offset, 1 << order, block)

    def _take_parcel_memory(self, size: int) -> Place | None:
        if size > LARGEST:
            problem = f"{size} bytes with the outputs, expected at most {LARGEST}"
            raise RequestTooLarge("inputs", f"{problem}; send several requests")
        with self.lock:
            if self._parcel_bytes and self._parcel_bytes + size > PARCEL_BYTES:
                return None
            self._parcel_bytes += size
        try:
            return Place(SharedMemory.create("request", size), 0, size, None)
        except OSError as error:
            with self.lock:
                self._parcel_bytes -= size
            raise QueueFull(f"no memory for a large request: {error}", FULL_RETRY_S) from None

    def _put(self, model: int, result: RemoteResult, packed: int) -> BrimError | None:
        """Write the record. Returns why that is not possible. Hold the lock."""
        if self.lost:
            return EngineLost(LOST, 1.0)
        if len(self._open) >= self._writer.size:
            return QueueFull(
                f"{len(self._open)} requests of this process wait already", FULL_RETRY_S
            )
        request, place, number = result.request, result.place, self._writer.next_number
        if place is None:
            raise AssertionError("a request without memory; this is a bug")
        memory, begin, capacity, block = place
        offset, kind = begin - self.slab.begin, SLAB
        if block is None:
            offset, kind = 0, PARCEL
            try:
                self.messages.send(Parcel(number, capacity), [memory.fd])
            except OSError as error:
                return QueueFull(f"the engine does not take large requests: {error}", FULL_RETRY_S)
            finally:
                memory.close_fd()
        rows, length = request.extent
        times = request.enqueued_at, request.deadline
        extent = rows, length or 0
        record = (number, *times, offset, *extent, packed, capacity, model, request.priority, kind)
        self._writer.put((*record, 0))
        result.number = number
        self._open[number] = result
        return None

    def free(self, place: Place) -> None:
        """Take back the memory of a request. Hold the lock."""
        if place.block is not None:
            self.slab.give(place.block)
        else:
            self._parcel_bytes -= place.capacity
            place.memory.close_fd()  # where it was not sent

    @property
    def open(self) -> int:
        """Requests that the engine has not answered."""
        return len(self._open)

    # --- wake-ups --------------------------------------------------------------------------------

    def coalesce(self) -> None:
        """From now on, what this thread submits waits for `flush`."""
        self._coalescing = threading.get_ident()

    def stop_coalescing(self) -> None:
        """Publish what was submitted, with one wake-up."""
        self._coalescing = None
        self.flush()

    def flush(self) -> None:
        """Publish what was submitted, and send what is to be told."""
        with self.lock:
            if not self.lost:
                self._writer.publish()
                self._notices.send(self.messages)

    def withdraw(self, number: int, *, expired: bool) -> None:
        """Tell the engine that an answer is not wanted."""
        with self.lock:
            (self._notices.expired if expired else self._notices.cancelled).append(number)
        if self._coalescing != threading.get_ident():
            self.flush()

    def count_refusal(self, model: str, error: int, count: int = 1) -> None:
        """Tell the engine that so many requests were refused before they came."""
        with self.lock:
            self._notices.refused[model, error] += count
        if self._coalescing != threading.get_ident():
            self.flush()

    # --- outcomes --------------------------------------------------------------------------------

    def take_outcomes(self) -> None:
        """Set the outcomes that the engine has published. Raises `BrokenRing`."""
        ready: list[RemoteResult] = []
        try:
            with self.lock:
                if not self.lost:
                    self._take_published(ready)
        finally:
            notify(ready)

    def _take_published(self, ready: list[RemoteResult]) -> None:
        """Append the results that have their outcomes now. Hold the lock. Raises `KeyError` for one
        that is not open.
        """
        for _, number, retry_s, kind, size in self._reader.take():
            result = self._open.pop(number)
            if result.answer(kind, size, retry_s):
                ready.append(result)

    def take_parcel(self, number: int, size: int, fd: int) -> None:
        """Set the outcome of one request, whose packed outputs came in memory of their own."""
        memory = SharedMemory(fd)
        memory.close_fd()
        with self.lock:
            self._parcel_bytes += size
            result = self._open.pop(number)
            was_set = result.answer_elsewhere(Place(memory, 0, size, None), PACKED, size)
        if was_set:
            notify((result,))

    def hang_up(self) -> None:
        """End the connection; the thread that receives notices it."""
        try:
            self.messages.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the engine was faster

    def lose(self, error: Callable[[], BrimError]) -> None:
        """The engine is gone: every open request that it has not answered gets an error of its
        own.
        """
        with self.lock:
            if self.lost:
                return
            self.lost = True
            ready: list[RemoteResult] = []
            with suppress(BrokenRing, KeyError):  # the engine has broken the protocol: its reason
                self._take_published(ready)
            self._writer.close()
            self._reader.close()
            left = list(self._open.values())
            self._open.clear()
            ready += [result for result in left if result.lose(error())]
        notify(ready)
        self.messages.sock.close()


class Notices:
    """What the engine is told with the next `send`. Not thread-safe."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []
        self.expired: list[int] = []
        self.refused: Counter[tuple[str, int]] = Counter()

    def send(self, messages: MessageSocket) -> None:
        """Send it. What the socket does not take stays for the next time: the engine computes some
        rows in vain, and counts the refusals later.
        """
        try:
            while self.cancelled or self.expired:
                some = Withdraw(self.cancelled[:MOST], self.expired[:MOST])
                messages.send(some)
                del self.cancelled[:MOST], self.expired[:MOST]
            while self.refused:
                (model, error), count = next(iter(self.refused.items()))
                messages.send(Refused(model, error, count))
                del self.refused[model, error]
        except OSError:  # not read, or not open: the thread that receives sees that, too
            return
