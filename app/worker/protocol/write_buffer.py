"""Bytes on their way to one client."""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import termios
from typing import Final

from app.worker.limits.budget import ByteBudget

NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a non-blocking socket raises instead of waiting."""

HIGH_WATER: Final = 64 * 1024
"""Bytes. An answer of many parts is made at most so far ahead of what its client reads."""


class WriteBuffer:
    """Keeps what the socket does not take at once. gunicorn's response writes to it as to a socket.

    Used by one thread at a time: the one that runs the request, otherwise the loop's.
    """

    __slots__ = ("_budget", "_parts", "_queued", "_reserved", "_size", "sock")

    def __init__(self, sock: socket.socket, budget: ByteBudget) -> None:
        """What the socket does not take is added to `budget`, room or not: it exists."""
        self.sock = sock
        self._budget = budget
        self._queued = 0
        self._reserved = 0
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def sendall(self, data: bytes) -> None:
        """Keep the data for `flush`."""
        self._parts.append(data)
        self._size += len(data)

    def send(self, data: bytes) -> int:
        """Keep the data for `flush`; returns its length."""
        self.sendall(data)
        return len(data)

    def gettimeout(self) -> float:
        """As a socket that never waits."""
        return 0.0

    @property
    def empty(self) -> bool:
        """Whether everything was sent."""
        return not self._parts

    @property
    def full(self) -> bool:
        """Whether the next part of an answer should wait."""
        return self._size > HIGH_WATER

    def flush(self) -> int | None:
        """Send what the socket takes; returns how many bytes. None: the client is gone, and nothing
        is left to send.
        """
        before = self._size
        while self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            try:
                sent = self.sock.send(data)
            except NOT_NOW:
                self._parts = [data]
                self._queued = self._in_kernel()
                break
            except OSError:
                self.drop()
                return None
            self._size -= sent
            if sent == len(data):
                self._parts.clear()
            else:
                self._parts = [memoryview(data)[sent:]]
        self._reserve()
        return before - self._size

    def drained(self) -> int:
        """Bytes that the client has taken since the socket was full, or since the last call. The
        system says that a socket takes more only when a third of its queue is free, which can be a
        megabyte.
        """
        before, self._queued = self._queued, self._in_kernel()
        return before - self._queued

    def _in_kernel(self) -> int:
        (size,) = struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))
        return int(size)

    def _reserve(self) -> None:
        if self._size != self._reserved:
            self._budget.add(self._size - self._reserved)
            self._reserved = self._size

    def drop(self) -> None:
        """Drop what was not sent."""
        self._parts.clear()
        self._size = 0
        self._reserve()
