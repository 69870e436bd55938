"""Starts servers to measure, Brim with either worker and the floor, and runs loads on them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from app.cli.bench import process, requests
from app.cli.bench.plan import Plan, Settings, Target
from app.cli.bench.report import Report
from engine.models.model import Model
from engine.models.tensors import Arrays

BIN: Final = Path(sys.executable).parent
ROOT: Final = Path(__file__).parent.parent
GTHREADS: Final = 300
"""Threads of gthread: enough for 256 clients. With 1,000 threads for 1,000 clients it is slower."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its URL and its process."""

    url: str
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """CPU seconds used so far, user and system, with child processes."""
        parent = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in (parent, *parent.children(recursive=True))]
        return sum(each.user + each.system for each in times)


def run(model: Model, name: str, request: Arrays, how: Settings) -> Report:
    """Run one load that repeats one request."""
    return process.run(
        Plan(how, (requests.encode(how, Target(name), model.signature.inputs, request),))
    )


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_session(master: subprocess.Popen[bytes], within_s: float) -> None:
    """Terminate a server that leads a session of its own, then kill the rest of it."""
    master.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        master.wait(within_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(master.pid, signal.SIGKILL)
    master.wait()


def last_lines(log: Path, count: int) -> str:
    """The end of a log, in one line."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return (
        " / ".join([line.strip() for line in lines if line.strip()][-count:]) or "it said nothing"
    )


@contextlib.contextmanager
def served(config: Path, name: str, worker: str = "brim") -> Iterator[Server]:
    """A running `brim serve` whose model `name` is ready."""
    port = free_port()
    command: list[str | Path] = [BIN / "brim", "serve", config, "--worker", worker]
    command += ["--bind", f"127.0.0.1:{port}"]
    if worker == "gthread":
        command += ["--threads", str(GTHREADS)]
    with running(command, f"http://127.0.0.1:{port}", f"/v2/models/{name}/ready") as server:
        yield server


@contextlib.contextmanager
def floor() -> Iterator[Server]:
    """The floor: Flask under Brim's worker, without an engine (`benchmarks/null/floor.py`)."""
    port = free_port()
    command: list[str | Path] = [BIN / "gunicorn", "-k", "app.worker.worker.BrimWorker"]
    command += ["--keep-alive", "75", "--worker-connections", "16384", "--no-control-socket"]
    command += ["-b", f"127.0.0.1:{port}", "benchmarks.null.floor:app"]
    with running(command, f"http://127.0.0.1:{port}", "/ready") as server:
        yield server


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    url: str,
    ready: str,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server that was started by `command` and answers 200 at `url` + `ready`."""
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=cwd, env=env)
    try:
        _wait_ready(url + ready, server)
        yield Server(url, server)
    finally:
        server.terminate()
        server.wait()


def _wait_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5)
            return
        time.sleep(0.5)
    raise SystemExit(f"the server did not become ready at {url}")
