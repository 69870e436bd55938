"""The models that every server runs, compiled and padded in the same way.

Needs only jax and numpy, as do its imports from `engine/`: it runs in the environment of every
server. Brim itself loads the same `Model`s as factories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np

from benchmarks import mlp
from benchmarks.null import null_model
from benchmarks.peers import encoder
from engine.models.model import Model
from engine.models.tensors import Array

ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
"""The buckets."""

MODELS: Final[Mapping[str, Callable[[], Model]]] = {
    "null": null_model.create,
    "mlp": mlp.create,
    "encoder": encoder.create,
}
"""Each with one input `x` and one output `y`."""


class Function:
    """A model's executables, one a bucket, and the padding between them and any number of rows.

    `dtype` and `shape` are those of one row of `x`. Safe to call from several threads.
    """

    def __init__(self, name: str, buckets: Sequence[int] = ROWS) -> None:
        model = MODELS[name]()
        (spec,) = model.signature.device_inputs
        self.dtype: np.dtype[Any] = spec.device_dtype
        self.shape = spec.shape
        self._params = jax.device_put(model.program.params)
        self._compiled = {
            rows: jax.jit(model.program.apply)
            .lower(
                self._params,
                {spec.name: jax.ShapeDtypeStruct((rows, *self.shape), self.dtype)},
            )
            .compile()
            for rows in buckets
        }

    def __call__(self, rows: Array) -> Array:
        """`x` [n, *shape] -> `y` [n, ...], in the smallest bucket that holds n rows."""
        bucket = next(size for size in self._compiled if size >= len(rows))
        x = np.zeros((bucket, *self.shape), self.dtype)
        x[: len(rows)] = rows
        return np.asarray(self._compiled[bucket](self._params, {"x": x})["y"])[: len(rows)]
