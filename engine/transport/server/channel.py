"""One connected HTTP process: its requests come in, their outcomes go back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from engine.errors import BrimError
from engine.models.tensors import Arrays, TensorSpec
from engine.runtime.pending import Part, Pending
from engine.runtime.staging import by_memory
from engine.serving.endpoint import Endpoint
from engine.transport.protocol import outcomes
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
from engine.transport.server.blocks import Blocks, Place
from engine.transport.server.requests import PackedRequest, RemoteRequest, Served


class Channel:
    """Requests are taken on the server's thread. Outcomes are written by whichever thread sets
    them: `lock` guards the outcomes, their ring, the outbox and `closed`.
    """

    def __init__(self, messages: MessageSocket, hello: Hello, fds: Sequence[int]) -> None:
        """`fds` came with the hello and are owned by this object. Raises ValueError for memory that
        does not fit the hello.
        """
        memory, request_event, outcome_event = fds
        shared = SharedMemory(memory)
        shared.close_fd()
        self._blocks = Blocks(shared)
        self.pid = hello.pid
        self.messages = messages
        rings = RingMemory.of(shared, hello.records, hello.order)
        self._slab_at = shared.size - (1 << hello.order)
        self._reader = RingReader(rings.requests, request_event)
        self._writer = RingWriter(rings.outcomes, outcome_event)
        self.lock = threading.Lock()
        self.open: dict[int, Pending | PackedRequest] = {}
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
        groups: dict[Served, list[RemoteRequest]] = {}
        for record in self._reader.take():
            number, model, kind = record[0], record[8], record[10]
            one = served[model]
            if one is None:
                raise LookupError(f"request {number} is for model {model}, which does not serve")
            if kind == PARCEL and number not in self.parcels:
                receive()
            place = self._place(number, kind, record[3], record[7])
            if record[6]:
                times = record[1], record[2]
                hooked = PackedRequest(number, place, record[6], *times, record[9], one.endpoint)
                self.open[number] = hooked
                packed.append(hooked)
                continue
            length = record[5] or None
            layout = one.layouts.of(record[4], length)
            if layout.size > place.capacity:
                has = f"and has {place.capacity}"
                raise ValueError(f"request {number} needs {layout.size} bytes, {has}")
            bucket_length = one.grid.fit_length(length)
            request = RemoteRequest(self, one.home, place, record, layout, bucket_length)
            self.open[number] = request
            groups.setdefault(one, []).append(request)
        for one, requests in groups.items():
            self._submit(one.endpoint, requests)
        return [hooked for hooked in packed if not self._is_withdrawn(hooked)]

    def _is_withdrawn(self, hooked: PackedRequest) -> bool:
        """Whether its withdrawal has come before it; then it has its outcome."""
        withdrawn = hooked.number in self._withdrawn
        if withdrawn:
            hooked.withdraw(self, expired=True)
        return withdrawn

    def _place(self, number: int, kind: int, offset: int, capacity: int) -> Place:
        if kind == PARCEL:
            memory = self.parcels.pop(number)
            return Place(Blocks(memory), 0, memory.size)
        begin = self._slab_at + offset
        if begin + capacity > self._blocks.memory.size:
            raise ValueError(f"request {number} has a block beyond the end of the slab")
        return Place(self._blocks, begin, capacity)

    def _submit(self, endpoint: Endpoint, requests: Sequence[RemoteRequest]) -> None:
        refused = endpoint.accept(requests)
        if refused:
            with self.lock:
                for result, error in refused:
                    request = cast("RemoteRequest", result)
                    self._put_error(request.number, request.place, error)
                self._publish()
        if self._withdrawn:
            for request in requests:
                if request.number in self._withdrawn:
                    request.cancel()

    def receive_parcel(self, number: int, fd: int) -> None:
        """The block of a request that will come next. Raises ValueError."""
        memory = self.parcels[number] = SharedMemory(fd)
        memory.close_fd()

    def withdraw(self, numbers: Sequence[int], *, expired: bool) -> None:
        """The answers to these requests are not wanted any more."""
        for number in numbers:
            with self.lock:
                request = self.open.get(number)
                if request is None and number >= self._reader.next_number:
                    self._withdrawn.add(number)  # its record is not taken yet
            if isinstance(request, PackedRequest):
                request.withdraw(self, expired=expired)
            elif request is not None and expired:
                request.expire()
            elif request is not None:
                request.cancel()

    def wants(self, request: PackedRequest) -> bool:
        """Whether a request whose hooks run here has no outcome yet."""
        return not self.closed and self.open.get(request.number) is request

    def opened(self, request: PackedRequest, result: Pending) -> None:
        """A request whose hooks ran here was submitted."""
        with self.lock:
            wanted = self.wants(request)
            if wanted:
                self.open[request.number] = result
        if not wanted:
            result.cancel()

    def reopened(self, request: PackedRequest) -> None:
        """Its hooks go on, after the device."""
        with self.lock:
            if request.number in self.open:
                self.open[request.number] = request

    # --- outcomes --------------------------------------------------------------------------------

    def deliver(
        self,
        specs: Sequence[TensorSpec],
        outputs: Arrays,
        parts: Sequence[Part],
        ready: list[Pending],
    ) -> None:
        """See `engine.runtime.pending.Origin`: the outputs are written where clients read them."""
        with self.lock:
            # the block of a request that has an outcome may be another one's by now
            wanted = [part for part in parts if part.result.error is None]
            placed = [(part.at, part.row_slice) for part in wanted]
            for blocks, (at, slices) in by_memory(placed).items():
                for place, spec in enumerate(specs):
                    cast("Blocks", blocks).write(place, spec, outputs, at, slices)
            now = parts[0].result.home.clock()
            for result, row_slice, _ in wanted:
                if cast("RemoteRequest", result).written(row_slice.count, now):
                    ready.append(result)

    def publish(self, results: Sequence[RemoteRequest]) -> None:
        """Let the other process see these outcomes."""
        with self.lock:
            for result in results:
                error = result.error
                if error is None:
                    self._put_outcome(result.number, OUTPUTS)
                else:
                    self._put_error(result.number, result.place, error)
            self._publish()

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

    def answer(self, request: PackedRequest, outcome: bytes | BrimError) -> bool:
        """The outcome of a request whose hooks ran here: its packed outputs, or an error. Returns
        False if it had one before: its block may be another one's by now.
        """
        number, place = request.number, request.place
        with self.lock:
            if number not in self.open:
                return False
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
        return True

    # --- messages --------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send a message, or keep it in the outbox until the other process reads."""
        with self.lock:
            self._send(message, None)

    def _send(self, message: Message, memory: SharedMemory | None) -> None:
        if not self.closed:
            self.outbox.append((message, memory))
            self._flush()

    def flush(self) -> None:
        """Send what is in the outbox."""
        with self.lock:
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
        with self.lock:
            self.closed = True
            self.outbox.clear()
            left = list(self.open.values())
        for request in left:
            if isinstance(request, PackedRequest):
                request.withdraw(self, expired=False)
            else:
                request.cancel()
        self.messages.sock.close()
        self._reader.close()
        self._writer.close()
