"""The alarm: with the kernel's clock, and where there is none."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.bench import timer
from app.bench.timer import Timer


@pytest.fixture(params=["linux", "elsewhere"], autouse=True)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer.sys, "platform", request.param)


async def rings(*delays: float) -> list[float]:
    """When it rang, less when it should have; each `at` is set when the last one rang."""
    loop = asyncio.get_running_loop()
    left, late = list(delays), list[float]()
    done: asyncio.Future[None] = loop.create_future()
    due = 0.0

    def ring() -> None:
        nonlocal due
        late.append(time.monotonic() - due)
        if not left:
            done.set_result(None)
            return
        due = time.monotonic() + left.pop(0)
        alarm.at(due)

    alarm = Timer(loop, ring)
    due = time.monotonic() + left.pop(0)
    alarm.at(due)
    await done
    alarm.close()
    return late


def test_it_rings_once_for_every_time_and_never_early() -> None:
    late = asyncio.run(rings(0.002, 0.0005, 0.001))
    assert len(late) == 3
    assert min(late) >= 0


def test_a_time_that_has_passed_rings_at_once() -> None:
    assert len(asyncio.run(rings(-1.0, -time.monotonic() - 5, 0.0))) == 3


@pytest.mark.parametrize(("first", "last"), [(3600, 0.001), (0.001, 0.004)])
def test_only_the_last_time_set_counts(first: float, last: float) -> None:
    async def twice() -> float:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[float] = loop.create_future()
        alarm = Timer(loop, lambda: done.set_result(time.monotonic()))
        now = time.monotonic()
        alarm.at(now + first)
        alarm.at(now + last)
        late = await done - (now + last)
        alarm.close()
        return late

    assert asyncio.run(twice()) >= 0


def test_closed_it_does_not_ring() -> None:
    async def close() -> bool:
        rang = False

        def ring() -> None:
            nonlocal rang
            rang = True

        loop = asyncio.get_running_loop()
        alarm, later = Timer(loop, ring), loop.create_future()
        alarm.at(time.monotonic())
        alarm.close()
        loop.call_later(0.005, later.set_result, None)
        await later
        return rang

    assert not asyncio.run(close())
