"""One client's connection, from its first byte to its last.

While a request runs nothing is read, so TCP slows down a client that sends too fast.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from typing import Any, Final

from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request

from app.worker.calls.refusal import Reason, Refusal
from app.worker.calls.work import Work
from app.worker.host import Host
from app.worker.limits.budget import no_room
from app.worker.limits.limits import too_late
from app.worker.limits.states import LINGER_S, State
from app.worker.loop import Alarm
from app.worker.protocol.cycle import RequestResponseCycle
from app.worker.protocol.head_cache import Head
from app.worker.protocol.refusals import refuse
from app.worker.protocol.request_reader import RequestReader
from app.worker.protocol.write_buffer import WriteBuffer
from app.worker.suspension import Pending
from app.worker.transport import ASK_AFTER_S, CONTINUE, EVENTS, Transport

READS_IN_A_ROW: Final = 16  # of one connection, before the others are handled


class Connection:
    """A state machine. All its methods run on the loop's thread."""

    __slots__ = (
        "_cycle",
        "_head",
        "_host",
        "_reader",
        "_reading",
        "_server",
        "_transport",
        "_work",
        "_write_buffer",
        "alarm",
        "state",
    )

    def __init__(self, host: Host, sock: socket.socket, address: Any, server: Any) -> None:
        """`sock` does not block; `server` is the address that the client connected to."""
        self._host = host
        self._server = server
        self._transport = Transport(sock)
        self._reader = RequestReader(host.head_cache, host.bounds, address, server)
        self._write_buffer = WriteBuffer(sock, host.bounds.budget)
        self._head: Head | None = None
        self._cycle: RequestResponseCycle | None = None
        self._work = Work(host.loop, host.pool)
        self._reading = False
        self.alarm = Alarm(host.loop, self.on_alarm)
        self.state = State.HANDSHAKE if self._transport.tls else State.HEAD
        self.alarm.set_in(host.bounds.limits.head_timeout_s)
        host.loop.watch(sock.fileno(), EVENTS, self.on_event)

    # --- events ----------------------------------------------------------------------------------

    def on_event(self, events: int) -> None:
        """Handle what epoll reports of the socket."""
        self._transport.on_event(events)
        match self.state:
            case State.HEAD | State.BODY:
                self._read()
            case State.SUSPENDED if self._transport.hung_up:
                self._on_hang_up()
            case State.WRITING:
                self._write()
            case State.LINGERING:
                self._discard()
            case State.HANDSHAKE:
                self._shake_hands()

    def on_alarm(self) -> None:
        """Close a connection that took too long, or answer a request at its deadline."""
        if self.state is State.SUSPENDED:
            if self._pending.deadline > self._host.loop.clock():
                self._ask()
            else:
                self._pending.expire()
        elif self.state is State.RUNNING:
            self._expire()
        else:
            self._time_out()

    def _time_out(self) -> None:
        """Refuse what did not arrive in time, or close the connection."""
        late = too_late(self.state, self._host.bounds.limits)
        if late is None or (self.state is State.HEAD and not self._reader.buffer.held):
            self.close()
        elif self.state is State.WRITING and (taken := self._write_buffer.drained()) > 0:
            limits = self._host.bounds.limits
            self.alarm.set_in(min(limits.seconds_for(taken), limits.send_timeout_s))
        elif self.state in (State.HANDSHAKE, State.WRITING):
            self._host.bounds.count(late.limit)
            self.close()
        else:
            self._refuse(self._cycle and self._cycle.request, late)

    def drain(self, linger_s: float) -> None:
        """The worker stops: an idle client may send one more request within `linger_s` seconds."""
        if self.state is State.HEAD and not self._reader.buffer.held:
            self.alarm.extend(0.0, linger_s)

    def close(self) -> None:
        """Close the socket and end the request. Idempotent."""
        if self.state is State.CLOSED:
            return
        state, self.state = self.state, State.CLOSED
        self.alarm.clear()
        self._host.loop.forget(self._transport.sock.fileno())
        self._transport.sock.close()
        # the loop keeps this object until the time of its last alarm
        self._reader.clear()
        if state is not State.RUNNING:  # then the pool may be writing
            self._write_buffer.drop()
        cycle, self._cycle = self._cycle, None
        if cycle is not None and state in (State.SUSPENDED, State.WRITING) and not cycle.done:
            self._work.run(cycle, cycle.abandon, lambda: None)
        self._host.closed(self)

    # --- reading ---------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        try:
            if not self._transport.shake_hands():
                return
        except OSError as error:
            self._host.log.debug("TLS handshake failed: %s", error)
            self.close()
            return
        self.state = State.HEAD
        self._read()

    def _read(self) -> None:
        self._reading = True
        for _ in range(READS_IN_A_ROW):
            if not self._transport.readable or self.state not in (State.HEAD, State.BODY):
                break
            self._read_once()
        else:
            self._host.loop.call_soon((self._read,))
        self._reading = False

    def _read_once(self) -> None:
        reader = self._reader
        data = self._transport.receive(reader.wanted)
        if not data:
            if data is not None:
                self.close()
            return
        first = self.state is State.HEAD and not reader.buffer.held
        reader.feed(data)
        if not self._proceed(len(data)) and first:
            self.alarm.set_in(self._host.bounds.limits.head_timeout_s)

    def _proceed(self, size: int = 0) -> bool:
        """Handle the data, `size` bytes of it new. Returns False if a head is incomplete."""
        begins, reader = self.state is State.HEAD, self._reader
        begun, bounds = not begins or self._begin(), self._host.bounds
        if self.state in (State.HEAD, State.BODY) and not reader.reserve(begins=begins):
            self._refuse(self._cycle and self._cycle.request, no_room(bounds.budget))
        elif self.state is State.BODY and reader.body is not None:
            if reader.body.complete or reader.body.refusal is not None:
                self._call()
            elif begins:
                self.alarm.set_in(bounds.limits.body_timeout_s)
            else:
                self.alarm.extend(bounds.limits.seconds_for(size), bounds.limits.body_timeout_s)
        return begun or self.state is not State.HEAD

    def _begin(self) -> bool:
        """Begin a request. Returns False if its head is incomplete."""
        try:
            parsed = self._reader.next_head()
        except (StopIteration, NoMoreData):
            self.close()
            return True
        except Exception as error:
            self._refuse(None, error)
            return True
        if parsed is None:
            return False
        self._head, request = parsed
        self._cycle = RequestResponseCycle(self._host, request, self._write_buffer)
        self.state = State.BODY
        if request._expected_100_continue:
            # gunicorn would ask for the body when the application is called, which is later
            request._expected_100_continue = False
            if self._reader.fits():
                self._write_buffer.sendall(CONTINUE)
                self._flush()
        return True

    def _refuse(self, request: Request | None, error: BaseException) -> None:
        """Answer what is no request, or could not begin."""
        self._cycle = None
        refuse(self._host, request, self._reader, self._write_buffer, error)
        self._flush()
        if self.state is not State.CLOSED:
            self._sent()

    # --- running ---------------------------------------------------------------------------------

    def _call(self) -> None:
        cycle, head = self._cycle, self._head
        if cycle is None or head is None:
            raise AssertionError("a body without its request; this is a bug")
        self._enter_running()
        whole = self._reader.take_body(cycle.request)
        close = self._host.count_request() or not whole
        try:
            cycle.prepare(head, self._server, self._host.loop.happened_at, close=close)
        except BaseException as error:
            self._refuse(cycle.request, error)
            return
        self._work.begin(cycle.exchange, self._host.place(cycle.environ), self._set_deadline)
        self._run(cycle, cycle.call, self._called, first=False)

    def _enter_running(self) -> None:
        self.state = State.RUNNING
        self.alarm.clear()

    def _run(
        self,
        cycle: RequestResponseCycle,
        step: Callable[[], object],
        then: Callable[[], object],
        *,
        first: bool = True,
    ) -> None:
        """Make a step of the cycle, here or in its lane, then call `then` on this thread."""
        refusal = self._work.run(cycle, step, then, first=first)
        if refusal is not None:
            self._answer(cycle, refusal)
        elif not self._work.inline and self._work.deadline < math.inf:
            self.alarm.set(self._work.deadline)

    def _set_deadline(self) -> None:
        """The application has found an earlier deadline in the request that it runs."""
        cycle = self._cycle
        if self.state is State.RUNNING and cycle is not None and not cycle.begun:
            self.alarm.set(min(self.alarm.wakes_at, cycle.exchange.deadline))

    def _expire(self) -> None:
        """The deadline has passed while the application, or a model's hook, still runs."""
        cycle = self._cycle
        if cycle is not None and self._work.give_up():
            self._answer(cycle, Refusal(Reason.EXPIRED, 0.0, self._work.lane, 0))

    def _answer(self, cycle: RequestResponseCycle, refusal: Refusal) -> None:
        """Send a refusal, in place of what the application would have answered."""
        self._enter_running()
        self._cycle = cycle = cycle.successor()
        self._work.inline = True
        cycle.call(self._host.refusal(refusal))
        self._produce()

    def _called(self) -> None:
        cycle = self._cycle
        if cycle is None:
            return
        suspended = cycle.suspended
        if suspended is None:
            self._produce()
            return
        self._work.inline = cycle.inline
        if suspended.pending.ready:
            self._produce()
        else:
            self._suspend(suspended.pending)

    def _suspend(self, pending: Pending) -> None:
        self.state = State.SUSPENDED
        self._host.suspended[pending] = self._resume
        self.alarm.set(pending.deadline)
        pending.on_ready(self._host.results_ready)
        if self._transport.hung_up:
            self._on_hang_up()

    def _on_hang_up(self) -> None:
        """The client sends nothing more: it has gone, or wants its answer and has said all."""
        cycle = self._cycle
        if self._transport.gone:
            self._pending.cancel()
        elif cycle is not None and cycle.request.version >= (1, 1) and self._transport.may_ask():
            self.alarm.set(min(self._pending.deadline, self._host.loop.clock() + ASK_AFTER_S))

    def _ask(self) -> None:
        """Send an interim answer, which HTTP/1.1 allows: a client that has gone resets."""
        self.alarm.set(self._pending.deadline)
        self._write_buffer.sendall(CONTINUE)
        self._flush()

    def _resume(self) -> None:
        """The pending result is ready."""
        if self.state is State.SUSPENDED:
            self._enter_running()
            self._produce()

    @property
    def _pending(self) -> Pending:
        """The result that a suspended connection waits for."""
        if self._cycle is None or self._cycle.suspended is None:
            raise AssertionError("suspended without a pending result; this is a bug")
        return self._cycle.suspended.pending

    # --- writing ---------------------------------------------------------------------------------

    def _produce(self) -> None:
        if self._cycle is not None:
            self._run(self._cycle, self._cycle.produce, self._produced)

    def _produced(self) -> None:
        if self._cycle is None or self._cycle.lost:
            self.close()
        else:
            self._sent()

    def _write(self) -> None:
        if moved := self._flush():
            limits = self._host.bounds.limits
            self.alarm.extend(limits.seconds_for(moved), limits.send_timeout_s)
        if self.state is not State.CLOSED:
            self._sent()

    def _flush(self) -> int:
        """Send what the socket takes. Returns how many bytes."""
        moved = self._write_buffer.flush()
        if moved is None:
            self.close()
        return moved or 0

    def _sent(self) -> None:
        """Continue after data was sent: with more of this answer, the next request, or the end."""
        if not self._write_buffer.empty and self.state is not State.WRITING:
            self.state = State.WRITING
            self.alarm.set_in(self._host.bounds.limits.send_timeout_s)
            # an event that came while the pool wrote was ignored, and does not come again
            self._flush()
        if self.state is State.CLOSED or not self._write_buffer.empty:
            return
        cycle = self._cycle
        if cycle is not None and not cycle.done:
            self._enter_running()
            # later: a client that reads fast must not keep the others waiting
            self._host.loop.call_soon((self._produce,))
            return
        self._cycle = None
        if cycle is not None and cycle.keep:
            self._next()
        else:
            self._linger()

    def _next(self) -> None:
        """Wait for another request; it may be buffered already."""
        buffer = self._reader.buffer
        self._reader.next_request()
        self.state = State.HEAD
        head_timeout_s = self._host.bounds.limits.head_timeout_s
        self.alarm.set_in(head_timeout_s if buffer.held else self._host.keepalive_s)
        if buffer.held or (self._transport.readable and not self._reading):
            # later: a client with many pipelined requests must not keep the others waiting
            self._host.loop.call_soon((self._go_on,))

    def _go_on(self) -> None:
        self._proceed()
        self._read()

    # --- the end ---------------------------------------------------------------------------------

    def _linger(self) -> None:
        """Close the sending half, and wait until the client closes its own."""
        self._reader.clear()
        if not self._transport.end_sending():
            self.close()
            return
        self.state = State.LINGERING
        self.alarm.set_in(LINGER_S)
        self._discard()

    def _discard(self) -> None:
        more = self.state is not State.LINGERING or self._transport.discard(READS_IN_A_ROW)
        if more is None:
            self._host.loop.call_soon((self._discard,))
        elif not more:
            self.close()
