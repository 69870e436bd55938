"""A ring of fixed-size records in shared memory, from one process to another.

The eventfd of a ring carries how many records were published since it was read: the reader takes
exactly so many. So the rings need no shared counters, and the system calls are the memory barriers
that a counter would need on other machines than x86. Each record has a number that must be the next
one; a writer that crashed or went wrong is noticed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from engine.transport.protocol.memory import SharedMemory

REQUEST: Final = np.dtype(
    [
        ("number", "<u8"),
        ("enqueued_at", "<f8"),
        ("deadline", "<f8"),
        ("offset", "<u8"),
        ("rows", "<u4"),
        ("length", "<u4"),
        ("packed", "<u4"),
        ("capacity", "<u4"),
        ("model", "<u2"),
        ("priority", "u1"),
        ("place", "u1"),
        ("reserved", "<u4"),
    ]
)
"""A submitted request. Its number is its identity.

offset, place  where its block is: in the slab, or a parcel of its own
length         of its rows, 0 for none
packed         bytes of a packed request, 0 if its arrays have the layout of the signature
capacity       bytes of the block
"""

OUTCOME: Final = np.dtype(
    [
        ("number", "<u8"),
        ("request", "<u8"),
        ("retry_after_s", "<f8"),
        ("kind", "<u4"),
        ("size", "<u4"),
    ]
)
"""The outcome of the request with the number `request`.

kind  0 for outputs in the layout of the signature, 1 for packed ones, above for errors
size  bytes of the packed outputs or of the error's message, at the beginning of the block
"""

SLAB: Final = 0
PARCEL: Final = 1

OUTPUTS: Final = 0
PACKED: Final = 1
ERRORS: Final = 2
"""Outcomes of this kind and above are errors: the position in the table of errors, plus this."""


class RingMemory(NamedTuple):
    """The parts of the memory that one HTTP process shares with the engine."""

    requests: np.ndarray[Any, Any]
    outcomes: np.ndarray[Any, Any]

    @classmethod
    def of(cls, memory: SharedMemory, records: int, order: int) -> RingMemory:
        """Find them: two rings of so many records, then a slab of `2**order` bytes.

        Raises ValueError if the memory has another size.
        """
        if memory.size != cls.size(records, order):
            raise ValueError(f"{memory.size} bytes do not fit {records} records and 2**{order}")
        requests = np.ndarray(records, REQUEST, memory.map)
        outcomes = np.ndarray(records, OUTCOME, memory.map, requests.nbytes)
        return cls(requests, outcomes)

    @staticmethod
    def size(records: int, order: int) -> int:
        """Bytes that they need."""
        return records * (REQUEST.itemsize + OUTCOME.itemsize) + (1 << order)


class BrokenRing(Exception):
    """The other process wrote something else than the next record."""


_CODES: Final = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f8": "d"}


def _struct_of(dtype: np.dtype[Any]) -> struct.Struct:
    """The same record for `struct`: to a tuple and back it takes a fourth of numpy's time."""
    fields = [dtype[name] for name in dtype.names or ()]
    return struct.Struct("<" + "".join(_CODES[f"{one.kind}{one.itemsize}"] for one in fields))


class RingWriter:
    """`put` records, then `publish` them. One thread at a time."""

    def __init__(self, records: np.ndarray[Any, Any], eventfd: int) -> None:
        """The caller never has more than `size`, the length of `records`, unread: no record is
        written over before it was read.
        """
        self.size = len(records)
        self._pack = _struct_of(records.dtype).pack_into
        self._step = records.dtype.itemsize
        self._bytes = records.view(np.uint8).data
        self._eventfd = eventfd
        self._next = 0
        self._unpublished = 0

    @property
    def next_number(self) -> int:
        """The number of the next record."""
        return self._next

    def put(self, record: tuple[float, ...]) -> None:
        """Write a record; its first field is `next_number`."""
        self._pack(self._bytes, self._next % self.size * self._step, *record)
        self._next += 1
        self._unpublished += 1

    def publish(self) -> None:
        """Let the reader see what was put: one wake-up."""
        count, self._unpublished = self._unpublished, 0
        if count:
            os.eventfd_write(self._eventfd, count)

    def close(self) -> None:
        """Close the eventfd, which is this object's own."""
        os.close(self._eventfd)


class RingReader:
    """`take` what was published. One thread at a time."""

    def __init__(self, records: np.ndarray[Any, Any], eventfd: int) -> None:
        self._size = len(records)
        self._unpack = _struct_of(records.dtype).iter_unpack
        self._step = records.dtype.itemsize
        self._bytes = records.view(np.uint8).data
        self.eventfd = eventfd
        self._next = 0

    @property
    def next_number(self) -> int:
        """The number of the next record."""
        return self._next

    def take(self) -> Sequence[tuple[Any, ...]]:
        """All records published since the last call; does not wait. Raises `BrokenRing`."""
        try:
            count = os.eventfd_read(self.eventfd)
        except BlockingIOError:
            return ()
        size, step = self._size, self._step
        if count > size:
            raise BrokenRing(f"{count} records were published in a ring of {size}")
        begin = self._next % size
        end = begin + count
        found = list(self._unpack(self._bytes[begin * step : end * step]))
        if end > size:
            found += self._unpack(self._bytes[: (end - size) * step])
        for expected, record in enumerate(found, self._next):
            if record[0] != expected:
                raise BrokenRing(f"record {record[0]} came where {expected} was expected")
        self._next += count
        return found

    def close(self) -> None:
        """Close the eventfd, which is this object's own."""
        os.close(self.eventfd)
