"""Overload over HTTP: three times the capacity, every request with a deadline.

    python -m benchmarks.overload [--model minilm] [--length 128] [--times 3] [--deadline-ms 1000]

Starts a real `brim serve` and measures in turn: one client; the capacity, which is the throughput
of 64 closed-loop clients without deadlines; the overload, Poisson arrivals at a multiple of it; and
one second after its end the queue depth, and one client again. Server and load share the machine.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from app import settings
from app.cli.bench.plan import Settings
from benchmarks.engine import one_row
from benchmarks.servers import Server, run, served
from engine.models.registry import load

QUIET_S = 1.0
"""How long after the end of the load the queue must be empty."""


def stats(url: str, name: str) -> dict[str, Any]:
    """The model's statistics."""
    with urllib.request.urlopen(f"{url}/v2/models/{name}/stats") as response:
        return dict(json.load(response))


def resident(server: Server) -> float:
    """Resident memory of the server's processes, in MB."""
    parent = psutil.Process(server.process.pid)
    every = [parent, *parent.children(recursive=True)]
    return sum(one.memory_info().rss for one in every) / 1e6


def measure(server: Server, options: argparse.Namespace) -> None:
    """Measure, and print the table."""
    (config,) = (c for c in settings.load(options.config).models if c.name == options.model)
    model = load(config)
    request = one_row(model, options.length or config.grid.bucket_lengths[0])
    name, url = config.name, server.url
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
    answered = sum(n for status, n in overload.statuses.items() if status == 200)
    in_time = overload.goodput_per_s * options.seconds
    expired = left["counts"]["expired"] - counts["expired"]
    print(f"capacity (64 clients, no deadline): {capacity:.0f} answers/s")
    print(f"offered: {overload.offered_per_s:.0f}/s, deadline {options.deadline_ms:g} ms\n")
    print("| | |\n|---|--:|")
    print(f"| goodput / capacity | {overload.goodput_per_s / capacity:.3f} |")
    print(
        f"| admitted requests within their deadline | {in_time / max(1, answered + expired):.4f} |"
    )
    print(f"| answered, p50 ms | {overload.ok.p50_ms:.0f} |")
    print(f"| answered, p99 ms | {overload.ok.p99_ms:.0f} |")
    print(f"| refusals, p50 ms | {overload.refused.p50_ms:.1f} |")
    print(f"| refusals, p99 ms | {overload.refused.p99_ms:.1f} |")
    print(f"| resident memory grew by, MB | {grown:.1f} |")
    print(f"| queued rows {QUIET_S:g} s after the end | {left['queue_depth']} |")
    print(f"| one client before, p50 ms | {before.ok.p50_ms:.2f} |")
    print(f"| one client after, p50 ms | {after.ok.p50_ms:.2f} |")
    print(f"\nstatuses {overload.statuses}, failures {overload.failures}; accepted and expired: ")
    print(f"{expired}; the load generator: {overload.doubt or 'in time'}")


def main() -> None:
    """Start the server, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/demo.toml"))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--length", type=int, default=0, help="0: the shortest bucket length")
    parser.add_argument("--times", type=float, default=3.0, help="multiple of the capacity")
    parser.add_argument("--deadline-ms", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    with served(options.config, options.model) as server:
        measure(server, options)


if __name__ == "__main__":
    main()
