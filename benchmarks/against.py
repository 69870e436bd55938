"""The engine of this checkout beside that of another one, without HTTP, in alternation.

    python -m benchmarks.against DIR [--config benchmarks/null/null.toml] [--clients 1,64]
                                 [--slices 10]

Each checkout runs in a process of its own, with the metrics that its server records. Slices of a
second alternate, because a shared machine's speed changes from minute to minute; the ratios are
medians over the pairs of slices. CPU is that of all threads of the process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
WARMUP_S = 12.0
"""The bucket policy is solved anew some 10 s after the first batches correct the costs."""


def engine_of(root: Path, config: Path) -> tuple[Any, str]:
    """The engine of the checkout at `root`, ready, and the name of its first model."""
    from app import settings

    models = settings.load(root / config).models
    if (root / "engine/serving").exists():
        from engine.serving.client import InProcessClient

        engine: Any = InProcessClient(models)
        wait = engine.wait_startup_finished
    else:  # commit 908f61d and before: the metrics are an observer from `app/`
        from importlib import import_module

        from prometheus_client import CollectorRegistry

        metrics = import_module("app.metrics").Metrics(models, CollectorRegistry())
        engine = import_module("engine.engine").Engine(models, metrics)
        wait = engine.wait_settled
    engine.start()
    wait()
    return engine, models[0].name


def load(engine: Any, name: str, clients: int, seconds: float) -> tuple[float, float, float]:
    """A closed loop of one-row requests: requests/s, CPU us a request, median ms."""
    row = {"x": np.random.default_rng(0).random((1, 16 if name == "null" else 784), np.float32)}
    latencies: list[list[float]] = [[] for _ in range(clients)]
    stop = time.perf_counter() + seconds

    def client(mine: list[float]) -> None:
        while (began := time.perf_counter()) < stop:
            engine.infer(name, row)
            mine.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client, args=(mine,)) for mine in latencies]
    cpu, began = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(latency for mine in latencies for latency in mine)
    elapsed, spent = time.perf_counter() - began, time.process_time() - cpu
    return len(every) / elapsed, spent / len(every) * 1e6, every[len(every) // 2] * 1e3


def serve_slices(root: Path, config: Path) -> None:
    """In a process of its own: run a slice for each number of clients read from stdin."""
    sys.setswitchinterval(0.0005)  # as the server does
    engine, name = engine_of(root, config)
    load(engine, name, 64, WARMUP_S)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(load(engine, name, int(line), 1.0)), flush=True)


def start(root: Path, config: Path) -> subprocess.Popen[str]:
    """The process of one checkout, ready."""
    script = str(Path(__file__).resolve())
    # -P: the folder of this script has an `engine.py`
    command = [sys.executable, "-P", script, str(root), "--config", str(config)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*command, "--serve"], stdin=pipe, stdout=pipe, text=True, cwd=root, env={"PYTHONPATH": "."}
    )
    answer(process)
    return process


def answer(process: subprocess.Popen[str], clients: int | None = None) -> Any:
    """What the process prints next, after it was asked for a slice."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("a process without pipes; this is a bug")
    if clients is not None:
        process.stdin.write(f"{clients}\n")
        process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path, help="the other checkout")
    parser.add_argument("--config", type=Path, default=Path("benchmarks/null/null.toml"))
    parser.add_argument("--clients", default="1,64")
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_slices(options.dir, options.config)
        return
    other, this = (start(root, options.config) for root in (options.dir, ROOT))
    print("| clients | requests/s, other | this | ratio | CPU us, other | this | ratio |")
    print("|--:|" + "--:|" * 6)
    for clients in map(int, options.clients.split(",")):
        pairs = [(answer(other, clients), answer(this, clients)) for _ in range(options.slices)]
        columns = [
            statistics.median(number)
            for place in (0, 1)
            for number in (
                [old[place] for old, _ in pairs],
                [new[place] for _, new in pairs],
                [new[place] / old[place] for old, new in pairs],
            )
        ]
        rate, cpu = columns[:3], columns[3:]
        cells = [f"{rate[0]:.0f} | {rate[1]:.0f} | {rate[2]:.2f}"]
        cells.append(f"{cpu[0]:.0f} | {cpu[1]:.0f} | {cpu[2]:.2f}")
        print(f"| {clients} | {' | '.join(cells)} |", flush=True)
    for process in (other, this):
        process.kill()


if __name__ == "__main__":
    main()
