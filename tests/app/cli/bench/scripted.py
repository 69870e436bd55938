"""An HTTP server that follows a script: one action for each request, over all connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from enum import Enum, auto


class Ending(Enum):
    """What the server can do instead of sending a response."""

    RESET = auto()
    CLOSE = auto()
    STALL = auto()
    CLOSE_HALFWAY = auto()
    SHUT_DOWN = auto()  # stop listening, and reset every connection


Action = bytes | Ending
Script = Callable[[int], Action]
"""The number of the request, from 0 -> the action."""


def response(status: int = 200, *head: str, body: bytes = b"{}") -> bytes:
    """A whole response with Content-Length."""
    lines = (f"HTTP/1.1 {status} X", *head, f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n"
)
INFORMED = b"HTTP/1.1 102 Processing\r\n\r\n" + response(200)


class Scripted:
    """`requests` are the received bodies, `connections` counts the accepted connections."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Scripted]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self._shut_down()
            await self._server.wait_closed()

    def _shut_down(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer_one(reader, writer):
                pass
        self._writers.discard(writer)
        writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """True if the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        self.requests.append(await reader.readexactly(length))
        action = self._script(len(self.requests) - 1)
        if isinstance(action, bytes):
            writer.write(action)
            await writer.drain()
            return True
        if action is Ending.STALL:
            await reader.read()  # until the client closes
        elif action is Ending.SHUT_DOWN:
            self._shut_down()
        elif action is Ending.CLOSE_HALFWAY:
            writer.write(response(body=b"x" * 100)[:-50])
        elif action is Ending.RESET:
            linger = struct.pack("ii", 1, 0)  # closing sends a reset
            client = writer.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return False
