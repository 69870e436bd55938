"""What gunicorn's master does for Brim: it owns the engine's process and the configuration.

In order: `on_starting` checks gunicorn's options; `when_ready` starts the engine's process; each
worker is forked with a slot of its own and connects to the engine; on SIGHUP the file is read
again, and a changed one is served when its engine is ready. After SIGUSR2 the new master forks its
workers when its engine is ready. The master never imports JAX.
"""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from app.hosting.engine_process import Start
from app.hosting.supervisor import say
from app.hosting.terminal import greeting
from app.hosting.workers import MAX_CRASHES, Crashes, choose
from app.settings import MAX_WORKERS, Settings, exit_with, local_url
from app.worker.balance import UNUSED
from engine import api
from engine.api import ConfigError

HOME: Final = Path(__file__).resolve().parents[2]
SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")
ENGINE: Final = (
    f"import sys; sys.path.insert(0, {str(HOME)!r}); import brim; brim.engine_process(sys.argv[1:])"
)
STAYS: Final = "the configuration before it stays"
END_S: Final = 10.0
"""Seconds for the supervisor to end after the last worker has."""


class Engine:
    """One engine's process with its supervisor, as the master sees it."""

    def __init__(self, settings: Settings, folder: str, url: str) -> None:
        """Start it. The supervisor deletes `folder` if the master cannot. `url` is where the server
        listens.
        """
        self.settings = settings
        self.page = api.status_page()
        self._listener = api.listen()
        self.address: bytes = self._listener.getsockname()
        fds = self._listener.fileno(), self.page.memory.fd
        command = [sys.executable, "-I", str(SUPERVISOR), folder, ",".join(map(str, fds))]
        self._process = subprocess.Popen(
            [*command, sys.executable, "-c", ENGINE], stdin=subprocess.PIPE, pass_fds=fds
        )
        start = Start(settings.file, settings.text, url, sys.path)
        if self._process.stdin is not None:
            self._process.stdin.write(msgspec.json.encode(start) + b"\n")
            self._process.stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether its supervisor has ended: by itself it does so only when it gives up."""
        return self._process.poll() is not None

    def drain(self) -> None:
        """Let it refuse new requests and answer the accepted ones. Returns at once."""
        self._process.send_signal(signal.SIGTERM)

    def retire(self) -> None:
        """Let it serve its workers, and end with the last one. Returns at once.

        A forked worker calls it, too: as long as the other end of this pipe is open anywhere, the
        supervisor does not notice the end of the master.
        """
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._listener.close()

    def close(self) -> None:
        """End it. Every worker has ended."""
        self.retire()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def outcome(self) -> str | None:
        """Of the start-up: "" when it is over and the server ready, else why it never will be; None
        while it goes on.
        """
        if self.ended:
            return "its engine has ended"
        status = self.page.read()
        if status is None or not all(model.state.startup_finished for model in status.models):
            return None
        if status.ready:
            return ""
        return "; ".join(f"model {m.name!r}: {m.reason}" for m in status.models if not m.serving)


class Master:
    """gunicorn's hooks that run in the master. They are called on its main thread."""

    def __init__(self, read: Callable[[], Settings]) -> None:
        """`read` reads the configuration. Raises what it raises."""
        self._read = read
        self.settings = read()
        self.engine: Engine | None = None
        self.folder = ""
        self._counts = memoryview(mmap.mmap(-1, 4 * MAX_WORKERS)).cast("I")
        self._counts[:] = memoryview(array("I", [UNUSED]) * MAX_WORKERS)
        self._crashes = Crashes()
        self._ending = self._failed = False

    def reread(self) -> None:
        """On SIGHUP, before gunicorn takes its options: read the file again. A mistake in it
        changes nothing.
        """
        try:
            self.settings = self._read()
        except ConfigError as error:
            say(f"{error}; {STAYS}")

    def on_starting(self, server: Any) -> None:
        """Refuse options that cannot work."""
        if server.cfg.preload_app:
            allowed = "False: each worker has its own connection to the engine"
            exit_with(ConfigError("preload_app", True, allowed))
        if not api.can_share_memory() and server.cfg.workers != 1:
            allowed = "1: this system has no shared memory for an engine of its own process"
            exit_with(ConfigError("workers", server.cfg.workers, allowed))

    def when_ready(self, server: Any) -> None:
        """Start the engine's process: the sockets are bound, and no worker is forked yet."""
        url = self._url(server)
        for line in greeting(url):
            say(line)
        if not api.can_share_memory():
            say("no memfd, eventfd or epoll here: the engine runs in the HTTP process (gthread)")
            return
        choice = choose(self.settings)
        reason = choice.reason if server.cfg.workers == choice.workers else "as gunicorn was told"
        say(f"{_count(server.cfg.workers, 'HTTP process')} ({reason}), one engine process")
        # for the workers' metrics; only this user can read it
        self.folder = tempfile.mkdtemp(prefix="brim-", dir=memory_folder())
        self.engine = Engine(self.settings, self.folder, url)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            _before(number, self._end)
        _before(signal.SIGCHLD, self._child_ended)
        if server.master_pid:  # after SIGUSR2 another server still answers on these sockets
            outcome = self._wait(self.engine)
            if outcome:
                say(f"this server does not take over: {outcome}")
                self.engine.drain()
                self.on_exit(server)
                raise SystemExit(1)

    def _wait(self, engine: Engine) -> str | None:
        """The outcome of an engine's start-up; None if the server ends before."""
        while (outcome := engine.outcome()) is None and not self._ending:
            time.sleep(0.05)
        return outcome

    def _url(self, server: Any) -> str:
        """Where gunicorn listens: it may have been told another address, or have got its sockets.
        With `reuse_port` each worker opens its own.
        """
        if not server.LISTENERS:
            return _address_url(server.cfg.address[0], "https" if server.cfg.is_ssl else "http")
        listens = str(server.LISTENERS[0])
        scheme, _, bind = listens.partition("://")
        return listens if not bind else local_url(bind).replace("http", scheme, 1)

    def _end(self) -> None:
        self._ending = True
        if self.engine is not None:
            self.engine.drain()

    def _child_ended(self) -> None:
        if not self._ending and self.engine is not None and self.engine.ended:
            say("the engine's process cannot run")
            self._fail()

    def _fail(self) -> None:
        """End the server, with exit status 1."""
        self._ending = self._failed = True
        os.kill(os.getpid(), signal.SIGTERM)

    def worker_exit(self, worker: Any) -> None:
        """In a worker that ends in order."""
        self._crashes.orderly(worker)

    def pre_fork(self, server: Any, worker: Any) -> None:
        """Give the worker the lowest slot that no other has: its metrics continue those of the last
        process in it.
        """
        taken = {other.slot for other in server.WORKERS.values()}
        worker.slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        self._crashes.started(worker)
        if worker.slot < len(self._counts) and not server.cfg.reuse_port:
            # with `reuse_port` no other worker can accept what one leaves
            worker.connection_counts = self._counts

    def child_exit(self, server: Any, worker: Any) -> None:
        """The other workers do not wait for one that has ended. When one after the other dies soon
        after its start, the server ends: gunicorn would start the next one for ever.
        """
        if worker.slot < len(self._counts):
            self._counts[worker.slot] = UNUSED
        if self._crashes.ended(worker, server.WORKERS.values()) and not self._ending:
            say(f"{MAX_CRASHES} HTTP processes in a row have died soon after their start")
            self._fail()

    def on_reload(self, server: Any) -> None:
        """On SIGHUP: if the file has changed, start its engine beside the old one, and let new
        workers connect to it when it is ready. Otherwise the old one stays.
        """
        before = self.engine
        if before is None or before.settings.text == self.settings.text:
            return
        new = Engine(self.settings, self.folder, self._url(server))
        outcome = self._wait(new)
        if outcome == "":
            self.engine = new
            before.retire()
            return
        if outcome is not None:  # else the server ends meanwhile
            say(f"the changed configuration is not served: {outcome}; {STAYS}")
        self.settings = before.settings
        new.drain()
        new.close()

    def on_exit(self, _server: Any) -> None:
        """End the engine's process. If it has given up, so has the server: exit status 1."""
        if self.engine is None:
            return
        self.engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._failed:
            say("the server ends")
            raise SystemExit(1)


def _before(number: int, call: Callable[[], None]) -> None:
    """Call `call` before gunicorn's handler of this signal."""
    gunicorns = signal.getsignal(number)

    def handle(number: int, frame: FrameType | None) -> None:
        call()
        if callable(gunicorns):
            gunicorns(number, frame)

    signal.signal(number, handle)


def _address_url(address: str | tuple[str, int], scheme: str) -> str:
    """The URL of an address in gunicorn's form."""
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address
    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return local_url(bind).replace("http", scheme, 1)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es'}"


def memory_folder() -> str | None:
    """Where files are memory and no disk: the system's folder for it, if this process may write."""
    folder = "/dev/shm"  # noqa: S108
    return folder if os.access(folder, os.W_OK) else None
