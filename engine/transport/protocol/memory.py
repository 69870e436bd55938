"""Shared memory without a name: an anonymous file that only its descriptor leads to.

No other user can open it, and it disappears with the last process that has it. It is sealed, so
that no process can shrink it: reading beyond the end of a mapped file is SIGBUS.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MIN_ORDER: Final = 9
"""The smallest block has 512 bytes: an error message has to fit into the block of its request."""

Block = tuple[int, int]
"""Offset in bytes, and order: a block of order `n` has `2**n` bytes."""


class SharedMemory:
    """`size` bytes that several processes map. Unmapped when the last array over it is gone."""

    __slots__ = ("fd", "map", "size")

    def __init__(self, fd: int) -> None:
        """Map memory that was received as `fd`, which this object owns from now on.

        Raises ValueError if it is not sealed.
        """
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
            os.close(fd)
            raise ValueError("the memory is not sealed against changes of its size")
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self.map = mmap.mmap(fd, self.size)

    @classmethod
    def create(cls, name: str, size: int) -> SharedMemory:
        """Make new memory, all zeros. Pages take room only once they are written."""
        fd = os.memfd_create(f"brim-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
            return cls(fd)
        except OSError:
            os.close(fd)
            raise

    def close_fd(self) -> None:
        """Close the descriptor; the mapping stays. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class BlockAllocator:
    """Blocks of powers of two out of `2**order` bytes: a buddy allocator that merges lazily.

    Freed blocks are kept by size, so that the usual case is one `pop`; buddies are merged only when
    no block is large enough. Not thread-safe. (Knowlton, "A fast storage allocator", 1965; lazy
    merging: Barkley and Lee, "A lazy buddy system", 1989.)
    """

    def __init__(self, order: int) -> None:
        self._top = order
        self._free: list[list[int]] = [[] for _ in range(order + 1)]
        self._free[order].append(0)
        self.free_bytes = 1 << order
        self._mergeable = False

    def take(self, size: int) -> Block | None:
        """A block of at least `size` bytes, or None."""
        order = max(MIN_ORDER, (size - 1).bit_length())
        if order > self._top or 1 << order > self.free_bytes:
            return None
        if not self._has(order):
            if not self._mergeable:
                return None
            self._merge()
            if not self._has(order):
                return None
        self.free_bytes -= 1 << order
        return self._free[order].pop(), order

    def give(self, block: Block) -> None:
        """Free a block; each exactly once."""
        offset, order = block
        self._free[order].append(offset)
        self.free_bytes += 1 << order
        self._mergeable = True

    def _has(self, order: int) -> bool:
        """Whether there is a block of this order, after the smallest larger one was split."""
        if self._free[order]:
            return True
        for larger in range(order + 1, self._top + 1):
            if self._free[larger]:
                offset = self._free[larger].pop()
                for half in range(larger - 1, order - 1, -1):
                    self._free[half].append(offset + (1 << half))
                self._free[order].append(offset)
                return True
        return False

    def _merge(self) -> None:
        self._mergeable = False
        for order in range(MIN_ORDER, self._top):
            size = 1 << order
            free = set(self._free[order])
            pairs = [offset for offset in free if not offset & size and offset | size in free]
            free.difference_update(pairs, [offset | size for offset in pairs])
            self._free[order] = list(free)
            self._free[order + 1] += pairs


class Slab:
    """The blocks of the last `2**order` bytes of some memory. Not thread-safe."""

    def __init__(self, memory: SharedMemory, order: int) -> None:
        self.memory = memory
        self.begin = memory.size - (1 << order)
        self._allocator = BlockAllocator(order)
        self._largest = 1 << order >> 3

    def fits(self, size: int) -> bool:
        """Whether a block of this size may be taken; one larger than an eighth may not."""
        return size <= self._largest

    def take(self, size: int) -> Block | None:
        """A block of at least `size` bytes, or None. Its offset counts from `begin`."""
        return self._allocator.take(size)

    def give(self, block: Block) -> None:
        """Free a block; each exactly once."""
        self._allocator.give(block)

    @property
    def free_bytes(self) -> int:
        """Bytes of all free blocks."""
        return self._allocator.free_bytes
