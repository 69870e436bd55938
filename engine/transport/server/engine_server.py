"""Serves the engine of this process to HTTP processes, from one thread.

The thread takes requests from the rings and submits all that came together inside `coalesce`, so
that one batch holds them. Outcomes do not pass it: the engine's threads write them.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import msgspec
from typing_extensions import override

from engine.models.model import ModelState
from engine.serving.client import InProcessClient
from engine.telemetry.events import Observer
from engine.transport.protocol import messages
from engine.transport.protocol.messages import MessageSocket, same_user
from engine.transport.protocol.status import StatusPage
from engine.transport.server.channel import Channel
from engine.transport.server.hooks import HookRunner, HookThreads
from engine.transport.server.offers import Offers
from engine.transport.server.reporter import Reporter

log = logging.getLogger("brim.engine")

EVENTS: Final = 64
BROKEN_S: Final = 1.0
"""Seconds to answer what is accepted, where a start-up goes on or the engine is broken."""


class Broken(NamedTuple):
    """The engine ends by itself: it cannot serve any more."""

    reason: str


class EngineServer(Observer):
    """`run` serves until `stop`. Everything but `stop` and the observer runs on one thread."""

    def __init__(
        self,
        make_client: Callable[[Observer], InProcessClient],
        listener: socket.socket,
        page: StatusPage,
        threads: HookThreads,
        drain_s: float,
    ) -> None:
        """`make_client(observer)` makes the engine. `listener` and `threads` are this object's own,
        `page` has no other writer. After `stop`, open requests have `drain_s` seconds.
        """
        self.client = make_client(self)
        self._listener = listener
        self._reporter = Reporter(page)
        self._drain_s = drain_s
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._offers = Offers(self.client, threads)
        self._hooks = HookRunner(threads)
        self._greeting: set[MessageSocket] = set()
        self._end: Literal["no", "retire", "stop"] | Broken = "no"

    # --- any thread ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Refuse new requests, answer the accepted ones, and let `run` return. A signal's handler
        may call it.
        """
        self._end = "stop"
        os.eventfd_write(self._wakeup, 1)

    def retire(self) -> None:
        """Let `run` return when no HTTP process is connected any more; serve the others."""
        if self._end == "no":
            self._end = "retire"
        os.eventfd_write(self._wakeup, 1)

    @override
    def broken(self, model: str, reason: str) -> None:
        """Let `run` return, so that the supervisor starts another engine."""
        self._break(f"model {model}: {reason}")

    def _break(self, reason: str) -> None:
        if not isinstance(self._end, Broken):
            self._end = Broken(reason)
        os.eventfd_write(self._wakeup, 1)

    @property
    def broken_reason(self) -> str:
        """Why the engine ends by itself; empty if it does not."""
        return self._end.reason if isinstance(self._end, Broken) else ""

    @override
    def state_changed(self, model: str, state: ModelState, reason: str | None) -> None:
        os.eventfd_write(self._wakeup, 1)

    # --- the server's thread ---------------------------------------------------------------------

    def run(self) -> None:
        """Bring the models up and serve them. `broken_reason` says afterwards whether it was the
        engine that ended itself.
        """
        self._listener.setblocking(False)
        self._watch(self._listener.fileno(), self._connect)
        self._watch(self._wakeup, self._woken)
        self.client.start()
        try:
            while self._end == "no" or (self._end == "retire" and self._offers.channels):
                self._tick()
            if not self.broken_reason:
                self._drain()
        finally:
            self._close()

    def _drain(self) -> None:
        """Until every HTTP process has closed its channel, or the time is over."""
        # a process that connects now waits for the next engine
        self._epoll.unregister(self._listener.fileno())
        self.client.drain()
        give_up_at = time.monotonic() + self._drain_s
        while self._offers.channels and time.monotonic() < give_up_at:
            self._tick()

    def _close(self) -> None:
        startup_over = self.client.wait_startup_finished(0.0)
        # a start-up that compiles cannot be interrupted; nothing waits for it
        may_answer = startup_over and not self.broken_reason
        self.client.close(self._drain_s if may_answer else BROKEN_S)
        self._hooks.close()
        for channel in list(self._offers.channels):
            self._forget(channel)
        for peer in self._greeting:
            peer.sock.close()
        self._epoll.close()
        self._listener.close()
        # not the eventfd: a start-up that still runs may write to it

    def _woken(self, _events: int) -> None:
        os.eventfd_read(self._wakeup)
        self._offers.extend()
        self._reporter.due = 0.0

    def _watch(self, fd: int, handler: Callable[[int], object], events: int = 0) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events or select.EPOLLIN)

    def _tick(self) -> None:
        now = time.monotonic()
        polled = self._epoll.poll(max(0.0, self._reporter.due - now), EVENTS)
        if polled:
            with self.client.coalesce():
                for fd, events in polled:
                    handler = self._handlers.get(fd)
                    if handler is not None:  # an earlier event may have closed it
                        handler(events)
        self._write_page()

    def _write_page(self) -> None:
        now = time.monotonic()
        if now < self._reporter.due:
            return
        hangs = self._reporter.write(self._offers.status(), now)
        if hangs is not None:
            self._break(hangs)

    # --- channels --------------------------------------------------------------------------------

    def _connect(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        if not same_user(sock):
            log.warning("a process of another user tried to connect to the engine")
            sock.close()
            return
        sock.setblocking(False)
        peer = MessageSocket(sock)
        self._greeting.add(peer)
        self._watch(sock.fileno(), partial(self._greet, peer))

    def _greet(self, peer: MessageSocket, _events: int) -> None:
        """The first message of a connection."""
        fd = peer.sock.fileno()
        self._greeting.discard(peer)
        self._epoll.unregister(fd)
        del self._handlers[fd]
        try:
            received = peer.receive()
            hello, fds = (None, []) if received is None else received
            if not isinstance(hello, messages.Hello):
                raise TypeError(f"got {hello!r}, expected a hello")
            channel = Channel(peer, hello, fds)
        except (OSError, TypeError, ValueError) as error:  # msgspec's errors are ValueErrors
            log.warning("an HTTP process could not connect: %s", error)
            peer.sock.close()
            return
        both = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
        self._watch(fd, partial(self._guarded, channel, self._receive), both)
        self._watch(channel.request_event, partial(self._guarded, channel, self._take))
        self._offers.join(channel)
        self._reporter.due = 0.0

    def _guarded(self, channel: Channel, handler: Callable[[Channel], None], _events: int) -> None:
        """One channel's error ends this channel and no other."""
        try:
            handler(channel)
        except Exception:
            log.exception("the HTTP process %s has broken the protocol", channel.pid)
            self._forget(channel)

    def _take(self, channel: Channel) -> None:
        for packed in channel.take(self._offers.served, partial(self._receive, channel)):
            self._hooks.run(channel, packed)

    def _receive(self, channel: Channel) -> None:
        """All messages that are here, and what the outbox holds."""
        channel.flush()
        while True:
            try:
                received = channel.messages.receive()
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self._forget(channel)
                return
            self._handle(channel, *received)

    def _handle(self, channel: Channel, message: messages.Message, fds: list[int]) -> None:
        match message:
            case messages.Withdraw():
                channel.withdraw(message.cancelled, expired=False)
                channel.withdraw(message.expired, expired=True)
            case messages.Parcel():
                channel.receive_parcel(message.request, fds.pop())
            case messages.Refused():
                self._offers.count(message)
            case messages.Accept():
                self._offers.accepted(channel, message)
                self._reporter.due = 0.0
            case messages.Ask():
                content = msgspec.msgpack.encode(self._offers.snapshot(), enc_hook=_plain)
                channel.send(messages.Answer(message.number, content))
            case _:
                raise ValueError(f"unexpected message {message!r}")

    def _forget(self, channel: Channel) -> None:
        for fd in (channel.messages.sock.fileno(), channel.request_event):
            if self._handlers.pop(fd, None) is not None:
                self._epoll.unregister(fd)
        self._offers.leave(channel)
        channel.close()
        self._reporter.due = 0.0


def _plain(value: Any) -> Any:
    """Numpy's numbers in a snapshot, as Python's."""
    return value.item()
