"""One connected HTTP process: its requests come in, their outcomes go back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from engine.errors import BrimError
from engine.models.processor import HostProcessor, Prepared
from engine.models.tensors import Extent
from engine.runtime.pending import PendingResult
from engine.runtime.request import Request
from engine.scheduling.buckets import BucketGrid
from engine.serving.endpoint import Endpoint
from engine.transport.protocol import outcomes
from engine.transport.protocol.layout import Layout, Layouts
from engine.transport.protocol.memory import SharedMemory
from engine.transport.protocol.messages import Hello, Message, MessageSocket, Parcel
from engine.transport.protocol.rings import (
    ERRORS,
    OUTPUTS,
    PACKED,
    PARCEL,
    RingMemory,
    RingReader,
    RingWriter,
)

_NO_HOOKS: Final = HostProcessor()


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The block of a request: `capacity` bytes of `memory` from `begin`."""

    memory: SharedMemory
    begin: int
    capacity: int

    def read(self, size: int) -> bytes:
        """The first bytes."""
        return self.memory.map[self.begin : self.begin + min(size, self.capacity)]

    def write(self, data: bytes) -> None:
        """Replace the first bytes."""
        self.memory.map[self.begin : self.begin + len(data)] = data


@dataclass(slots=True, eq=False)
class RemoteRequest(Request):
    """A request of another process; its inputs are views of its block."""

    number: int
    place: Place
    layout: Layout


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A version that other processes may send requests to. `hooked`: its hooks run here."""

    endpoint: Endpoint
    layouts: Layouts
    grid: BucketGrid
    hooked: bool


@dataclass(frozen=True, slots=True, eq=False)
class PackedRequest:
    """A request whose hooks run in this process."""

    number: int
    place: Place
    size: int
    deadline: float
    priority: int
    endpoint: Endpoint


class Channel:
    """Requests are taken on the server's thread. Outcomes are written by whichever thread sets
    them: `_lock` guards the ring of outcomes, the outbox and `closed`.
    """

    def __init__(self, messages: MessageSocket, hello: Hello, fds: Sequence[int]) -> None:
        """`fds` came with the hello and are owned by this object. Raises ValueError for memory that
        does not fit the hello.
        """
        memory, request_event, outcome_event = fds
        self.memory = SharedMemory(memory)
        self.memory.close_fd()
        self.pid = hello.pid
        self.messages = messages
        rings = RingMemory.of(self.memory, hello.records, hello.order)
        self._slab_at = self.memory.size - (1 << hello.order)
        self._reader = RingReader(rings.requests, request_event)
        self._writer = RingWriter(rings.outcomes, outcome_event)
        self._lock = threading.Lock()
        self.open: dict[int, PendingResult | None] = {}
        self.parcels: dict[int, SharedMemory] = {}
        self.outbox: deque[tuple[Message, SharedMemory | None]] = deque()
        self._withdrawn: set[int] = set()
        self.closed = False

    @property
    def request_event(self) -> int:
        """The eventfd that can be read when requests are here."""
        return self._reader.eventfd

    # --- requests --------------------------------------------------------------------------------

    def take(
        self, served: Sequence[Served | None], receive: Callable[[], None]
    ) -> list[PackedRequest]:
        """Submit every published request. `served` are the models in their order. `receive()`
        handles the messages that are here: a parcel was sent before its request.

        Returns the requests whose hooks have to run first. Raises `BrokenRing`, LookupError, or
        ValueError if the other process has written nonsense.
        """
        packed: list[PackedRequest] = []
        for record in self._reader.take():
            number, enqueued_at, deadline, offset, rows, length, size, capacity = record[:8]
            model, priority, kind, _ = record[8:]
            one = served[model]
            if one is None:
                raise LookupError(f"request {number} is for model {model}, which does not serve")
            if kind == PARCEL and number not in self.parcels:
                receive()
            place = self._place(number, kind, offset, capacity)
            self.open[number] = None
            if size:
                new = PackedRequest(number, place, size, deadline, priority, one.endpoint)
                packed.append(new)
                continue
            extent = Extent(rows, length or None)
            layout = one.layouts.of(*extent)
            if layout.size > capacity:
                raise ValueError(f"request {number} needs {layout.size} bytes, and has {capacity}")
            inputs = layout.read_inputs(place.memory.map, place.begin)
            bucket_length = one.grid.fit_length(extent.length)
            request = RemoteRequest(
                Prepared(inputs),
                extent,
                bucket_length,
                enqueued_at,
                deadline,
                priority,
                _NO_HOOKS,
                number,
                place,
                layout,
            )
            self._submit(one.endpoint, request)
        with self._lock:
            self._publish()  # refusals
        return packed

    def _place(self, number: int, kind: int, offset: int, capacity: int) -> Place:
        if kind == PARCEL:
            memory = self.parcels.pop(number)
            return Place(memory, 0, memory.size)
        begin = self._slab_at + offset
        if begin + capacity > self.memory.size:
            raise ValueError(f"request {number} has a block beyond the end of the slab")
        return Place(self.memory, begin, capacity)

    def _submit(self, endpoint: Endpoint, request: RemoteRequest) -> None:
        try:
            result = endpoint.submit(request)
        except BrimError as error:
            with self._lock:
                self._put_error(request.number, request.place, error)
            return
        self.open[request.number] = result
        result.on_ready(self._on_ready)
        if request.number in self._withdrawn:
            result.cancel()

    def receive_parcel(self, number: int, fd: int) -> None:
        """The block of a request that will come next. Raises ValueError."""
        memory = self.parcels[number] = SharedMemory(fd)
        memory.close_fd()

    def withdraw(self, numbers: Sequence[int], *, expired: bool) -> None:
        """The answers to these requests are not wanted any more."""
        for number in numbers:
            with self._lock:
                result = self.open.get(number)
                if result is None and (number in self.open or number >= self._reader.next_number):
                    self._withdrawn.add(number)  # its hooks run, or its record is not taken yet
            if result is not None and expired:
                result.expire()
            elif result is not None:
                result.cancel()

    def opened(self, number: int, result: PendingResult) -> None:
        """A request whose hooks ran here was submitted."""
        with self._lock:
            wanted = not self.closed and number not in self._withdrawn
            self.open[number] = result
        if not wanted:
            result.cancel()

    # --- outcomes --------------------------------------------------------------------------------

    def _on_ready(self, results: Sequence[PendingResult]) -> None:
        with self._lock:
            for result in results:
                self._put(cast("RemoteRequest", result.request), result)
            self._publish()

    def _put(self, request: RemoteRequest, result: PendingResult) -> None:
        place, number = request.place, request.number
        try:
            arrays = result.result()
            for field in request.layout.outputs:
                field.view(place.memory.map, place.begin)[...] = arrays[field.name]
        except BrimError as error:
            self._put_error(number, place, error)
            return
        self._put_outcome(number, OUTPUTS)

    def _put_error(self, number: int, place: Place, error: BrimError) -> None:
        text = outcomes.error_text(error, place.capacity)
        place.write(text)
        kind = ERRORS + outcomes.error_number(error)
        self._put_outcome(number, kind, len(text), outcomes.retry_after_s(error))

    def _put_outcome(self, number: int, kind: int, size: int = 0, retry_s: float = 0.0) -> None:
        self._forget(number)
        if not self.closed:
            self._writer.put((self._writer.next_number, number, retry_s, kind, size))

    def _forget(self, number: int) -> None:
        self.open.pop(number, None)
        self._withdrawn.discard(number)

    def _publish(self) -> None:
        if not self.closed:
            self._writer.publish()

    def answer(self, request: PackedRequest, outcome: bytes | BrimError) -> None:
        """The outcome of a request whose hooks ran here: its packed outputs, or an error."""
        number, place = request.number, request.place
        with self._lock:
            if isinstance(outcome, BrimError):
                self._put_error(number, place, outcome)
            elif len(outcome) <= place.capacity:
                place.write(outcome)
                self._put_outcome(number, PACKED, len(outcome))
            else:
                self._forget(number)
                memory = SharedMemory.create("outcome", len(outcome))
                memory.map[:] = outcome
                self._send(Parcel(number, len(outcome)), memory)
            self._publish()

    # --- messages --------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send a message, or keep it in the outbox until the other process reads."""
        with self._lock:
            self._send(message, None)

    def _send(self, message: Message, memory: SharedMemory | None) -> None:
        if not self.closed:
            self.outbox.append((message, memory))
            self._flush()

    def flush(self) -> None:
        """Send what is in the outbox."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        while self.outbox:
            message, memory = self.outbox[0]
            try:
                self.messages.send(message, [] if memory is None else [memory.fd])
            except BlockingIOError:
                return  # `flush` is called when the socket can be written to
            except OSError:  # the other process has ended; the server sees it, too
                self.outbox.clear()
                return
            self.outbox.popleft()
            if memory is not None:
                memory.close_fd()

    def close(self) -> None:
        """The other process is gone: cancel what it has open. The memory goes with the last batch
        that reads it.
        """
        with self._lock:
            self.closed = True
            self.outbox.clear()
        for result in list(self.open.values()):
            if result is not None:
                result.cancel()
        self.messages.sock.close()
        self._reader.close()
        self._writer.close()
