"""Bytes on their way to one client.

May touch: a socket, without ever waiting for it.

gunicorn's response writes to it as to a socket. What the socket does not take at once stays here;
whoever produces looks at `full` and goes on when that has left.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket raises that would have to wait."""

HIGH_WATER: Final = 64 * 1024
"""Bytes. An answer of many parts is made as fast as it is read, and this far ahead."""


class Outbox:
    """Belongs to whoever runs the connection's request, and else to the loop."""

    __slots__ = ("_parts", "_size", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def sendall(self, data: bytes) -> None:
        """Take it; a later `flush` sends it."""
        self._parts.append(data)
        self._size += len(data)

    def send(self, data: bytes) -> int:
        """As `sendall`."""
        self.sendall(data)
        return len(data)

    def gettimeout(self) -> float:
        """It never waits."""
        return 0.0

    @property
    def empty(self) -> bool:
        """Has everything left?"""
        return not self._parts

    @property
    def full(self) -> bool:
        """Is there enough here to make the next part wait?"""
        return self._size > HIGH_WATER

    def flush(self) -> bool:
        """Send what the socket takes now; was it anything? Raises OSError if the peer is gone."""
        moved = False
        while self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            try:
                sent = self.sock.send(data)
            except NOT_NOW:
                self._parts = [data]
                break
            moved = True
            self._size -= sent
            if sent == len(data):
                self._parts.clear()
            else:
                self._parts = [memoryview(data)[sent:]]
        return moved

    def drop(self) -> None:
        """Nobody will read it."""
        self._parts.clear()
        self._size = 0
