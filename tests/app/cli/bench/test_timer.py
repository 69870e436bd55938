"""The timer: with timerfd, and with the event loop's own."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.cli.bench import process
from app.cli.bench.process import Timer


@pytest.fixture(params=["linux", "elsewhere"], autouse=True)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.sys, "platform", request.param)


async def lateness(*delays: float) -> list[float]:
    """How late each call was; each `at` is set by the call before."""
    loop = asyncio.get_running_loop()
    left, late = list(delays), list[float]()
    done: asyncio.Future[None] = loop.create_future()
    due = 0.0

    def fire() -> None:
        nonlocal due
        late.append(time.monotonic() - due)
        if not left:
            done.set_result(None)
            return
        due = time.monotonic() + left.pop(0)
        timer_.at(due)

    timer_ = Timer(loop, fire)
    due = time.monotonic() + left.pop(0)
    timer_.at(due)
    await done
    timer_.close()
    return late


def test_it_fires_once_for_every_time_and_never_early() -> None:
    late = asyncio.run(lateness(0.002, 0.0005, 0.001))
    assert len(late) == 3
    assert min(late) >= 0


def test_a_time_that_has_passed_fires_at_once() -> None:
    assert len(asyncio.run(lateness(-1.0, -time.monotonic() - 5, 0.0))) == 3


@pytest.mark.parametrize(("first", "last"), [(3600, 0.001), (0.001, 0.004)])
def test_only_the_last_time_set_counts(first: float, last: float) -> None:
    async def twice() -> float:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[float] = loop.create_future()
        timer_ = Timer(loop, lambda: done.set_result(time.monotonic()))
        now = time.monotonic()
        timer_.at(now + first)
        timer_.at(now + last)
        late = await done - (now + last)
        timer_.close()
        return late

    assert asyncio.run(twice()) >= 0


def test_a_closed_timer_does_not_fire() -> None:
    async def close() -> bool:
        fired = False

        def fire() -> None:
            nonlocal fired
            fired = True

        loop = asyncio.get_running_loop()
        timer_, later = Timer(loop, fire), loop.create_future()
        timer_.at(time.monotonic())
        timer_.close()
        loop.call_later(0.005, later.set_result, None)
        await later
        return fired

    assert not asyncio.run(close())
