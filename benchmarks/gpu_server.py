"""The processes of `benchmarks/gpu.py`: a server with its log, its CPU and counts, and helpers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.cpu import ROOT
from benchmarks.gpu_models import Skipped, Subject
from benchmarks.servers import Server, end_session, free_port, last_lines

END_S: Final = 30.0
LINES: Final = 5
"""Of a log, in a message."""
ANSWER_S: Final = 5.0
DEVICES: Final = """
import json, jax
found = jax.devices()
print(json.dumps([found[0].platform, f"{found[0].device_kind}, {found}, jax {jax.__version__}"]))
"""


@dataclass(frozen=True, slots=True)
class Look:
    """Counters of a server at one moment: the model's counts, and CPU seconds.

    `http_s` has one for each HTTP process, by its id.
    """

    at: float
    http_s: dict[int, float]
    engine_s: float
    counts: dict[str, int]


def environment() -> dict[str, str]:
    """Variables that let a process import this checkout, also if another one is installed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def python(log: Path, timeout_s: float, *arguments: str) -> Any:
    """What a Python process prints as JSON. Raises `Skipped` with the end of its log."""
    command = [sys.executable, *arguments]
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=ROOT,
                env=environment(),
                timeout=timeout_s,
                check=True,
            )
    except subprocess.TimeoutExpired:
        raise Skipped(f"it took more than {timeout_s:.0f} s") from None
    except subprocess.CalledProcessError as error:
        raise Skipped(f"it ended with {error.returncode}: {last_lines(log, LINES)}") from None
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def served(subject: Subject, workers: int, log: Path, timeout_s: float) -> Iterator[Server]:
    """`brim serve`, ready, with all HTTP processes. Raises `Skipped` with the end of its log."""
    bind = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", "from app.cli.main import main; main()", "serve"]
    command += [str(subject.config), "--bind", bind, "--workers", str(workers)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stderr=output, cwd=ROOT, env=environment(), start_new_session=True
        )
    server = Server(f"http://{bind}", process)
    try:
        _wait_ready(server, workers, log, timeout_s)
        yield server
    finally:
        end_session(process, END_S)


def look(server: Server, model: str) -> Look:
    """Read the model's counts and the CPU of the processes. Raises `OSError` or `psutil.Error`."""
    with urllib.request.urlopen(f"{server.url}/v2/models/{model}/stats", timeout=END_S) as answer:
        counts = json.load(answer)["counts"]
    http, engine = _processes(server)
    by_id = {process.pid: _cpu_s(process) for process in http}
    return Look(time.monotonic(), by_id, sum(map(_cpu_s, engine)), counts)


def _wait_ready(server: Server, workers: int, log: Path, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise Skipped(
                f"the server ended with {server.process.returncode}: {last_lines(log, LINES)}"
            )
        with contextlib.suppress(OSError, psutil.Error):
            if _ready(server) and len(_processes(server)[0]) == workers:
                return
        time.sleep(0.1)
    raise Skipped(f"the server was not ready in {timeout_s:.0f} s: {last_lines(log, LINES)}")


def _ready(server: Server) -> bool:
    """Whether its models are ready. Raises `Skipped` with the reason if one has failed."""
    try:
        urllib.request.urlopen(f"{server.url}/readyz", timeout=ANSWER_S).close()
    except urllib.error.HTTPError as answer:
        models = json.load(answer).get("models", {}).values()
        for reason in [model.get("reason") for model in models if model["state"] == "failed"]:
            raise Skipped(f"the model has failed: {reason}") from None
        return False
    return True


def _processes(server: Server) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The HTTP processes, and the engine's: of the master's children, the supervisor alone has one.

    Their titles tell the same, but not every system shows them.
    """
    children = psutil.Process(server.process.pid).children()
    below = [(child, child.children()) for child in children]
    http = [child for child, own in below if not own]
    return http, [engine for _, own in below for engine in own]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
