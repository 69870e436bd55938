"""Measures the engine against its bare executables, without HTTP or network. On CPU and GPU.

    python -m benchmarks.engine [CONFIG] [--seconds 3] [--clients 1,8,64,256]

For every model of the config: each bucket's bare time (a loop that launches it and waits for it,
on the same staged arrays); the rows/s that the engine serves to closed-loop threads with one-row
requests, next to the best bare bucket of the same length; the median latency that the engine adds
for one client; memory. The floor is the mean of a measurement before and one after, because the
speed of the machine drifts. For a model with a preprocess, clients send its input, so its cost is
included.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import psutil

from app import settings
from engine.compilation.compiler import JaxCompiler, JaxExecutable
from engine.compilation.interface import Weights
from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.models.tensors import Arrays
from engine.scheduling.buckets import Bucket
from engine.serving.client import InProcessClient
from engine.warmup.golden import golden_row

WORDS = ("a", "batch", "is", "best", "when", "it", "is", "full", "to", "the", "brim")


@dataclass(frozen=True)
class Bare:
    """A model and its executables, for launches without the engine."""

    model: Model
    weights: Weights
    executables: dict[Bucket, JaxExecutable]


class Watched:
    """Compiles as the engine does, and keeps the executables in the order of the models."""

    def __init__(self) -> None:
        self.made: list[Bare] = []

    def __call__(self, model: Model) -> WatchedCompiler:
        """Called by the engine for a model's compiler."""
        compiler = WatchedCompiler(model)
        self.made.append(compiler.bare)
        return compiler


