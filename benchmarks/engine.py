"""The engine against its bare executables, without web or network. CPU and GPU alike.

    python -m benchmarks.engine [CONFIG] [--seconds 3] [--clients 1,8,64,256]

For every model of the config: each bucket's bare time (a loop that launches it and waits for it,
on the same staged arrays); the rows/s that the engine serves to closed-loop threads with one-row
requests, beside the best bare bucket of the same length; the median latency that the engine adds
for one client; memory. The floor is measured before and after and averaged, because the machine
drifts. For a model with a preprocess, clients send the wire input, so its cost is inside.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import psutil

from app import settings
from engine.buckets import Bucket
from engine.config import ModelConfig
from engine.engine import Engine
from engine.executable import Compiler, Executable
from engine.model import Model
from engine.spec import Arrays

WORDS = ("a", "batch", "is", "best", "when", "it", "is", "full", "to", "the", "brim")


class Watched:
    """Compiles as the engine does, and keeps what it made."""

    def __init__(self) -> None:
        self.executables: dict[int, dict[Bucket, Executable]] = {}

    def __call__(self, model: Model) -> WatchedCompiler:
        """What the engine calls to get a model's compiler."""
        made: dict[Bucket, Executable] = {}
        self.executables[id(model)] = made
        return WatchedCompiler(model, made)


class WatchedCompiler(Compiler):
    """A compiler whose executables the benchmark can run bare."""

    def __init__(self, model: Model, made: dict[Bucket, Executable]) -> None:
        super().__init__(model)
        self._made = made

    def compile(self, bucket: Bucket) -> Executable:
        """Compile and remember."""
        self._made[bucket] = super().compile(bucket)
        return self._made[bucket]


def staged(model: Model, bucket: Bucket) -> dict[str, np.ndarray]:
    """A full bucket of golden rows."""
    rng = np.random.default_rng(0)
    rows = [model.golden_row(rng, bucket.length) for _ in range(bucket.rows)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def bare(executable: Executable, inputs: Arrays, seconds: float) -> float:
    """Median seconds of one execution, launched and waited for in a loop."""
    samples: list[float] = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(samples) < 3:
        started = time.perf_counter()
        executable.launch(inputs).result()
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


def one_row(model: Model, length: int | None) -> Arrays:
    """One wire request whose row belongs into the lane of `length`."""
    if model.preprocess is None:
        return model.golden_row(np.random.default_rng(1), length)
    (spec,) = model.inputs
    if length is None or spec.datatype != "BYTES":
        raise SystemExit("a preprocess of another kind than text: teach one_row() its input")
    words: list[str] = []
    while True:
        words.append(WORDS[len(words) % len(WORDS)])
        arrays = {spec.name: np.array([" ".join(words).encode()], object)}
        got = next(iter(model.preprocess(arrays).inputs.values())).shape[1]
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


def report_lane(
    engine: Engine,
    name: str,
    executables: Mapping[Bucket, Executable],
    length: int | None,
    options: argparse.Namespace,
) -> None:
    """One model, one length: the bare table, then what the engine makes of it."""
    model, config = engine.model(name), engine.config(name)
    lane = [Bucket(rows, length) for rows in config.rows]
    inputs = {bucket: staged(model, bucket) for bucket in lane}
    times = {b: bare(executables[b], inputs[b], options.seconds / 2) for b in lane}
    best = max(lane, key=lambda b: b.rows / times[b])

    print("| bucket | bare ms | bare rows/s |\n|---|--:|--:|")
    for bucket in lane:
        mark = " (best)" if bucket == best else ""
        print(f"| {bucket}{mark} | {times[bucket] * 1e3:.3f} | {bucket.rows / times[bucket]:.0f} |")

    request = one_row(model, length)
    print(
        "\n| clients | rows/s | of best bare | p50 ms | p99 ms | fill |\n|--:|--:|--:|--:|--:|--:|"
    )
    for clients in options.clients:
        before = bare(executables[best], inputs[best], options.seconds / 3)
        counted = engine.stats(name).counts
        rate, p50, p99 = serve(lambda: engine.infer(name, request), clients, options.seconds)
        after = bare(executables[best], inputs[best], options.seconds / 3)
        floor = best.rows / ((before + after) / 2)
        now = engine.stats(name).counts
        real, padded = now.rows - counted.rows, now.padded_rows - counted.padded_rows
        print(
            f"| {clients} | {rate:.0f} | {rate / floor:.2f} | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} "
            f"| {real / (real + padded):.2f} |"
        )

    alone = Bucket(config.rows[0], length)
    before = bare(executables[alone], inputs[alone], options.seconds / 3)
    _, p50, _ = serve(lambda: engine.infer(name, request), 1, options.seconds)
    after = bare(executables[alone], inputs[alone], options.seconds / 3)
    floor = (before + after) / 2
    print(
        f"\nOne client: median {p50 * 1e3:.3f} ms, bare {floor * 1e3:.3f} ms, "
        f"the engine adds {(p50 - floor) * 1e3:.3f} ms.\n"
    )


def report_memory(engine: Engine, name: str) -> None:
    """What the engine says, and what the device says where it can."""
    memory = engine.stats(name).memory
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
    engine = Engine([c for c in configs if not names or c.name in names], compiler=watched)
    engine.start()
    engine.wait_settled()
    device = jax.devices()[0]
    print(
        f"Device: {device.device_kind} ({device.platform}), {psutil.cpu_count()} cores, "
        f"jax {jax.__version__}"
    )
    for name in engine.names:
        stats = engine.stats(name)
        if not stats.serving:
            print(f"\n## {name}: {stats.reason}")
            continue
        executables = watched.executables[id(engine.model(name))]
        for length in engine.config(name).grid.lanes:
            if not lengths or length is None or length in lengths:
                print(f"\n## {name}" + (f", length {length}" if length else "") + "\n")
                report_lane(engine, name, executables, length, options)
        report_memory(engine, name)
    stats_of_device = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats_of_device:
        print(f"\nDevice memory at its peak: {stats_of_device['peak_bytes_in_use'] / 1e6:.1f} MB.")
    print(
        f"Process: {psutil.Process().memory_info().rss / 1e6:.0f} MB resident, "
        f"{engine.compiles_after_ready} compilations after ready."
    )
    engine.close()


if __name__ == "__main__":
    main()
