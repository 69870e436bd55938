"""Three times what the server can do, over HTTP, every request with a deadline.

    python -m benchmarks.overload [--model minilm] [--length 128] [--times 3] [--deadline-ms 1000]

Starts a real `brim serve` and measures in turn: one client; the capacity, as 64 closed-loop clients
get it without deadlines; the overload, as Poisson arrivals at a multiple of that; and one second
after its end what is left in the queue, and one client again. Server and load share the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from app import settings
from app.bench.plan import Settings
from benchmarks.engine import one_row
from benchmarks.serving import run, served
from engine.models import load

QUIET_S = 1.0
"""How long after the load's end everything must be over."""


def stats(url: str, name: str) -> dict[str, Any]:
    """What the server says of the model."""
    with urllib.request.urlopen(f"{url}/v2/models/{name}/stats") as response:
        return dict(json.load(response))


def resident(server: subprocess.Popen[bytes]) -> float:
    """MB of the server's processes."""
    parent = psutil.Process(server.pid)
    every = [parent, *parent.children(recursive=True)]
    return sum(one.memory_info().rss for one in every) / 1e6


def measure(server: subprocess.Popen[bytes], url: str, options: argparse.Namespace) -> None:
    """Print the table."""
    (config,) = (c for c in settings.load(options.config).models if c.name == options.model)
    model = load(config)
    request = one_row(model, options.length or config.grid.lanes[0])
    name = config.name
    alone = Settings(url, clients=1, duration_s=3.0, warmup_s=0.5)
    before = run(model, name, request, alone)
    capacity = run(model, name, request, Settings(url, clients=64, duration_s=10.0)).ok_per_s
    memory, counts = resident(server), stats(url, name)["counts"]
    overload = run(
        model,
        name,
        request,
        Settings(
            url,
            rate=options.times * capacity,
            duration_s=options.seconds,
            warmup_s=5.0,
            deadline_ms=options.deadline_ms,
        ),
    )
    time.sleep(QUIET_S)
    left, grown = stats(url, name), resident(server) - memory
    after = run(model, name, request, alone)
    said = left["counts"]
    answered = sum(n for status, n in overload.statuses.items() if status == 200)
    in_time = overload.goodput_per_s * options.seconds
    expired = said["expired"] - counts["expired"]
    print(f"capacity (64 clients, no deadline): {capacity:.0f} answers/s")
    print(f"offered: {overload.offered_per_s:.0f}/s, deadline {options.deadline_ms:g} ms\n")
    print("| | |\n|---|--:|")
    print(f"| goodput, of capacity | {overload.goodput_per_s / capacity:.3f} |")
    print(f"| admitted that met their deadline | {in_time / max(1, answered + expired):.4f} |")
    print(f"| answered, p50 ms | {overload.ok.p50_ms:.0f} |")
    print(f"| answered, p99 ms | {overload.ok.p99_ms:.0f} |")
    print(f"| refusals, p50 ms | {overload.refused.p50_ms:.1f} |")
    print(f"| refusals, p99 ms | {overload.refused.p99_ms:.1f} |")
    print(f"| resident memory grew by, MB | {grown:.1f} |")
    print(f"| rows waiting {QUIET_S:g} s after the end | {left['queue_depth']} |")
    print(f"| one client before, p50 ms | {before.ok.p50_ms:.2f} |")
    print(f"| one client after, p50 ms | {after.ok.p50_ms:.2f} |")
    print(f"\nstatuses {overload.statuses}, failures {overload.failures}; accepted and expired: ")
    print(f"{expired}; the load generator: {overload.doubt or 'in time'}")


def main() -> None:
    """Serve, load, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/demo.toml"))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--length", type=int, default=0, help="the shortest bucket length, if 0")
    parser.add_argument("--times", type=float, default=3.0, help="of capacity")
    parser.add_argument("--deadline-ms", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    with served(options.config, options.model) as (url, server):
        measure(server, url, options)


if __name__ == "__main__":
    main()
