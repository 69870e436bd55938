"""Brim over HTTP against the bare executable, in one run.

    python -m benchmarks.serving [--config configs/demo.toml] [--model minilm] [--seconds 10]

Starts a real `brim serve`, and measures in turn: a bare loop over the best bucket (while the server
is idle), then closed-loop clients with one-row requests over keep-alive connections. The floor is
taken before and after each and averaged. Server, load generator and floor share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jax
import psutil

from app import settings
from app.bench import process, shots
from app.bench.plan import Plan, Settings, Target
from app.bench.report import Report
from benchmarks.engine import WatchedCompiler, bare, one_row, staged
from engine.buckets import Bucket
from engine.executable import Executable
from engine.model import Model
from engine.models import load
from engine.spec import Arrays


def run(model: Model, name: str, request: Arrays, how: Settings) -> Report:
    """One load of this one request."""
    return process.run(Plan(how, (shots.make(how, Target(name), model.inputs, request),)))


def closed_loop(
    model: Model, name: str, request: Arrays, url: str, clients: int, seconds: float
) -> Report:
    """`clients` connections, each with one JSON request on its way at any time."""
    how = Settings(url, clients=clients, duration_s=seconds, warmup_s=seconds / 5)
    return run(model, name, request, how)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(port: int, name: str) -> None:
    """Until the model serves."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{name}/ready")
            return
        time.sleep(0.5)
    raise SystemExit("the server did not come up")


@contextlib.contextmanager
def served(config: Path, name: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real `brim serve` whose model `name` serves: where it is, and the process."""
    port = free_port()
    brim = Path(sys.executable).with_name("brim")
    command = [str(brim), "serve", str(config), "--bind", f"127.0.0.1:{port}"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_ready(port, name)
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Measure one model, one length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/demo.toml"))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--length", type=int, default=0, help="the shortest bucket length, if 0")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", default="1,8,64")
    options = parser.parse_args()

    (config,) = (c for c in settings.load(options.config).models if c.name == options.model)
    length = options.length or config.grid.lanes[0]
    model = load(config)
    made: dict[Bucket, Executable] = {}
    compiler = WatchedCompiler(model, made)
    for rows in config.rows:
        compiler.compile(Bucket(rows, length))
    inputs = {bucket: staged(model, bucket) for bucket in made}
    times = {bucket: bare(made[bucket], inputs[bucket], 1.0) for bucket in made}
    best = max(made, key=lambda b: b.rows / times[b])
    alone = Bucket(config.rows[0], length)
    request = one_row(model, length)

    with served(options.config, config.name) as (url, _):
        print(
            f"{jax.devices()[0].device_kind}, {psutil.cpu_count()} cores; {config.name}, "
            f"buckets x {length}, best {best}\n"
        )
        print("| clients | answers/s | of best bare | p50 ms | p99 ms | statuses |")
        print("|--:|--:|--:|--:|--:|---|")
        for clients in (int(n) for n in options.clients.split(",")):
            before = bare(made[best], inputs[best], options.seconds / 5)
            seen = closed_loop(model, config.name, request, url, clients, options.seconds)
            after = bare(made[best], inputs[best], options.seconds / 5)
            floor = best.rows / statistics.mean((before, after))
            print(
                f"| {clients} | {seen.ok_per_s:.0f} | {seen.ok_per_s / floor:.2f} "
                f"| {seen.ok.p50_ms:.2f} | {seen.ok.p99_ms:.2f} | {seen.statuses} |"
            )
        before = bare(made[alone], inputs[alone], options.seconds / 5)
        seen = closed_loop(model, config.name, request, url, 1, options.seconds)
        after = bare(made[alone], inputs[alone], options.seconds / 5)
        floor = statistics.mean((before, after))
        print(
            f"\nOne client over HTTP: median {seen.ok.p50_ms:.2f} ms, the bare executable "
            f"{floor * 1e3:.2f} ms, {seen.ok.p50_ms - floor * 1e3:.2f} ms more."
        )


if __name__ == "__main__":
    main()
