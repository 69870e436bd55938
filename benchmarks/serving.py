"""Measures Brim over HTTP against bare executables, an echo route, and gthread, in one run.

    python -m benchmarks.serving [--models null,mlp,minilm] [--clients 1,8,32,64,256]
                                 [--encodings json,binary] [--seconds 3] [--rounds 3]

For every model it compares four things: its bare executables, in a loop in this process; the floor,
which is Brim's worker and Flask with a route that parses the same request, computes with numpy, and
has no engine; Brim under its own worker; and Brim under gunicorn's gthread. Closed loop first:
every server in turn, several rounds, medians. Then open loop, at half and at four fifths of the
highest throughput with up to 64 clients. One row per request, keep-alive connections. CPU is that
of the server's processes per answered request. Server, load generator and floor share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jax
import numpy as np
import psutil

from app import settings
from app.cli.bench.plan import Settings
from benchmarks.engine import Bare, WatchedCompiler, bare, one_row, staged
from benchmarks.servers import Server, floor, run, served
from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.models.registry import load
from engine.models.tensors import Arrays
from engine.scheduling.buckets import Bucket

HERE: Final = Path(__file__).parent
CONFIGS: Final[Mapping[str, Path]] = {
    "null": HERE / "null" / "null.toml",
    "mlp": HERE / "mlp.toml",
    "minilm": HERE.parent / "configs" / "demo.toml",
}
OURS: Final = "brim"
SHARES: Final = (0.5, 0.8)
BARE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Seen:
    """One measurement."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    failed: int


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, its bare executables, and the request that every client sends."""

    config: ModelConfig
    model: Model
    compiled: Bare
    request: Arrays

    def bare_s(self) -> dict[Bucket, float]:
        """Seconds of one execution of each bucket."""
        weights = self.compiled.weights
        return {
            bucket: bare(executable, weights, staged(self.model, bucket), BARE_S)
            for bucket, executable in self.compiled.executables.items()
        }


def subject(name: str, length: int | None) -> Subject:
    """Compile the buckets of one length, as the server does."""
    (config,) = (each for each in settings.load(CONFIGS[name]).models if each.name == name)
    model = load(config)
    bucket_length = (
        length if length in config.grid.bucket_lengths else config.grid.bucket_lengths[0]
    )
    compiler = WatchedCompiler(model)
    for rows in config.rows:
        compiler.compile(Bucket(rows, bucket_length))
    return Subject(config, model, compiler.bare, one_row(model, bucket_length))


def measure(server: Server, subject: Subject, how: Settings) -> Seen:
    """Run one load on one server."""
    before = server.cpu_s()
    load = run(subject.model, subject.config.name, subject.request, how)
    spent = server.cpu_s() - before
    answers = load.ok_per_s * how.duration_s
    failed = sum(count for status, count in load.statuses.items() if status != 200)
    # the CPU includes the warm-up, the answers do not
    whole = answers * (how.duration_s + how.warmup_s) / how.duration_s
    return Seen(load.ok_per_s, load.ok.p50_ms, load.ok.p99_ms, spent / max(whole, 1) * 1e3, failed)


def middle(seen: Sequence[Seen]) -> Seen:
    """The median of each number; the sum of the failures."""

    def of(number: Callable[[Seen], float]) -> float:
        return statistics.median(number(one) for one in seen)

    return Seen(
        of(lambda one: one.rate),
        of(lambda one: one.p50_ms),
        of(lambda one: one.p99_ms),
        of(lambda one: one.cpu_ms),
        sum(one.failed for one in seen),
    )


def closed(
    servers: Mapping[str, Server],
    subject: Subject,
    encoding: str,
    counts: Sequence[int],
    seconds: float,
    rounds: int,
) -> dict[tuple[int, str], Seen]:
    """Measure every server in turn, for every number of clients."""
    seen: dict[tuple[int, str], list[Seen]] = {}
    for clients in counts:
        for _ in range(rounds):
            for kind, server in servers.items():
                if kind == "floor" and subject.model.signature.inputs[0].datatype == "BYTES":
                    continue  # the floor takes numbers only
                how = Settings(
                    server.url,
                    clients=clients,
                    duration_s=seconds,
                    warmup_s=seconds / 4,
                    binary=encoding == "binary",
                )
                seen.setdefault((clients, kind), []).append(measure(server, subject, how))
    return {key: middle(each) for key, each in seen.items()}


def show_closed(seen: Mapping[tuple[int, str], Seen], floors: Mapping[Bucket, float]) -> None:
    """Print rates, latencies, CPU, and their ratios to the floors."""
    best = max(bucket.rows / seconds for bucket, seconds in floors.items())
    alone = floors[min(floors, key=lambda bucket: bucket.rows)] * 1e3
    print(
        "| clients | server | requests/s | of bare | of gthread | of floor | p50 ms | p99 ms ",
        end="",
    )
    print("| of gthread's p99 | CPU ms | failed |\n|--:|---|" + "--:|" * 9)
    for (clients, kind), one in seen.items():
        beside = seen[clients, "gthread"]
        echo = seen.get((clients, "floor"))
        of_floor = f"{one.rate / echo.rate:.2f}" if echo else ""
        print(
            f"| {clients} | {kind} | {one.rate:.0f} | {one.rate / best:.3f} "
            f"| {one.rate / beside.rate:.2f} | {of_floor} | {one.p50_ms:.2f} | {one.p99_ms:.2f} "
            f"| {one.p99_ms / beside.p99_ms:.2f} | {one.cpu_ms:.3f} | {one.failed} |"
        )
    if (1, OURS) in seen and (1, "floor") in seen:
        ours, echo_ms = seen[1, OURS].p50_ms, seen[1, "floor"].p50_ms
        print(
            f"\nOne client: median {ours:.2f} ms; the floor {echo_ms:.2f} ms and the executable "
            f"{alone:.2f} ms add up to {echo_ms + alone:.2f} ms: "
            f"{ours / (echo_ms + alone):.2f} times."
        )


def open_loop(
    server: Server, subject: Subject, encoding: str, saturation: float, seconds: float, rounds: int
) -> None:
    """Measure Poisson arrivals at parts of the highest closed-loop throughput."""
    print("\n| open loop | offered/s | answered/s | p50 ms | p99 ms | p99 / p50 | failed |")
    print("|--:|" + "--:|" * 6)
    for share in SHARES:
        how = Settings(
            server.url,
            rate=share * saturation,
            duration_s=seconds,
            warmup_s=seconds / 4,
            binary=encoding == "binary",
        )
        one = middle([measure(server, subject, how) for _ in range(rounds)])
        print(
            f"| {share:.0%} | {how.rate:.0f} | {one.rate:.0f} | {one.p50_ms:.2f} "
            f"| {one.p99_ms:.2f} | {one.p99_ms / one.p50_ms:.1f} | {one.failed} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="null,mlp,minilm")
    parser.add_argument("--clients", default="1,8,32,64,256")
    parser.add_argument("--encodings", default="json,binary")
    parser.add_argument("--length", type=int, help="of the encoder's bucket; default: the shortest")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    counts = [int(count) for count in options.clients.split(",")]
    print(f"{jax.devices()[0].device_kind}, {psutil.cpu_count()} cores, numpy {np.__version__}")
    for name in options.models.split(","):
        with contextlib.ExitStack() as stack:
            config = CONFIGS[name]
            servers = {"floor": stack.enter_context(floor())} | {
                worker: stack.enter_context(served(config, name, worker))
                for worker in (OURS, "gthread")
            }
            one = subject(name, options.length)
            encodings = options.encodings.split(",")
            if one.model.signature.inputs[0].datatype == "BYTES":
                encodings = ["json"]  # texts have the same length in both
            for encoding in encodings:
                before = one.bare_s()
                seen = closed(servers, one, encoding, counts, options.seconds, options.rounds)
                after = one.bare_s()
                floors = {bucket: (before[bucket] + after[bucket]) / 2 for bucket in before}
                best = max(floors, key=lambda bucket: bucket.rows / floors[bucket])
                rate = best.rows / floors[best]
                print(f"\n## {name}, {encoding}; best bucket {best}, {rate:.0f} rows/s bare\n")
                show_closed(seen, floors)
                saturated = max(seen[count, OURS].rate for count in counts if count <= 64)
                open_loop(servers[OURS], one, encoding, saturated, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
