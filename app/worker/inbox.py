"""Bytes that have come from one client, and when gunicorn's parser can be let loose on them.

May touch: gunicorn's parser and werkzeug's exceptions, no socket.

What a request *means* is decided by gunicorn's parser alone, which reads from here as from a
socket. This side only guesses when all of it has come: a wrong guess can make a request wait, or be
read too early and refused, never be read differently.
"""

from __future__ import annotations

import re
from io import BytesIO, RawIOBase
from typing import Any, Final, NoReturn

from gunicorn.http.unreader import Unreader
from werkzeug.exceptions import RequestEntityTooLarge

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

    @property
    def held(self) -> int:
        """Bytes that are not read; ask while gunicorn does not."""
        return len(self._data) - self._at

    def head(self) -> bytes | None:
        """The bytes to the first empty line, if that is here."""
        end = self._data.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0:
            return None
        return bytes(memoryview(self._data)[: end + 4])

    def is_refused_already(self, cfg: Any) -> bool:
        """Can gunicorn tell, before there is a whole head, that it will refuse it?"""
        data = self._data
        # from what was not looked at; a line break may have been cut in two
        start = self._scanned - data.endswith(b"\r", 0, self._scanned)
        self._scanned = len(data)
        return (
            data.count(b"\n", start) != data.count(b"\r\n", start)
            or (
                len(data) - len(b"\r\n\r\n") > cfg.limit_request_line > 0
                and data.find(b"\r\n", 2) < 0
            )
            or len(data) > (cfg.limit_request_field_size + 2) * cfg.limit_request_fields
        )

    def take(self, size: int) -> bytes:
        """The next bytes; so many are held."""
        at = self._at
        self._at = at + size
        return bytes(memoryview(self._data)[at : at + size])

    @property
    def rest(self) -> bytes:
        """What is held, which stays."""
        return bytes(memoryview(self._data)[self._at :])

    def next_request(self) -> None:
        """A request has been read to its end; what is left is the beginning of the next."""
        self.settle()
        del self._data[: self._at]
        self._at = self._scanned = 0
        self.ended = False

    def clear(self) -> None:
        """Nothing of this is wanted."""
        self.buf = BytesIO()
        self._data.clear()
        self._at = 0

    # --- for gunicorn ----------------------------------------------------------------------------

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes, as many as a socket would give."""
        size = min(max(CHUNK, size_hint or 0), LARGEST_CHUNK, self.held)
        if not size and not self.ended:
            raise Incomplete
        return self.take(size)

    def settle(self) -> int:
        """Gunicorn has read what it wants, and put back what that was not: how much was it?"""
        self._at -= len(self.take_buffered())
        return self._at

    def rewind(self) -> None:
        """The head was not whole: as if nobody had read of it."""
        self.buf = BytesIO()
        self._at = 0


class SizedBody:
    """A body whose length its head says."""

    __slots__ = ("_inbox", "_length", "too_long")

    def __init__(self, inbox: Inbox, length: int, longest: int) -> None:
        """Lengths are in bytes."""
        self._inbox = inbox
        self._length = length
        self.too_long = length > longest

    @property
    def complete(self) -> bool:
        """Has all of it come?"""
        return self._inbox.held >= self._length

    @property
    def wanted(self) -> int:
        """How many bytes to ask the socket for."""
        return max(OVERHEAD, min(self._length - self._inbox.held, LARGEST_CHUNK))

    def feed(self, data: bytes) -> None:
        """The inbox has it already."""

    def stream(self) -> BytesIO:
        """What the application reads; all of it has come."""
        return BytesIO(self._inbox.take(self._length))


class TooLong(RawIOBase):
    """What the application has instead of a body that is too long: what has come of it must not be
    taken for all. An app of Flask's answers 413.
    """

    def readable(self) -> bool:
        """It looks like any stream."""
        return True

    def readinto(self, _buffer: object) -> NoReturn:
        """There is nothing to be had."""
        raise RequestEntityTooLarge


class ChunkedBody:
    """A body that says at its end that this is it."""

    __slots__ = ("_chunks", "_inbox", "_longest")

    wanted = CHUNK
    """Bytes. Small chunks are dear to follow, and while they are others wait."""

    def __init__(self, inbox: Inbox, longest: int) -> None:
        """`longest` is in bytes."""
        self._inbox = inbox
        self._longest = longest
        self._chunks = Chunks()
        self._chunks.feed(inbox.rest)

    @property
    def too_long(self) -> bool:
        """Is it known to be longer than `longest`?"""
        return (
            self._chunks.payload > self._longest or self._inbox.held > 2 * self._longest + OVERHEAD
        )

    @property
    def complete(self) -> bool:
        """Has all of it come?"""
        return self._chunks.done

    def feed(self, data: bytes) -> None:
        """Look at what has come; the inbox has it already."""
        self._chunks.feed(data)


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
