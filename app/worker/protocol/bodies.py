"""Request bodies: when one is complete, and the stream that the application reads."""

from __future__ import annotations

import re
from io import BytesIO, RawIOBase
from typing import Final, NoReturn

from typing_extensions import override
from werkzeug.exceptions import RequestEntityTooLarge

from app.worker.protocol.read_buffer import CHUNK, LARGEST_CHUNK, ReadBuffer

OVERHEAD: Final = 64 * 1024
"""Bytes of sizes, extensions and trailers that a chunked body may have beside its payload."""

_SIZE: Final = re.compile(rb"\s*([0-9a-fA-F]{1,15})\s*(;.*)?\r\n", re.DOTALL)


class SizedBody:
    """A body with a Content-Length."""

    __slots__ = ("_buffer", "_length", "too_long")

    def __init__(self, buffer: ReadBuffer, length: int, longest: int) -> None:
        """`length` and `longest` are in bytes."""
        self._buffer = buffer
        self._length = length
        self.too_long = length > longest

    @property
    def complete(self) -> bool:
        """Whether all of it is in the buffer."""
        return self._buffer.held >= self._length

    @property
    def wanted(self) -> int:
        """Bytes to ask the socket for."""
        return max(OVERHEAD, min(self._length - self._buffer.held, LARGEST_CHUNK))

    def feed(self, _data: bytes) -> None:
        """Do nothing: the length is known."""

    def stream(self) -> BytesIO:
        """Return the stream for the application. Call it when `complete`."""
        return BytesIO(self._buffer.take(self._length))


class TooLong(RawIOBase):
    """The stream of a body that is too long. A Flask app that reads it answers 413."""

    @override
    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> NoReturn:
        """Raise werkzeug's 413."""
        raise RequestEntityTooLarge


class ChunkedBody:
    """A body with `Transfer-Encoding: chunked`."""

    __slots__ = ("_buffer", "_chunks", "_longest")

    wanted = CHUNK
    """Bytes. Small chunks take long to scan, and other connections wait meanwhile."""

    def __init__(self, buffer: ReadBuffer, longest: int) -> None:
        """`longest` is in bytes."""
        self._buffer = buffer
        self._longest = longest
        self._chunks = ChunkScanner()
        self._chunks.feed(buffer.rest)

    @property
    def too_long(self) -> bool:
        """Whether it is known to be longer than `longest`."""
        return (
            self._chunks.payload > self._longest or self._buffer.held > 2 * self._longest + OVERHEAD
        )

    @property
    def complete(self) -> bool:
        """Whether all of it is in the buffer."""
        return self._chunks.done

    def feed(self, data: bytes) -> None:
        """Scan received bytes; the buffer has them already."""
        self._chunks.feed(data)


class ChunkScanner:
    """Finds the end of a chunked body, or bytes that cannot be one. Looks at each byte once.

    `done`: gunicorn's reader would not have to wait. `payload`: bytes in the chunks so far.
    """

    __slots__ = ("_line", "_read", "_skip", "done", "payload")

    def __init__(self) -> None:
        self.done = False
        self.payload = 0
        self._skip = 0
        self._line = b""
        self._read = self._size

    def feed(self, data: bytes) -> None:
        """Scan the next bytes."""
        at = 0
        while at < len(data) and not self.done:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if self._line.endswith(b"\n"):
                line, self._line = self._line, b""
                self._read(line)
            elif len(self._line) > OVERHEAD or self._is_no_end_of_chunk():
                self.done = True

    def _is_no_end_of_chunk(self) -> bool:
        return self._read == self._end_of_chunk and not b"\r\n".startswith(self._line)

    def _size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            self.done = True
            return
        self._skip = int(found[1], 16)
        self.payload += self._skip
        self._read = self._end_of_chunk if self._skip else self._trailer

    def _end_of_chunk(self, line: bytes) -> None:
        self.done = line != b"\r\n"
        self._read = self._size

    def _trailer(self, line: bytes) -> None:
        # gunicorn refuses a bare LF at once
        self.done = line == b"\r\n" or not line.endswith(b"\r\n")
