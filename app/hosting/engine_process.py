"""The engine's process: `app.hosting.supervisor` starts it, HTTP processes connect to it.

Its standard input is one line: `Start` as JSON. When that input ends, gunicorn's master is gone or
has another engine, and this process ends when no HTTP process is connected any more.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
from rich.console import Console
from setproctitle import setproctitle
from typing_extensions import override

from app.hosting.logs import configure_logging
from app.hosting.terminal import StartupDisplay
from app.http.dispatch.lane_errors import error_of
from app.settings import Settings, exit_with, load
from app.worker.calls.job import Job
from app.worker.calls.pool import Pool
from engine import api
from engine.api import BrimError, ConfigError, InProcessClient, Observer, Observers

log = logging.getLogger("brim.engine")

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a Python thread may keep the GIL while another waits for it. At the default of 5 ms, one
busy thread makes the hand-off between a request and the engine take 10 ms; at 0.5 ms, 1.2 ms."""

BROKEN_EXIT: Final = 70
"""The exit status of an engine that cannot serve any more; its supervisor starts another one."""

DRAIN_SHARE: Final = 0.8
"""The part of `graceful_timeout_s` that the engine may take to drain. The rest is for sending the
last responses, before gunicorn closes the connections."""


HOOK_THREADS: Final = 8
"""For each model. More threads that compute at the same time are slower."""


class Start(msgspec.Struct):
    """What the process is given: the configuration as the master has read it."""

    file: str
    text: str
    url: str
    import_path: list[str]

    def settings(self) -> Settings:
        """The settings. Raises `ConfigError`: files may have changed since the master read them."""
        return load(self.file, text=self.text)


class HookThreads(Pool):
    """Threads for the hooks beside the engine: a lane for each model, as in the HTTP processes."""

    def __init__(self, threads: int = HOOK_THREADS) -> None:
        super().__init__(threads)

    def job(self, call: Callable[[], object], deadline: float) -> Job:
        """A call that is worth nothing after `deadline`."""
        return Job(call, deadline)

    def make(self, lane: str, job: Job, *, first: bool = False) -> BrimError | None:
        """Make a call. Returns the engine's error if it is refused."""
        refusal = self.submit(lane, job, first=first)
        return None if refusal is None else error_of(refusal, job.deadline - time.monotonic())


class GarbageCollectorPause(Observer):
    """Turns Python's garbage collector off until start-up is over, then freezes what exists.

    JAX's tracing makes millions of objects that stay alive. With the collector on, full collections
    over them took 150 ms, and every request waited that long. Frozen objects are never scanned
    again, so collections while serving stay short.
    """

    def __init__(self) -> None:
        gc.disable()

    @override
    def startup_finished(self) -> None:
        gc.freeze()
        gc.enable()


class Tell(Observer):
    """Tells the supervisor that start-up is over."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @override
    def startup_finished(self) -> None:
        os.write(self._fd, b"u")
        os.close(self._fd)


def make_engine(settings: Settings, observer: Observer, url: str | None = None) -> InProcessClient:
    """An engine in this process that shows its start-up in the terminal. It is not started. `url`
    is where the server listens, if that is not what the settings say.
    """
    console = Console(stderr=True, highlight=False)
    configure_logging(settings.log_level, console)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    display = StartupDisplay(settings, console, url)
    observers = Observers([display, GarbageCollectorPause(), observer])
    engine = InProcessClient(settings.models, observers)
    display.attach(engine)
    return engine


def run(listener: int, page: int, told: int) -> None:
    """Serve until the end. The arguments are file descriptors."""
    setproctitle("brim: engine")
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
    sys.path[:] = start.import_path
    try:
        settings = start.settings()
    except ConfigError as error:
        exit_with(error)

    def make(observer: Observer) -> InProcessClient:
        return make_engine(settings, Observers([observer, Tell(told)]), start.url)

    drain_s = DRAIN_SHARE * settings.graceful_timeout_s
    sock = socket.socket(fileno=listener)
    server = api.engine_server(make, sock, page, HookThreads(), drain_s)
    signal.signal(signal.SIGTERM, lambda _number, _frame: server.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the master, which decides
    threading.Thread(target=_until_alone, args=(server.retire,), daemon=True).start()
    status = BROKEN_EXIT
    try:
        server.run()
        status = BROKEN_EXIT if server.broken_reason else 0
        if server.broken_reason:
            log.error("the engine's process ends: %s", server.broken_reason)
    except BaseException:
        log.exception("the engine's process ends")
    # a compilation or a hook that still runs cannot be interrupted, and would keep the interpreter
    sys.stderr.flush()
    os._exit(status)


def _until_alone(retire: Callable[[], None]) -> None:
    """Until standard input is closed."""
    sys.stdin.buffer.read()
    retire()
