"""Runs a plan in a process of its own: an event loop, the real clock, real connections.

The caller's process may draw a progress bar or run a benchmark meanwhile, which takes CPU on other
cores only and does not delay the load.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final, cast

import httptools
from typing_extensions import override

from app.cli.bench import load, report
from app.cli.bench.load import Load
from app.cli.bench.plan import Address, BenchError, Plan
from app.cli.bench.report import Failure, Progress, Report, Samples

PROGRESS_S: Final = 0.25

SPARE_FILES: Final = 64
"""Open files besides the connections."""

_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_ITIMERSPEC: Final = struct.Struct("@qqqq")  # interval and time, each in seconds and nanoseconds


def run(plan: Plan, progress: Callable[[Progress], object] = lambda _progress: None) -> Report:
    """Run to the end and report; `progress` is called four times a second. Raises `BenchError`."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_run, args=(plan, send), name="brim-bench", daemon=True)
    process.start()
    send.close()
    try:
        while not isinstance(message := receive.recv(), Report):
            if isinstance(message, BenchError):
                raise message
            progress(message)
    except EOFError:
        process.join()
        raise BenchError(f"the load generator ended with {process.exitcode}") from None
    finally:
        process.terminate()
        process.join()
        receive.close()
    return message


def _run(plan: Plan, out: Connection) -> None:
    """In the child. It ignores Ctrl-C, because the parent terminates it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    try:
        out.send(report.make(plan, measure(plan, out.send)))
    except BenchError as error:
        out.send(error)
    except BrokenPipeError:
        return  # the parent has ended


def measure(plan: Plan, progress: Callable[[Progress], object]) -> Samples:
    """In this process: warm up, measure, wait at most `give_up_s` for what is in flight."""
    _allow_files(plan.settings.clients or plan.settings.connections)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(drive(plan, progress))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not available for this platform
        return None
    return uvloop.new_event_loop


def _allow_files(connections: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


async def drive(plan: Plan, progress: Callable[[Progress], object]) -> Samples:
    """`measure` on the event loop that is running."""
    settings = plan.settings
    address = await _resolve(settings.url)
    started = time.monotonic()
    begin = started + settings.warmup_s
    driver = _Driver(plan, Samples(begin, begin + settings.duration_s), address)
    reporting = asyncio.ensure_future(_report(driver.samples, started, progress))
    usage = asyncio.ensure_future(_core(settings.warmup_s, settings.duration_s))
    try:
        await driver.run(started)
        driver.samples.core = await usage
        return driver.samples
    finally:
        reporting.cancel()
        usage.cancel()


class _Driver:
    """Connects a load to the event loop: a timer calls `poll`, tasks open the connections."""

    def __init__(self, plan: Plan, samples: Samples, address: tuple[str, int]) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._address = address
        self._timeout_s = plan.settings.give_up_s
        self._finished: asyncio.Future[None] = self._event_loop.create_future()
        self._opening: set[asyncio.Task[None]] = set()
        self._timer = Timer(self._event_loop, self._poll)
        self._load = load.of(plan, samples, self._connect, lambda: self._finished.set_result(None))
        self.samples = samples

    async def run(self, now: float) -> None:
        try:
            self._load.start(now)
            self._poll()
            await self._finished
        finally:
            self._timer.close()
            for task in self._opening:
                task.cancel()
            self._load.close()

    def _poll(self) -> None:
        self._load.poll(time.monotonic())
        self._timer.at(self._load.due)

    def _connect(self) -> None:
        task = self._event_loop.create_task(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._event_loop.create_connection(
                    lambda: HttpConnection(self._load), *self._address
                )
        except ConnectionRefusedError:
            self._load.open_failed(Failure.REFUSED, time.monotonic())
        except OSError:  # TimeoutError is one
            self._load.open_failed(Failure.UNREACHABLE, time.monotonic())


async def _resolve(url: str) -> tuple[str, int]:
    """Look the host's address up once, so that no request waits for it."""
    address = Address.parse(url)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BenchError(f"{url}: {error}") from None
    return str(found[0][4][0]), address.port


async def _report(samples: Samples, started: float, progress: Callable[[Progress], object]) -> None:
    while True:
        progress(Progress(time.monotonic() - started, samples.completed, samples.failed))
        await asyncio.sleep(PROGRESS_S)


async def _core(warmup_s: float, duration_s: float) -> float:
    """CPU seconds of this process per second of the window."""
    await asyncio.sleep(warmup_s)
    begin, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(duration_s)
    return (time.process_time() - cpu) / (time.monotonic() - begin)


class Timer:
    """Calls `fire` once after each `at`, not before that time of `time.monotonic()`.

    It is precise to less than a millisecond. The timers of event loops count whole milliseconds, as
    epoll does. They fire late, which an open loop would add to every latency, or early, and then
    the loop spins. Linux has timerfd, which a loop can wait for like a socket. Python has it from
    3.13 on, so this calls the C library. Elsewhere the event loop's own timer is used.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._handle: asyncio.TimerHandle | None = None
        self._file: int | None = None
        if sys.platform == "linux":
            self._library = ctypes.CDLL(None)
            file = self._library.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            loop.add_reader(file, self._expired, file)
            self._file = file

    def _expired(self, file: int) -> None:
        os.read(file, 8)
        self._fire()

    def at(self, when: float) -> None:
        """Fire at `when`, in seconds, instead of at the time set before."""
        if self._file is not None:
            seconds, fraction = divmod(max(when, 0.0), 1)
            spec = _ITIMERSPEC.pack(0, 0, int(seconds), int(fraction * 1e9) + 1)  # 0 would unset it
            self._library.timerfd_settime(self._file, _ABSOLUTE, spec, None)
            return
        if self._handle is not None:
            self._handle.cancel()
        delay = max(0.0, when - time.monotonic())
        self._handle = self._loop.call_later(delay, self._fire)

    def close(self) -> None:
        """Cancel what is set, and release the timer."""
        if self._handle is not None:
            self._handle.cancel()
        if self._file is not None:
            self._loop.remove_reader(self._file)
            os.close(self._file)


class HttpConnection(asyncio.Protocol):
    """A `load.Connection`. Of a response only its status and its end are looked at."""

    def __init__(self, load: Load) -> None:
        self.busy = False
        self.intended = 0.0
        self.request = 0
        self._load = load
        self._parser = httptools.HttpResponseParser(self)

    def send(self, message: bytes) -> None:
        """Write one whole request."""
        self._transport.write(message)

    def abort(self) -> None:
        """Close it at once and drop what is unsent."""
        self._transport.abort()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._load.opened(self, time.monotonic())

    @override
    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._load.lost(self, Failure.GARBAGE, time.monotonic())

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        # the load ignores this if it closed the connection itself
        failure = Failure.CLOSED if exc is None else Failure.RESET
        self._load.lost(self, failure, time.monotonic())

    def on_message_complete(self) -> None:
        """Called by the parser after each response; one below 200 precedes the final one."""
        parser = self._parser
        status = parser.get_status_code()
        if status >= 200:  # noqa: PLR2004  # informational, in HTTP's words
            reusable = parser.should_keep_alive()
            self._load.answered(self, status, time.monotonic(), reusable=reusable)
