"""What a request costs beside the model: Brim's worker and gthread, with and without the engine.

    python -m benchmarks.request_path [--clients 1,8,64,256] [--seconds 3] [--rounds 3]

Four servers stand beside each other: the null model and the floor (`benchmarks/null/`), each under
both workers. They are measured in turn, several rounds, with closed-loop clients; the medians of
the rounds are shown. CPU is that of the serving process, divided by the requests that it answered:
of all numbers here it depends least on who else uses the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.load import closed_loop
from benchmarks.serving import free_port

PATH = "/v2/models/null/infer"
INPUTS = [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [i / 7 for i in range(16)]}]
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
WORKERS = {"brim": "app.worker.worker.BrimWorker", "gthread": "gthread"}
THREADS = 300
"""Of gthread, for as many clients and a few more."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One measurement."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


@contextlib.contextmanager
def served(worker: str, *, engine: bool) -> Iterator[tuple[int, psutil.Process]]:
    """A server, its port and the process that serves."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    if engine:
        config = HERE / "null" / f".{worker}.toml"
        plain = (HERE / "null" / "null.toml").read_text(encoding="utf-8")
        config.write_text(plain.replace("[server]", f'[server]\nworker = "{worker}"', 1))
        command: list[str | Path] = [BIN / "brim", "serve", config, "--bind", address]
        command += ["--threads", str(THREADS)] if worker == "gthread" else []
    else:
        threads = str(THREADS if worker == "gthread" else 4)
        command = [BIN / "gunicorn", "-k", WORKERS[worker], "--threads", threads, "-b", address]
        command += ["--keep-alive", "75", "benchmarks.null.floor:app"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as master:
        try:
            wait(port)
            yield port, psutil.Process(master.pid).children()[0]
        finally:
            master.terminate()


def wait(port: int) -> None:
    """Until it answers."""
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,16],"data":[%s]}]}'
    for _ in range(300):
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            numbers = b",".join([b"1"] * 16)
            urllib.request.urlopen(f"http://127.0.0.1:{port}{PATH}", body % numbers, 5).read()
            return
        time.sleep(0.1)
    raise SystemExit("a server did not come up")


def measure(port: int, process: psutil.Process, clients: int, seconds: float) -> Seen:
    """Drive it; everybody must get 200."""
    before = cpu_seconds(process)
    load = closed_loop(port, PATH, INPUTS, clients, seconds)
    spent = cpu_seconds(process) - before
    if set(load.statuses) != {200}:
        raise SystemExit(f"statuses {load.statuses}")
    answered = load.rate * seconds * 1.2  # the warm-up is a fifth
    return Seen(load.rate, load.p50 * 1e3, load.p99 * 1e3, spent / answered * 1e6)


def cpu_seconds(process: psutil.Process) -> float:
    """User and system, since its start."""
    times = process.cpu_times()
    return times.user + times.system


def middle(seen: list[Seen]) -> Seen:
    """The median of each number."""
    return Seen(
        statistics.median(one.rate for one in seen),
        statistics.median(one.p50_ms for one in seen),
        statistics.median(one.p99_ms for one in seen),
        statistics.median(one.cpu_us for one in seen),
    )


def main() -> None:
    """Measure and print one table and the ratios of interest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", default="1,8,64,256")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    counts = [int(count) for count in options.clients.split(",")]

    kinds = {
        f"{'engine' if engine else 'floor'}, {worker}": (worker, engine)
        for engine in (True, False)
        for worker in WORKERS
    }
    seen: dict[tuple[int, str], list[Seen]] = {}
    with contextlib.ExitStack() as stack:
        servers = {
            kind: stack.enter_context(served(worker, engine=engine))
            for kind, (worker, engine) in kinds.items()
        }
        for clients in counts:
            for _ in range(options.rounds):
                for kind, (port, process) in servers.items():
                    one = measure(port, process, clients, options.seconds)
                    seen.setdefault((clients, kind), []).append(one)

    print("| clients | server | requests/s | p50 ms | p99 ms | CPU us a request |")
    print("|--:|---|--:|--:|--:|--:|")
    middles = {key: middle(several) for key, several in seen.items()}
    for (clients, kind), one in middles.items():
        numbers = f"{one.rate:.0f} | {one.p50_ms:.2f} | {one.p99_ms:.2f} | {one.cpu_us:.0f}"
        print(f"| {clients} | {kind} | {numbers} |")
    print("\n| clients | rate, brim / gthread | p99 | CPU | rate, engine / floor |")
    print("|--:|--:|--:|--:|--:|")
    for clients in counts:
        ours, theirs = middles[clients, "engine, brim"], middles[clients, "engine, gthread"]
        floor = middles[clients, "floor, brim"]
        print(
            f"| {clients} | {ours.rate / theirs.rate:.2f} | {ours.p99_ms / theirs.p99_ms:.2f} "
            f"| {ours.cpu_us / theirs.cpu_us:.2f} | {ours.rate / floor.rate:.2f} |"
        )


if __name__ == "__main__":
    main()
