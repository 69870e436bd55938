"""Request bodies: when one is complete, and the stream that the application reads."""

from __future__ import annotations

import re
from http import HTTPStatus
from io import BytesIO, RawIOBase
from typing import Final, NoReturn

from typing_extensions import override

from app.worker.limits.limits import LimitExceeded
from app.worker.protocol.read_buffer import CHUNK, LARGEST_CHUNK, ReadBuffer

OVERHEAD: Final = 64 * 1024
"""Bytes of sizes, extensions and trailers that a chunked body may have beside its payload, and one
more for each `PAYLOAD_PER_OVERHEAD` bytes of it: 16 MB in chunks of one byte took half a minute."""
PAYLOAD_PER_OVERHEAD: Final = 16

_LIMIT: Final = "max_body_bytes"

_SIZE: Final = re.compile(rb"\s*([0-9a-fA-F]{1,15})\s*(;.*)?\r\n", re.DOTALL)


class SizedBody:
    """A body with a Content-Length."""

    __slots__ = ("_buffer", "length", "refusal")

    def __init__(self, buffer: ReadBuffer, length: int, longest: int) -> None:
        """`length` and `longest` are in bytes."""
        self._buffer = buffer
        self.length = length
        self.refusal = None if length <= longest else _too_long(longest)

    @property
    def empty(self) -> bool:
        """Whether the request has none."""
        return self.length == 0

    @property
    def complete(self) -> bool:
        """Whether all of it is in the buffer."""
        return self._buffer.held >= self.length

    @property
    def wanted(self) -> int:
        """Bytes to ask the socket for."""
        return max(OVERHEAD, min(self.length - self._buffer.held, LARGEST_CHUNK))

    def feed(self, _data: bytes) -> None:
        """Do nothing: the length is known."""

    def stream(self) -> BytesIO:
        """Return the stream for the application. Call it when `complete`."""
        data = self._buffer.take(self.length)
        self._buffer.discard()
        return BytesIO(data)


class Refused(RawIOBase):
    """The stream of a body that was not read. An app that reads it answers with the refusal."""

    def __init__(self, refusal: LimitExceeded) -> None:
        super().__init__()
        self._refusal = refusal

    @override
    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> NoReturn:
        """Raise the refusal."""
        raise self._refusal


def _too_long(longest: int) -> LimitExceeded:
    problem = f"the body is larger than limits.{_LIMIT}, which is {longest}"
    return LimitExceeded(_LIMIT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)


class ChunkedBody:
    """A body with `Transfer-Encoding: chunked`."""

    __slots__ = ("_buffer", "_chunks", "_longest")

    length = 0
    """Not known."""
    empty = False

    wanted = CHUNK
    """Bytes. Small chunks take long to scan, and other connections wait meanwhile."""

    def __init__(self, buffer: ReadBuffer, longest: int) -> None:
        """`longest` is in bytes."""
        self._buffer = buffer
        self._longest = longest
        self._chunks = ChunkScanner()
        self._chunks.feed(buffer.rest)

    @property
    def refusal(self) -> LimitExceeded | None:
        """Why it is refused: it is longer than `longest`, or consists of too many chunks."""
        chunks = self._chunks
        if chunks.payload > self._longest:
            return _too_long(self._longest)
        allowed = OVERHEAD + chunks.payload // PAYLOAD_PER_OVERHEAD
        if chunks.overhead > allowed:
            what = f"the body has {chunks.overhead} bytes of chunk sizes, extensions and trailers"
            problem = f"{what}, and may have {allowed} for {chunks.payload} bytes of payload"
            return LimitExceeded(_LIMIT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)
        return None

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
    `overhead`: the other bytes so far.
    """

    __slots__ = ("_line", "_read", "_skip", "done", "overhead", "payload")

    def __init__(self) -> None:
        self.done = False
        self.payload = 0
        self.overhead = 0
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
            self.overhead += end - at
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
