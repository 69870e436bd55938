"""Real servers to measure: Brim under either worker, and the floor; and the load that they get."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from app.bench import process, shots
from app.bench.plan import Plan, Settings, Target
from app.bench.report import Report
from engine.model import Model
from engine.spec import Arrays

BIN: Final = Path(sys.executable).parent
ROOT: Final = Path(__file__).parent.parent
GTHREADS: Final = 300
"""Threads of gthread: for 256 clients and a few more. With one for each of 1,000 it is slower."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs: where it is, and its process."""

    url: str
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """Seconds of CPU that it has taken so far, with its children, user and system."""
        parent = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in (parent, *parent.children(recursive=True))]
        return sum(each.user + each.system for each in times)


def run(model: Model, name: str, request: Arrays, how: Settings) -> Report:
    """One load of this one request."""
    return process.run(Plan(how, (shots.make(how, Target(name), model.inputs, request),)))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(config: Path, name: str, worker: str = "brim") -> Iterator[Server]:
    """A real `brim serve` whose model `name` serves."""
    port = free_port()
    command: list[str | Path] = [BIN / "brim", "serve", config, "--worker", worker]
    command += ["--bind", f"127.0.0.1:{port}"]
    if worker == "gthread":
        command += ["--threads", str(GTHREADS)]
    with _running(command, f"http://127.0.0.1:{port}", f"/v2/models/{name}/ready") as server:
        yield server


@contextlib.contextmanager
def floor() -> Iterator[Server]:
    """Flask under Brim's worker, without an engine; see `benchmarks/null/floor.py`."""
    port = free_port()
    command: list[str | Path] = [BIN / "gunicorn", "-k", "app.worker.worker.BrimWorker"]
    command += ["--keep-alive", "75", "--worker-connections", "16384", "--no-control-socket"]
    command += ["-b", f"127.0.0.1:{port}", "benchmarks.null.floor:app"]
    with _running(command, f"http://127.0.0.1:{port}", "/ready") as server:
        yield server


@contextlib.contextmanager
def _running(command: Sequence[str | Path], url: str, ready: str) -> Iterator[Server]:
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
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
    raise SystemExit(f"the server did not come up at {url}")