class WatchedCompiler(JaxCompiler):
    """A compiler whose executables the benchmark can launch."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.bare = Bare(model, self.weights, {})

    def compile(self, bucket: Bucket) -> JaxExecutable:
        """Compile and remember."""
        executable = self.bare.executables[bucket] = super().compile(bucket)
        return executable


def staged(model: Model, bucket: Bucket) -> dict[str, np.ndarray]:
    """A full bucket of golden rows."""
    rng = np.random.default_rng(0)
    rows = [
        golden_row(model.signature, model.program, rng, bucket.length) for _ in range(bucket.rows)
    ]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def bare(executable: JaxExecutable, weights: Weights, inputs: Arrays, seconds: float) -> float:
    """Median seconds from launch to result, in a loop."""
    samples: list[float] = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(samples) < 3:
        started = time.perf_counter()
        executable.launch(weights, inputs).result()
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


def one_row(model: Model, length: int | None) -> Arrays:
    """One request as a client sends it, whose row belongs into a bucket of `length`."""
    preprocess = model.processor.preprocess
    if preprocess is None:
        return golden_row(model.signature, model.program, np.random.default_rng(1), length)
    (spec,) = model.signature.inputs
    if length is None or spec.datatype != "BYTES":
        raise SystemExit("one_row() supports a preprocess of texts only")
    words: list[str] = []
    while True:
        words.append(WORDS[len(words) % len(WORDS)])
        arrays = {spec.name: np.array([" ".join(words).encode()], object)}
        got = next(iter(preprocess(arrays).inputs.values())).shape[1]
        if got >= 0.9 * length:
            return arrays


def serve(call: Callable[[], object], clients: int, seconds: float) -> tuple[float, float, float]:
    """Closed loop: calls/s, and the median and 99th percentile of the latency in seconds."""
    latencies: list[list[float]] = [[] for _ in range(clients)]
    barrier = threading.Barrier(clients + 1)
    stop = threading.Event()

    def client(mine: list[float]) -> None:
        barrier.wait()
        while not stop.is_set():
            started = time.perf_counter()
            call()
            mine.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client, args=(mine,)) for mine in latencies]
    for thread in threads:
        thread.start()
    barrier.wait()
    started = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    every = sorted(latency for mine in latencies for latency in mine)
    return len(every) / elapsed, every[len(every) // 2], every[int(len(every) * 0.99)]


def report_length(
    engine: InProcessClient,
    name: str,
    compiled: Bare,
    length: int | None,
    options: argparse.Namespace,
) -> None:
    """Measure one model and length: the bare buckets, then the engine."""
    model, config = compiled.model, engine.endpoint(name).config
    executables, weights = compiled.executables, compiled.weights
    bucket_length = [Bucket(rows, length) for rows in config.rows]
    inputs = {bucket: staged(model, bucket) for bucket in bucket_length}
    times = {
        b: bare(executables[b], weights, inputs[b], options.seconds / 2) for b in bucket_length
    }
    best = max(bucket_length, key=lambda b: b.rows / times[b])

    print("| bucket | bare ms | bare rows/s |\n|---|--:|--:|")
    for bucket in bucket_length:
        mark = " (best)" if bucket == best else ""
        print(f"| {bucket}{mark} | {times[bucket] * 1e3:.3f} | {bucket.rows / times[bucket]:.0f} |")

    request = one_row(model, length)
    print(
        "\n| clients | rows/s | of best bare | p50 ms | p99 ms | fill |\n|--:|--:|--:|--:|--:|--:|"
    )
    for clients in options.clients:
        before = bare(executables[best], weights, inputs[best], options.seconds / 3)
        counted = engine.endpoint(name).snapshot().activity.counts
        rate, p50, p99 = serve(lambda: engine.infer(name, request), clients, options.seconds)
        after = bare(executables[best], weights, inputs[best], options.seconds / 3)
        floor = best.rows / ((before + after) / 2)
        now = engine.endpoint(name).snapshot().activity.counts
        real, padded = now.rows - counted.rows, now.padded_rows - counted.padded_rows
        print(
            f"| {clients} | {rate:.0f} | {rate / floor:.2f} | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} "
            f"| {real / (real + padded):.2f} |"
        )

    alone = Bucket(config.rows[0], length)
    before = bare(executables[alone], weights, inputs[alone], options.seconds / 3)
    _, p50, _ = serve(lambda: engine.infer(name, request), 1, options.seconds)
    after = bare(executables[alone], weights, inputs[alone], options.seconds / 3)
    floor = (before + after) / 2
    print(
        f"\nOne client: median {p50 * 1e3:.3f} ms, bare {floor * 1e3:.3f} ms, "
        f"the engine adds {(p50 - floor) * 1e3:.3f} ms.\n"
    )


def report_memory(engine: InProcessClient, name: str) -> None:
    """Print the memory that the engine reports for a model."""
    memory = engine.endpoint(name).snapshot().memory
    if memory is None:
        return
    print(
        f"Memory: weights {memory.weights / 1e6:.1f} MB once, code {memory.code / 1e6:.1f} MB, "
        f"at most {memory.peak_batch / 1e6:.1f} MB more per batch."
    )


def main() -> None:
    """Measure every model of one config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, nargs="?", default=Path("configs/demo.toml"))
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--clients", default="1,8,64,256")
    parser.add_argument("--models", default="", help="only these, separated by commas")
    parser.add_argument("--lengths", default="", help="only these lengths")
    options = parser.parse_args()
    options.clients = [int(n) for n in options.clients.split(",")]
    names = {name for name in options.models.split(",") if name}
    lengths = {int(n) for n in options.lengths.split(",") if n}

    configs: tuple[ModelConfig, ...] = settings.load(options.config).models
    watched = Watched()
    engine = InProcessClient([c for c in configs if not names or c.name in names], compiler=watched)
    engine.start()
    engine.wait_startup_finished()
    device = jax.devices()[0]
    print(
        f"Device: {device.device_kind} ({device.platform}), {psutil.cpu_count()} cores, "
        f"jax {jax.__version__}"
    )
    serving = [model.name for model in engine.snapshot().models if model.serving]
    made = dict(zip(serving, watched.made, strict=True))
    for name in engine.names:
        stats = engine.endpoint(name).snapshot()
        if not stats.serving:
            print(f"\n## {name}: {stats.reason}")
            continue
        compiled = made[name]
        for length in engine.endpoint(name).config.grid.bucket_lengths:
            if not lengths or length is None or length in lengths:
                print(f"\n## {name}" + (f", length {length}" if length else "") + "\n")
                report_length(engine, name, compiled, length, options)
        report_memory(engine, name)
    stats_of_device = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats_of_device:
        print(f"\nDevice memory at its peak: {stats_of_device['peak_bytes_in_use'] / 1e6:.1f} MB.")
    print(
        f"Process: {psutil.Process().memory_info().rss / 1e6:.0f} MB resident, "
        f"{engine.snapshot().compiles_after_ready} compilations after ready."
    )
    engine.close()


if __name__ == "__main__":
    main()
