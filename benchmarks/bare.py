"""What the executables of one model reach without a server, as JSON. On CPU and GPU.

    python -m benchmarks.bare CONFIG MODEL [--seconds 0.5]

Compiles the buckets of one length as the server does; for an encoder that is the length which the
text of `benchmarks/cpu.py` needs. Then each bucket is launched in a loop on the same staged arrays,
twice: waiting for each result before the next launch, as `benchmarks/engine.py` does; and with a
second batch in flight, as the engine has with `in_flight = 2`. It runs in a process of its own,
whose end frees the device for the server.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from app import settings
from benchmarks.cpu import TEXT
from benchmarks.engine import WatchedCompiler, bare, staged
from engine.compilation.compiler import JaxExecutable
from engine.compilation.interface import Weights
from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.models.registry import load
from engine.models.tensors import Arrays
from engine.scheduling.buckets import Bucket

IN_FLIGHT = 2


def overlapped(
    executable: JaxExecutable, weights: Weights, inputs: Arrays, seconds: float
) -> float:
    """Seconds a batch when the next is launched before the result of the last is taken."""
    flying = deque(executable.launch(weights, inputs) for _ in range(IN_FLIGHT))
    done, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or done < 3:
        flying.popleft().result()
        flying.append(executable.launch(weights, inputs))
        done += 1
    for execution in flying:
        execution.result()
    return elapsed / done


def tokens(model: Model) -> int:
    """The tokens of the text, with the special ones."""
    prepared = model.processor.prepare({"text": np.array([TEXT.encode()], object)})
    return int(prepared.inputs["ids"].shape[1])


def measure(config: ModelConfig, seconds: float) -> list[dict[str, object]]:
    """Rows, length, milliseconds, and rows/s with one and with two batches in flight."""
    model = load(config)
    length = config.grid.fit_length(tokens(model)) if config.lengths else None
    buckets = [Bucket(rows, length) for rows in config.rows]
    compiler = WatchedCompiler(model)
    with ThreadPoolExecutor(config.compile_threads) as pool:
        executables = dict(zip(buckets, pool.map(compiler.compile, buckets), strict=True))
    found: list[dict[str, object]] = []
    for bucket, executable in executables.items():
        inputs = staged(model, bucket)
        one = bare(executable, compiler.weights, inputs, seconds)
        two = overlapped(executable, compiler.weights, inputs, seconds)
        found.append(
            {
                "bucket": str(bucket),
                "ms": one * 1e3,
                "rows_per_s": bucket.rows / one,
                "rows_per_s_in_flight": bucket.rows / two,
            }
        )
    return found


def main() -> None:
    """Print one line: a list with an object for each bucket."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each bucket, twice")
    options = parser.parse_args()
    (config,) = settings.load(options.config).select(options.model, one=True)
    print(json.dumps(measure(config, options.seconds)))


if __name__ == "__main__":
    main()
