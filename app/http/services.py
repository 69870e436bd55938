"""What views use: the engine, the limit of requests in flight, the watch for disconnects."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeAlias, cast

from flask import current_app

from app.settings import Limits
from app.worker.calls.lane import LaneLoad
from app.worker.calls.pool import Pool
from app.worker.limits.budget import ByteBudget
from app.worker.transport import CONTINUE
from engine.api import EngineClient, TooManyWaiting

VERSION = version("brim")
MODEL_VERSION = "1"

Callback: TypeAlias = Callable[[], object]

_ONCE = getattr(select, "EPOLLONESHOT", 0)  # EPOLLHUP and EPOLLERR are always watched
_HUNG_UP = getattr(select, "EPOLLRDHUP", 0) | _ONCE


@dataclass(frozen=True, slots=True)
class Services:
    """What views use; see `services`."""

    engine: EngineClient
    limiter: ConcurrencyLimiter
    disconnects: DisconnectWatcher
    limits: Limits
    budget: ByteBudget
    limited: Callable[[str], object]
    """Counts a request that went beyond a limit, by the limit's name."""
    lanes: Lanes


def services() -> Services:
    """Return the services of the app that handles this request."""
    return cast("Services", current_app.extensions["brim"])


class Lanes:
    """The threads of Brim's worker, for health and metrics. Under other workers there are none."""

    def __init__(self) -> None:
        self._pool: Pool | None = None

    def attach(self, pool: Pool) -> None:
        """These are the threads of this process."""
        self._pool = pool

    def load(self) -> Mapping[str, LaneLoad]:
        """What each lane does at this moment, by the name of the model whose hooks run there."""
        return {} if self._pool is None else self._pool.load()

    def stuck(self, name: str) -> int:
        """How many hooks of a model have passed their deadlines and hold all threads that it may
        have; 0 while there is a thread that can serve it.
        """
        load = self.load().get(name)
        return load.stuck if load is not None and load.blocked else 0


class ConcurrencyLimiter:
    """Issues at most `limit` permits at a time. `_lock` guards `_free`, the number left.

    Under gthread a waiting request holds a thread, and when all threads wait, a health check queues
    behind them: so the limit leaves some threads free, and requests above it are refused at once.
    Brim's own worker holds no thread per request; its limit is the number of connections.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._free = limit

    def acquire(self) -> Permit:
        """Return a permit. Raises `TooManyWaiting` at once when there is none."""
        with self._lock:
            if self._free:
                self._free -= 1
                return Permit(self)
        raise TooManyWaiting(f"{self.limit} requests wait in this process already", 1.0)

    def release(self) -> None:
        """Take one permit back; each `Permit` calls this once."""
        with self._lock:
            self._free += 1


class Permit:
    """One request's permit: released at the end of the `with` block, or later once detached."""

    __slots__ = ("_detached", "_limiter")

    def __init__(self, limiter: ConcurrencyLimiter) -> None:
        self._limiter: ConcurrencyLimiter | None = limiter
        self._detached = False

    def detach(self) -> None:
        """Keep the permit after the `with` block; `release` must be called then."""
        self._detached = True

    def release(self) -> None:
        """Give the permit back. Idempotent."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.release()

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_details: object) -> None:
        if not self._detached or kind is not None:
            self.release()


class DisconnectWatcher:
    """Calls back when the peer of a watched socket disconnects. Needs Linux's epoll.

    A server thread that waits for the engine does not read its socket, so it cannot see the client
    disconnect. One thread with one epoll instance watches the sockets of all waiting requests. It
    asks for `EPOLLRDHUP` only: pipelined data does not wake it. A client that closes just its
    sending half looks the same until something is sent to it, so an interim answer is.
    Without epoll nothing is watched. `_lock` guards `_watches`, by file descriptor, and is held
    while the interim answer is sent: after a watch, the socket is its request's again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[int, _Watch] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="brim-disconnects", daemon=True)
        if self._epoll is not None:
            self._epoll.register(self._wake_read, select.EPOLLIN)
            self._thread.start()

    @contextmanager
    def watch(
        self, client: socket.socket | None, on_disconnect: Callback, protocol: str = "HTTP/1.1"
    ) -> Iterator[None]:
        """Call `on_disconnect()` if the client disconnects inside the block. Only HTTP/1.1 has
        interim answers: in another `protocol` that is noticed if the connection is reset.

        Without a socket (`client` is None) nothing is watched.
        """
        if client is None or self._epoll is None or (fd := client.fileno()) < 0:
            yield
            return
        with self._lock:
            self._watches[fd] = _Watch(client, on_disconnect, protocol == "HTTP/1.1")
        try:
            # a peer that disconnected before this line is reported at once
            self._epoll.register(fd, _HUNG_UP)
            yield
        finally:
            with self._lock:
                self._watches.pop(fd, None)
            with suppress(OSError, ValueError):  # the socket was closed while it was watched
                self._epoll.unregister(fd)

    def _run(self) -> None:
        while self._epoll is not None:
            for fd, _ in self._epoll.poll():
                if fd == self._wake_read:
                    return
                with self._lock:
                    watch = self._look(fd, self._epoll)
                if watch is not None:
                    watch.on_disconnect()

    def _look(self, fd: int, epoll: select.epoll) -> _Watch | None:
        """Return the watch of a client that has gone; ask one that may have. Hold the lock."""
        # the event may be older than the watch: the system reuses descriptors
        events, watch = _events_of(fd), self._watches.get(fd)
        if watch is None or not events:
            return None
        if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            return self._watches.pop(fd)
        with suppress(OSError):
            epoll.modify(fd, _ONCE)
            watch.ask()
        return None

    def close(self) -> None:
        """Stop watching and end the thread. Idempotent."""
        if self._thread.is_alive():
            os.write(self._wake_write, b"x")
            self._thread.join()
        if self._epoll is not None and not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake_read)
            os.close(self._wake_write)


@dataclass(frozen=True, slots=True)
class _Watch:
    client: socket.socket
    on_disconnect: Callback
    may_ask: bool

    def ask(self) -> None:
        """Send what a client that is there ignores, and one that has gone answers with a reset."""
        if self.may_ask and not isinstance(self.client, ssl.SSLSocket):
            self.client.send(CONTINUE, socket.MSG_DONTWAIT)


def _events_of(fd: int) -> int:
    """What the peer of this socket has done: hung up, or gone. Does not block."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    events = [events for _, events in poll.poll(0)]
    return events[0] if events else 0
