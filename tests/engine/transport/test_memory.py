"""Shared memory that cannot shrink, and the allocator of its blocks."""

from __future__ import annotations

import errno
import fcntl
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.transport.protocol.memory import MIN_ORDER, BlockAllocator, SharedMemory, Slab

ORDER = 14  # 16 KiB: 32 of the smallest blocks


def test_memory_is_shared_by_whoever_gets_the_descriptor() -> None:
    memory = SharedMemory.create("test", 4096)
    other = SharedMemory(os.dup(memory.fd))
    memory.map[10:14] = b"here"
    assert other.map[10:14] == b"here"
    assert other.size == 4096
    memory.close_fd()
    memory.close_fd()
    assert other.map[10:14] == b"here", "the mapping outlives the descriptor"
    other.close_fd()


@pytest.mark.parametrize("size", [4095, 4097], ids=["shrink", "grow"])
def test_nobody_can_change_its_size(size: int) -> None:
    memory = SharedMemory.create("test", 4096)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, size)
    memory.close_fd()


def test_memory_that_could_shrink_is_refused() -> None:
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    with pytest.raises(ValueError, match="not sealed"):
        SharedMemory(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@given(st.lists(st.tuples(st.integers(1, 1 << ORDER), st.integers(0, 99)), max_size=200))
def test_blocks_in_use_never_overlap_and_all_bytes_come_back(
    steps: list[tuple[int, int]],
) -> None:
    allocator = BlockAllocator(ORDER)
    used: list[tuple[int, int]] = []
    for size, choice in steps:
        if used and choice % 3 == 0:
            allocator.give(used.pop(choice % len(used)))
        block = allocator.take(size)
        if block is not None:
            assert 1 << block[1] >= size
            used.append(block)
        spans = sorted((offset, offset + (1 << order)) for offset, order in used)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
        assert not spans or (spans[0][0] >= 0 and spans[-1][1] <= 1 << ORDER)
        assert allocator.free_bytes == (1 << ORDER) - sum(end - begin for begin, end in spans)
    for block in used:
        allocator.give(block)
    assert allocator.take(1 << ORDER) == (0, ORDER), "everything merges again"


def test_without_room_there_is_no_block_until_one_is_free() -> None:
    allocator = BlockAllocator(ORDER)
    blocks = [allocator.take(1) for _ in range(1 << (ORDER - MIN_ORDER))]
    assert allocator.take(1) is None
    first = blocks[0]
    assert first is not None
    allocator.give(first)
    assert allocator.take(1 << (MIN_ORDER + 1)) is None, "half of that is free"
    assert allocator.take(1) == first


def test_a_block_of_more_than_an_eighth_of_the_slab_is_not_taken() -> None:
    slab = Slab(SharedMemory.create("test", 4096 + (1 << ORDER)), ORDER)
    assert slab.begin == 4096
    assert slab.fits(1 << (ORDER - 3))
    assert not slab.fits((1 << (ORDER - 3)) + 1)
    slab.memory.close_fd()


def test_memory_that_cannot_be_made_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def full(fd: int, _size: int) -> None:
        made.append(fd)
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", full)
        with pytest.raises(OSError, match="no space"):
            SharedMemory.create("test", 1000)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0])
