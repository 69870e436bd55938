"""Bytes that have come from one client, and when gunicorn's parser can be let loose on them.

May touch: gunicorn's parser, no socket.

What a request *means* is decided by gunicorn's parser alone, which reads from here as from a
socket. This side only guesses when all of it has come: a wrong guess can make a request wait, or be
read too early and refused, never be read differently.
"""

from __future__ import annotations

import io
import re
from typing import Any, Final

from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

CHUNK: Final = 8192
LARGEST_CHUNK: Final = 1024 * 1024
"""Bytes, as gunicorn reads them from a socket: its readers copy what they are given."""

OVERHEAD: Final = 64 * 1024
"""Bytes of sizes, extensions and trailers that a chunked body may have beside its payload."""

_SIZE: Final = re.compile(rb"\s*([0-9a-fA-F]{1,15})\s*(;.*)?\r\n", re.DOTALL)


class Incomplete(Exception):
    """The parser wants bytes that have not come yet."""


class Inbox(Unreader):  # type: ignore[misc]
    """What has come and is not read. `ended`: nothing more will, and reading on finds the end."""

    def __init__(self) -> None:
        super().__init__()
        self._data = bytearray()
        self._at = 0
        self._scanned = 0
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._data += data

    def chunk(self, size_hint: int | None = None) -> bytes:
        """For gunicorn: the next bytes, as many as a socket would give."""
        size = min(max(CHUNK, size_hint or 0), LARGEST_CHUNK)
        data = bytes(self._data[self._at : self._at + size])
        if not data and not self.ended:
            raise Incomplete
        self._at += len(data)
        return data

    @property
    def held(self) -> int:
        """Bytes that are not read."""
        return len(self._data) - self._at + self.buf.getbuffer().nbytes

    @property
    def fed(self) -> memoryview:
        """Those that have come and were not asked for yet."""
        return memoryview(self._data)[self._at :]

    def head_is_due(self, cfg: Any) -> bool:
        """Is there a whole head, or one that gunicorn refuses whatever follows?"""
        data, start = self._data, max(0, self._scanned - 3)
        self._scanned = len(data)
        return (
            data.find(b"\r\n\r\n", start) >= 0
            or data.count(b"\n", start) != data.count(b"\r\n", start)
            or (
                len(data) - len(b"\r\n\r\n") > cfg.limit_request_line > 0
                and data.find(b"\r\n", 2) < 0
            )
            or len(data) > (cfg.limit_request_field_size + 2) * cfg.limit_request_fields
        )

    def rewind(self) -> None:
        """The head was not whole: as if nobody had read of it."""
        self.buf = io.BytesIO()
        self._at = 0

    def next_request(self) -> None:
        """The request has been read to its end; what is left is the beginning of the next."""
        left = self.take_buffered()
        self._data = bytearray(left) + self._data[self._at :]
        self._at = self._scanned = 0
        self.ended = False

    def clear(self) -> None:
        """Nothing of this is wanted."""
        self._data.clear()
        self.rewind()


class Body:
    """Whether all of a request's body has come, or more than anybody wants."""

    def __init__(self, request: Request, inbox: Inbox, longest: int) -> None:
        """`longest` is in bytes."""
        self._inbox = inbox
        self._longest = longest
        reader: Any = request.body.reader
        self._length: int | None = reader.length if isinstance(reader, LengthReader) else None
        self._chunks = Chunks()
        if self._length is None:
            self._chunks.feed(inbox.buf.getvalue())
            self._chunks.feed(bytes(inbox.fed))

    @property
    def too_long(self) -> bool:
        """Is it known to be longer than `longest`?"""
        if self._length is not None:
            return self._length > self._longest
        return (
            self._chunks.payload > self._longest or self._inbox.held > 2 * self._longest + OVERHEAD
        )

    @property
    def wanted(self) -> int:
        """How many bytes to ask the socket for; an estimate."""
        missing = 0 if self._length is None else self._length - self._inbox.held
        return max(OVERHEAD, min(missing, LARGEST_CHUNK))

    def feed(self, data: bytes) -> None:
        """Look at what has come; the inbox has it already."""
        if self._length is None:
            self._chunks.feed(data)

    @property
    def complete(self) -> bool:
        """Has all of it come?"""
        if self._length is not None:
            return self._inbox.held >= self._length
        return self._chunks.done


class Chunks:
    """Follows a chunked body to its end, or to what cannot be one.

    Every byte is looked at once. `done` means that gunicorn's reader would not have to wait;
    `payload` are the bytes that the chunks seen so far carry.
    """

    def __init__(self) -> None:
        self.done = False
        self.payload = 0
        self._skip = 0
        self._line = b""
        self._read = self._size

    def feed(self, data: bytes) -> None:
        """The next bytes."""
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
