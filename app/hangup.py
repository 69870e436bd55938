"""Notices a client that hangs up while its request waits.

May touch: sockets, threading. Linux and its epoll; elsewhere nobody is watched.

A server thread that waits for the engine does not read its socket, so it cannot see the client
leave. One thread with one epoll instance watches the sockets of all requests that wait. It is asked
for `EPOLLRDHUP` only: pipelined data does not wake it. A client that closes just its sending half
looks the same and is taken as gone; HTTP clients do not do that.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("brim.app")

_HUNG_UP = getattr(select, "EPOLLRDHUP", 0) | getattr(select, "EPOLLONESHOT", 0)


class HangupWatcher:
    """Calls back when a watched socket's peer is gone. `close` ends its thread; idempotent.

    `_lock` guards `_calls`: file descriptor -> whom to call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[int, Callable[[], object]] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="brim-hangup", daemon=True)
        if self._epoll is not None:
            self._epoll.register(self._wake_read, select.EPOLLIN)
            self._thread.start()

    @contextmanager
    def watching(self, client: socket.socket | None, gone: Callable[[], object]) -> Iterator[None]:
        """Call `gone()` if the client hangs up inside. Without a socket nobody is watched."""
        if client is None or self._epoll is None or (number := client.fileno()) < 0:
            yield
            return
        with self._lock:
            self._calls[number] = gone
        try:
            # a peer that left before this line is reported at once
            self._epoll.register(number, _HUNG_UP)
            yield
        finally:
            with self._lock:
                self._calls.pop(number, None)
            self._forget(number)

    def _forget(self, number: int) -> None:
        try:
            if self._epoll is not None:
                self._epoll.unregister(number)
        except (OSError, ValueError):
            log.debug("socket %d was closed while it was watched", number)

    def _run(self) -> None:
        while self._epoll is not None:
            for number, _ in self._epoll.poll():
                if number == self._wake_read:
                    return
                with self._lock:
                    # the event may be older than the watch: numbers of closed sockets come again
                    gone = self._calls.pop(number, None) if _is_gone(number) else None
                if gone is not None:
                    gone()

    def close(self) -> None:
        """Stop watching."""
        if self._thread.is_alive():
            os.write(self._wake_write, b"x")
            self._thread.join()
        if self._epoll is not None and not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake_read)
            os.close(self._wake_write)


def _is_gone(number: int) -> bool:
    """Has this socket's peer hung up? Answers at once."""
    now = select.poll()
    now.register(number, select.POLLRDHUP)
    return bool(now.poll(0))
