"""The bytes of one client that gunicorn's parser has not read yet.

The parser alone decides what a request means; it reads from here as from a socket. This module only
guesses when a head is complete: a wrong guess delays a request, or lets the parser refuse it too
early. It never makes the parser read it differently.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

from gunicorn.http.unreader import Unreader
from typing_extensions import override

CHUNK: Final = 8192
LARGEST_CHUNK: Final = 1024 * 1024
"""The most bytes that one call of `chunk` returns: gunicorn's readers copy them."""


class Incomplete(Exception):
    """The parser needs bytes that have not come yet."""


class ReadBuffer(Unreader):  # type: ignore[misc]
    """gunicorn's source of bytes. `ended`: this request is complete; further reads return b""."""

    def __init__(self) -> None:
        super().__init__()
        self._data = bytearray()
        self._at = 0
        self._scanned = 0
        self._given = False
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        self._data += data

    @property
    def held(self) -> int:
        """Bytes that are not read. Valid while gunicorn's parser does not run."""
        return len(self._data) - self._at

    def head(self) -> bytes | None:
        """Return the bytes up to and including the first empty line, or None."""
        end = self._data.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0:
            return None
        return bytes(memoryview(self._data)[: end + 4])

    def is_refused_already(self, cfg: Any) -> bool:
        """Return whether gunicorn refuses this incomplete head, whatever follows."""
        data = self._data
        # from the first byte not scanned yet; a line break may be cut in two
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

    @property
    def start(self) -> bytes:
        """A copy of the first bytes, read or not."""
        return bytes(self._data[:CHUNK])

    def take(self, size: int) -> bytes:
        """Remove and return the next `size` bytes; at least so many are held."""
        at = self._at
        self._at = at + size
        return bytes(memoryview(self._data)[at : at + size])

    def discard(self) -> None:
        """Drop what was taken."""
        del self._data[: self._at]
        self._at = 0

    @property
    def size(self) -> int:
        """Bytes that are kept, read or not."""
        return len(self._data)

    @property
    def rest(self) -> bytes:
        """A copy of what is held."""
        return bytes(memoryview(self._data)[self._at :])

    def next_request(self) -> None:
        """Drop the bytes of a request that was read; the rest begins the next one."""
        self.take_back()
        self.discard()
        self._scanned = 0
        self.ended = False

    def clear(self) -> None:
        """Drop everything."""
        self.buf = BytesIO()
        self._data.clear()
        self._at = 0

    @override
    def chunk(self, size_hint: int | None = None) -> bytes:
        size = min(max(CHUNK, size_hint or 0), LARGEST_CHUNK, self.held)
        if not size and not self.ended:
            raise Incomplete
        self._given = True
        if self.ended and self._at > 2 * LARGEST_CHUNK:
            # a reader gives back bytes of its last chunk alone
            del self._data[: self._at - LARGEST_CHUNK]
            self._at = LARGEST_CHUNK
        return self.take(size)

    def take_back(self) -> int:
        """Take back what gunicorn's reader has not used. Returns how many bytes were read."""
        if self._given:
            self._at -= len(self.take_buffered())
            self._given = False
        return self._at

    def rewind(self) -> None:
        """Undo the reads of an incomplete head."""
        self.buf = BytesIO()
        self._at = 0
