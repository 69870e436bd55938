"""The process between gunicorn's master and the engine: starts the engine, and starts it again.

gunicorn's master runs this file, which imports little more than the standard library, so it is
small, and it never forks a process that has threads or JAX: every engine is a new program.

Its standard input is a line with what the engine needs, which it passes on, and then nothing until
the end: when the master closes it or dies, the engine serves the workers that are left, and ends
with the last of them. SIGTERM lets the engine refuse, answer what it has accepted, and end.

A master is told by the exit status: 0 after it has asked for the end, 1 when the engine could not
start `MAX_FAILURES` times in a row.
"""

from __future__ import annotations

import mmap
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Final, NamedTuple

from setproctitle import setproctitle

MAX_FAILURES: Final = 3
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 60.0
"""An engine that was up for so long starts again after the first pause."""

SILENT_S: Final = 60.0
"""Seconds without a beat on the status page after which an engine that was up is killed: no thread
of it gets the GIL any more, or it is stopped. It beats four times a second."""
WATCH_S: Final = 5.0
"""Seconds between two looks at the page."""
BEAT: Final = struct.Struct("<d")
BEAT_AT: Final = 32
"""Where the page has the beat, as `engine.transport.protocol.status` writes it."""


class Ended(NamedTuple):
    """How an engine's process has ended. `was_up`: all its models had been brought up before."""

    status: int
    was_up: bool
    seconds: float

    @property
    def reason(self) -> str:
        """In words."""
        if self.status < 0:
            return f"was killed by {signal.Signals(-self.status).name}"
        return f"ended with status {self.status}"


class Restarts:
    """Decides what follows the end of an engine."""

    def __init__(self) -> None:
        self._failures = 0
        self._deaths = 0

    def pause_after(self, ended: Ended) -> float | None:
        """Seconds until the next start; None if it makes no sense to try again."""
        self._failures = 0 if ended.was_up else self._failures + 1
        if self._failures >= MAX_FAILURES:
            return None
        if ended.was_up and ended.seconds >= STEADY_S:
            self._deaths = 0
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._deaths)
        self._deaths += 1
        return pause_s


class Supervisor:
    """Runs engines, one after the other. `end` and `drain` may be called while `run` runs."""

    def __init__(self, command: Sequence[str], fds: Sequence[int], start: bytes) -> None:
        """`command` gets one more argument: the descriptor to which the engine writes when its
        models are up. `start` is the line for its standard input. The last of `fds` is the status
        page.
        """
        self._page = mmap.mmap(fds[-1], 0, access=mmap.ACCESS_READ)
        self._command = command
        self._fds = fds
        self._start = start
        self._engine: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()

    def run(self) -> int:
        """Until the end. Returns the exit status."""
        restarts = Restarts()
        while not self._ending.is_set():
            ended = self._run_engine()
            if self._ending.is_set():
                return 0
            pause_s = restarts.pause_after(ended)
            if pause_s is None:
                say(f"the engine's process {ended.reason}, {MAX_FAILURES} times before it was up")
                return 1
            say(f"the engine's process {ended.reason}; it is started again in {pause_s:g} s")
            self._ending.wait(pause_s)
        return 0

    def _run_engine(self) -> Ended:
        began = time.monotonic()
        up, told = os.pipe()
        self._engine = engine = subprocess.Popen(
            [*self._command, str(told)], stdin=subprocess.PIPE, pass_fds=[*self._fds, told]
        )
        os.close(told)
        try:
            if engine.stdin is not None:
                engine.stdin.write(self._start)
                engine.stdin.flush()
        except BrokenPipeError:
            say("the engine's process has ended at once")
        if self._ending.is_set():  # it was asked for meanwhile
            self._close_stdin()
        self._watch(engine, up)
        status = engine.wait()
        was_up = bool(os.read(up, 1))
        os.close(up)
        self._close_stdin()
        return Ended(status, was_up, time.monotonic() - began)

    def _watch(self, engine: subprocess.Popen[bytes], up: int) -> None:
        """Until it has ended, or is killed because it is silent. A start-up may take any time."""
        process, silent_looks = os.pidfd_open(engine.pid), 0
        try:
            while not select.select([process], [], [], WATCH_S)[0]:
                is_up = select.select([up], [], [], 0.0)[0]
                silent_s = time.monotonic() - BEAT.unpack_from(self._page, BEAT_AT)[0]
                silent_looks = silent_looks + 1 if is_up and silent_s > SILENT_S else 0
                # after a pause of the whole machine the engine seems to be silent, for one look
                if silent_looks > 1:
                    say(f"the engine's process has been silent for {silent_s:.0f} s; it is killed")
                    engine.kill()
                    return
        finally:
            os.close(process)

    def _close_stdin(self) -> None:
        engine = self._engine
        if engine is not None and engine.stdin is not None:
            with suppress(BrokenPipeError):
                engine.stdin.close()

    def end(self) -> None:
        """Let the engine end when it has no worker any more, and start no other."""
        self._ending.set()
        self._close_stdin()

    def drain(self, _number: int, _frame: FrameType | None) -> None:
        """The handler of SIGTERM: let the engine refuse new requests now, and then end."""
        self._ending.set()
        if self._engine is not None:
            self._engine.send_signal(signal.SIGTERM)


def say(text: str) -> None:
    """One line for the operator."""
    sys.stderr.write(f"brim: {text}\n")
    sys.stderr.flush()


def read_line() -> bytes:
    """The first line of standard input; nothing behind it is read."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise SystemExit(0)  # the master is gone already
        line += byte
    return line


def wait_for_end(supervisor: Supervisor) -> None:
    """Until standard input is closed."""
    while os.read(0, 1024):
        pass
    supervisor.end()


def main(folder: str, fds: str, *command: str) -> int:
    """Supervise. `fds` are what the engine inherits. If the master dies, `folder` is deleted."""
    master = os.getppid()
    setproctitle("brim: supervisor")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the master, which decides
    try:
        numbers = [int(fd) for fd in fds.split(",")]
        supervisor = Supervisor([*command, *map(str, numbers)], numbers, read_line())
        signal.signal(signal.SIGTERM, supervisor.drain)
        threading.Thread(target=wait_for_end, args=(supervisor,), daemon=True).start()
        return supervisor.run()
    finally:
        if os.getppid() != master:  # it cannot delete it any more
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
