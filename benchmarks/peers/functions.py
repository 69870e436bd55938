"""What every server computes: y = 2 x + 0.1, and a dense network. JAX and numpy only.

Each peer imports this in an environment of its own, so the functions are the same by construction.
Buckets, padding and ahead-of-time compilation are as Brim's: one executable per number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import numpy as np

ROWS = (1, 2, 4, 8, 16, 32, 64)
WIDTHS = {"null": 16, "mlp": 784}
MLP = (784, 512, 512, 10)


def null() -> Callable[[Any], Any]:
    """16 floats -> 16 floats."""
    return lambda x: x * 2 + 0.1


def mlp() -> Callable[[Any], Any]:
    """784 floats -> 10, the network of `benchmarks/mlp.py`, its weights included."""
    rng = np.random.default_rng(0)
    layers = [
        (rng.normal(0, into**-0.5, (into, out)).astype(np.float32), np.zeros(out, np.float32))
        for into, out in pairwise(MLP)
    ]

    def apply(x: Any) -> Any:
        for place, (weights, bias) in enumerate(layers):
            x = x @ weights + bias
            if place < len(layers) - 1:
                x = jax.nn.relu(x)
        return x

    return apply


class Compiled:
    """One model, compiled for every bucket."""

    def __init__(self, name: str) -> None:
        apply = {"null": null, "mlp": mlp}[name]()
        self.width = WIDTHS[name]
        self._made = {
            rows: jax.jit(apply)
            .lower(jax.ShapeDtypeStruct((rows, self.width), np.float32))
            .compile()
            for rows in ROWS
        }
        for rows in ROWS:
            self(np.zeros((rows, self.width), np.float32))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`[n, width]` -> `[n, ...]` for 1 <= n <= 64: padded to the next bucket, and cut."""
        count = len(x)
        rows = next(rows for rows in ROWS if rows >= count)
        if rows > count:
            padded = np.zeros((rows, self.width), np.float32)
            padded[:count] = x
            x = padded
        return np.asarray(self._made[rows](x))[:count]


def decode(body: bytes) -> np.ndarray:
    """A row as JSON, `{"x": [...]}`, or as raw little-endian floats."""
    if body[:1] == b"{":
        return np.asarray(_json().loads(body)["x"], np.float32)
    return np.frombuffer(body, np.float32)


def encode(y: np.ndarray, binary: bool) -> bytes:
    """The same, back: `{"y": [...]}` or raw floats."""
    if binary:
        return y.tobytes()
    orjson = _json()
    return bytes(orjson.dumps({"y": y}, option=orjson.OPT_SERIALIZE_NUMPY))


def _json() -> Any:
    import orjson  # Triton's environment has none, and parses itself

    return orjson
