"""A page in shared memory with the state of the engine, for every process to read at no cost.

One process writes it. A reader that sees a half-written page keeps what it read before: the page
has a checksum, which holds on every machine; the order in which memory becomes visible differs.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

import msgspec

from engine.telemetry.snapshots import EngineStatus
from engine.transport.protocol.memory import SharedMemory

SIZE: Final = 256 * 1024
LONGEST_REASON: Final = 1000
"""Characters of a failure's reason."""

_HEADER: Final = struct.Struct("<QII")  # number of the content, its size, its checksum
_BEAT: Final = struct.Struct("<d")
_BEAT_AT: Final = 32
_CONTENT_AT: Final = 64
_DECODER: Final = msgspec.msgpack.Decoder(EngineStatus)


class StatusPage:
    """`write` in one process, `read` in all others. Not thread-safe."""

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory
        self._number = _HEADER.unpack_from(memory.map)[0]
        self._known: tuple[int, EngineStatus | None] = (0, None)

    @classmethod
    def create(cls) -> StatusPage:
        """Make an empty page."""
        return cls(SharedMemory.create("status", SIZE))

    def write(self, status: EngineStatus) -> None:
        """Replace the content."""
        content = msgspec.msgpack.encode(status)
        page = self.memory.map
        self._number += 1
        page[_CONTENT_AT : _CONTENT_AT + len(content)] = content
        checksum = zlib.crc32(content, self._number)
        # not `pack_into`: it writes zeros first, and an empty page has a valid checksum
        page[: _HEADER.size] = _HEADER.pack(self._number, len(content), checksum)

    def beat(self, now: float) -> None:
        """The writer is alive at `now`, on the monotonic clock."""
        self.memory.map[_BEAT_AT : _BEAT_AT + _BEAT.size] = _BEAT.pack(now)

    @property
    def beaten_at(self) -> float:
        """When the writer was alive."""
        return float(_BEAT.unpack_from(self.memory.map, _BEAT_AT)[0])

    def read(self) -> EngineStatus | None:
        """The content; None as long as there was none."""
        number, status = self._known
        page = self.memory.map
        newest, size, checksum = _HEADER.unpack_from(page)
        if newest != number:
            content = page[_CONTENT_AT : _CONTENT_AT + size]
            if zlib.crc32(content, newest) == checksum:
                status = _DECODER.decode(content)
                self._known = newest, status
        return status
