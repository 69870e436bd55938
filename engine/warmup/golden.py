"""Golden rows: valid rows of device inputs on which every bucket is verified and timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.models.model import Program
from engine.models.signature import Signature
from engine.models.tensors import Array, Arrays


def golden_row(
    signature: Signature, program: Program, rng: np.random.Generator, length: int | None
) -> dict[str, Array]:
    """One row of device inputs as arrays `[1, ...]`, of the device's dtypes.

    Without a `golden` function in the program, floats are standard normal, and integers and
    booleans are 0 or 1, which every vocabulary contains.
    """
    specs = signature.device_inputs
    if program.golden is None:
        return {
            spec.name: _random(rng, spec.batch_shape(1, length), spec.device_dtype)
            for spec in specs
        }
    return _row(signature, program.golden(rng, length))


def edge_rows(signature: Signature, program: Program, length: int | None) -> list[dict[str, Array]]:
    """The rows that the program's `edges` names, as arrays `[1, ...]`."""
    rows = program.edges(length) if program.edges is not None else ()
    return [_row(signature, row) for row in rows]


def _row(signature: Signature, row: Arrays) -> dict[str, Array]:
    specs = signature.device_inputs
    return {spec.name: np.asarray(row[spec.name], spec.device_dtype)[None] for spec in specs}


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
