"""Measures the host time of one launch, by how a model holds its parameters. On CPU and GPU.

    python -m benchmarks.launch [--leaves 100] [--rounds 20]

The same function with the same parameters as a flat list, a nested dict and a flax `nnx.State`,
compiled and launched as the engine does. The floor is the flat list: its tree costs nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from brim import Model, TensorSpec
from engine.compilation.compiler import JaxCompiler
from engine.scheduling.buckets import Bucket

LAUNCHES = 200
"""Launches per round."""


def forms(leaves: int) -> dict[str, Any]:
    """The same parameters in three kinds of tree."""
    arrays = [np.full((8,), number, np.float32) for number in range(leaves)]
    nested: dict[str, Any] = {f"layer{n // 2}": {} for n in range(leaves)}
    for number, array in enumerate(arrays):
        nested[f"layer{number // 2}"]["kernel" if number % 2 else "bias"] = array
    state = nnx.State(jax.tree.map(nnx.Param, nested))
    return {"flat list": arrays, "nested dict": nested, "nnx.State": state}


def model(params: Any) -> Model:
    """Adds all parameters to its input."""

    def apply(params: Any, inputs: Any) -> dict[str, jax.Array]:
        return {"y": inputs["x"] + sum(jax.tree.leaves(params))}

    x, y = TensorSpec("x", "FP32", (8,)), TensorSpec("y", "FP32", (8,))
    return Model(apply=apply, params=params, inputs=(x,), outputs=(y,))


def launcher(params: Any) -> Callable[[], object]:
    """One launch as the engine makes it."""
    compiler = JaxCompiler(model(params))
    executable = compiler.compile(Bucket(1))
    staged = {"x": np.zeros((1, 8), np.float32)}
    return lambda: executable.launch(compiler.weights, staged).result()


def main() -> None:
    """Print one table; the forms take turns, so that a drift of the machine hits all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    launchers = {name: launcher(params) for name, params in forms(options.leaves).items()}
    seen: dict[str, list[float]] = {name: [] for name in launchers}
    for _ in range(options.rounds):
        for name, launch in launchers.items():
            began = time.perf_counter()
            for _ in range(LAUNCHES):
                launch()
            seen[name].append((time.perf_counter() - began) / LAUNCHES * 1e6)
    floor = statistics.median(seen["flat list"])
    device = jax.devices()[0]
    print(f"Device: {device.device_kind}, jax {jax.__version__}, {options.leaves} leaves\n")
    print("| parameters | us a launch | of a flat list |\n|---|--:|--:|")
    for name, samples in seen.items():
        median = statistics.median(samples)
        print(f"| {name} | {median:.1f} | {median / floor:.2f} |")


if __name__ == "__main__":
    main()
