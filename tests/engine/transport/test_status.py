"""The page that every process reads."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from engine.models.model import ModelState
from engine.telemetry.snapshots import EngineStatus, LoadSnapshot, ModelStatus, Progress
from engine.transport.protocol.memory import SharedMemory
from engine.transport.protocol.status import StatusPage

USED = 1024
"""Bytes of the page that such a status takes."""

MODEL = ModelStatus(
    "m", "1", ModelState.READY, None, True, Progress(1, 2, 3.5, None), LoadSnapshot(1, 2, 3, 4.5)
)


@pytest.fixture
def page() -> StatusPage:
    return StatusPage.create()


@pytest.fixture
def reader(page: StatusPage) -> StatusPage:
    return StatusPage(SharedMemory(os.dup(page.memory.fd)))


def status(queued: int) -> EngineStatus:
    return EngineStatus((replace(MODEL, load=LoadSnapshot(queued)),))


def test_an_empty_page_has_no_status(reader: StatusPage) -> None:
    assert reader.read() is None
    assert reader.beaten_at == 0.0


def test_what_is_written_is_read_and_then_known(page: StatusPage, reader: StatusPage) -> None:
    page.write(EngineStatus((MODEL,)))
    page.beat(12.5)
    known = reader.read()
    assert known == EngineStatus((MODEL,))
    assert reader.read() is known, "an unchanged page is not decoded again"
    assert reader.beaten_at == 12.5


@pytest.mark.parametrize(("before", "after"), [(1, 70_000), (70_000, 1), (5, 6)])
def test_a_page_that_is_written_half_is_not_read(
    page: StatusPage, reader: StatusPage, before: int, after: int
) -> None:
    """Every state of the memory between two complete ones, byte by byte, in either order."""
    page.write(status(before))
    assert reader.read() == status(before)
    old = page.memory.map[:USED]
    page.write(status(after))
    new = page.memory.map[:USED]
    different = [at for at in range(len(old)) if old[at] != new[at]]
    for order in (different, different[::-1]):
        page.memory.map[:USED] = old
        for at in order[:-1]:
            page.memory.map[at] = new[at]
            assert reader.read() in (status(before), status(after))
        page.memory.map[order[-1]] = new[order[-1]]
        assert reader.read() == status(after)
        page.memory.map[:USED] = old
        reader = StatusPage(SharedMemory(os.dup(page.memory.fd)))
        assert reader.read() == status(before)


def test_a_page_never_has_a_moment_of_zeros(page: StatusPage) -> None:
    """`struct.pack_into` writes zeros first; a reader would see an engine that never was alive."""
    seen: list[bytes] = []

    class Recorded(bytearray):
        def __setitem__(self, key: object, value: object) -> None:
            super().__setitem__(key, value)  # type: ignore[index, assignment]
            seen.append(bytes(self[:16]))

    page.write(status(1))
    page.memory.map = Recorded(page.memory.map[:USED])  # type: ignore[assignment]
    page.write(status(2))
    page.beat(1.0)
    assert seen
    assert not any(header == bytes(16) for header in seen)


def test_the_next_writer_continues_the_numbers(page: StatusPage, reader: StatusPage) -> None:
    page.write(status(1))
    assert reader.read() == status(1)
    StatusPage(SharedMemory(os.dup(page.memory.fd))).write(status(2))
    assert reader.read() == status(2)
