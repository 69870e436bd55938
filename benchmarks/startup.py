"""Measures health probes during start-up, and the time until the server is ready.

    python -m benchmarks.startup [CONFIG]

Starts a real `brim serve` and requests `/healthz` every 20 ms and `/readyz` every 200 ms until each
model is ready or failed. The floor is the same request to the same server afterwards, idle.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.servers import free_port

TIMEOUT_S = 300


def ask(port: int, path: str) -> tuple[int, bytes, float]:
    """Status, body and seconds of one GET on a new connection, as a probe sends it."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(), time.perf_counter() - started
    finally:
        connection.close()


def percentiles(samples: list[float]) -> str:
    """Median, 99th percentile and maximum, in milliseconds."""
    ordered = sorted(samples)
    chosen = (ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], ordered[-1])
    return " | ".join(f"{seconds * 1e3:.1f}" for seconds in chosen)


def startup_finished(body: bytes) -> bool:
    """Whether every model is ready or failed."""
    states = [model["state"] for model in json.loads(body)["models"].values()]
    return all(state in ("ready", "failed") for state in states)


def main() -> None:
    """Measure one start-up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, nargs="?", default=Path("configs/demo.toml"))
    options = parser.parse_args()
    port = free_port()
    brim = Path(sys.executable).with_name("brim")
    started = time.perf_counter()
    server = subprocess.Popen(
        [brim, "serve", options.config, "--bind", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL
    )
    compiling: list[float] = []
    worst_at = 0.0
    refused: list[float] = []
    first_answer = 0.0
    try:
        while time.perf_counter() - started < TIMEOUT_S:
            try:
                status, _, seconds = ask(port, "/healthz")
            except OSError:
                time.sleep(0.01)
                continue
            first_answer = first_answer or time.perf_counter() - started
            if status != 200:
                raise SystemExit(f"/healthz answered {status}")
            if seconds > max(compiling, default=0.0):
                worst_at = time.perf_counter() - started
            compiling.append(seconds)
            if len(compiling) % 10 == 0:
                status, body, seconds = ask(port, "/readyz")
                if startup_finished(body):
                    break
                refused.append(seconds)
            time.sleep(0.02)
        up = time.perf_counter() - started
        idle = [ask(port, "/healthz")[2] for _ in range(200)]
    finally:
        server.terminate()
        code = server.wait()
    print(
        f"First answer after {first_answer:.1f} s, every model ready after {up:.1f} s; "
        f"exit status {code} after SIGTERM.\n"
    )
    print(f"The slowest answer of /healthz was {worst_at:.1f} s after the start.\n")
    print("| probe | n | p50 ms | p99 ms | max ms |\n|---|--:|--:|--:|--:|")
    print(f"| /healthz while compiling | {len(compiling)} | {percentiles(compiling)} |")
    print(f"| /readyz while compiling | {len(refused)} | {percentiles(refused)} |")
    print(f"| /healthz idle (the floor) | {len(idle)} | {percentiles(idle)} |")


if __name__ == "__main__":
    main()
