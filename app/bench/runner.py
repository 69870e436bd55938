"""Runs one plan on an event loop, in this thread, and keeps the clock.

May touch: asyncio, uvloop, sockets, the limit on open files. `process.py` gives it a process.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.bench import load
from app.bench.connection import Connection
from app.bench.plan import Address, BenchError, Plan
from app.bench.tally import Failure, Tally
from app.bench.timer import Timer

PROGRESS_S: Final = 0.25

SPARE_FILES: Final = 64
"""Beside the connections."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; counts since its start, warm-up included."""

    elapsed_s: float
    settled: int
    failed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run leaves: the tally, and the share of a core that the generator took."""

    tally: Tally
    core: float


def run(plan: Plan, progress: Callable[[Progress], None] = lambda _progress: None) -> Seen:
    """Warm up, measure, and wait for what is on its way, for `give_up_s` at most."""
    _allow_files(plan.settings.clients or plan.settings.connections)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(drive(plan, progress))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return None
    return uvloop.new_event_loop


def _allow_files(connections: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


async def drive(plan: Plan, progress: Callable[[Progress], None]) -> Seen:
    """The same, on the event loop that runs."""
    loop = asyncio.get_running_loop()
    settings = plan.settings
    where = await _resolve(settings.url, loop)
    over: asyncio.Future[None] = loop.create_future()
    opening: set[asyncio.Task[None]] = set()

    def connect() -> None:
        task = loop.create_task(_open(made, where, settings.give_up_s))
        opening.add(task)
        task.add_done_callback(opening.discard)

    def ring() -> None:
        made.poll(time.monotonic())
        timer.at(made.due)

    started = time.monotonic()
    begin = started + settings.warmup_s
    tally = Tally(begin, begin + settings.duration_s)
    made = load.of(plan, tally, connect, lambda: over.set_result(None))
    timer = Timer(loop, ring)
    reporting = loop.create_task(_report(tally, started, progress))
    usage = loop.create_task(_core(settings.warmup_s, settings.duration_s))
    try:
        made.start(started)
        ring()
        await over
        return Seen(tally, await usage)
    finally:
        timer.close()
        reporting.cancel()
        usage.cancel()
        for task in opening:
            task.cancel()
        made.close()


async def _resolve(url: str, loop: asyncio.AbstractEventLoop) -> tuple[str, int]:
    """Once, so that no request waits for a name."""
    address = Address.parse(url)
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BenchError(f"{url}: {error}") from None
    return str(found[0][4][0]), address.port


async def _open(made: load.Load, where: tuple[str, int], patience_s: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(patience_s):
            await loop.create_connection(lambda: Connection(made, time.monotonic), *where)
    except ConnectionRefusedError:
        made.unopened(Failure.REFUSED, time.monotonic())
    except OSError:  # TimeoutError is one
        made.unopened(Failure.UNREACHABLE, time.monotonic())


async def _report(tally: Tally, started: float, progress: Callable[[Progress], None]) -> None:
    while True:
        progress(Progress(time.monotonic() - started, tally.settled, tally.failed))
        await asyncio.sleep(PROGRESS_S)


async def _core(warmup_s: float, duration_s: float) -> float:
    """CPU seconds of this process per second of the window."""
    await asyncio.sleep(warmup_s)
    begin, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(duration_s)
    return (time.process_time() - cpu) / (time.monotonic() - begin)
