"""Golden rows: valid rows of device inputs on which every bucket is verified and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from engine.errors import InvalidRequest, WarmupError, reason_of
from engine.models.model import Program
from engine.models.signature import Signature
from engine.models.tensors import Array, Arrays, TensorSpec, validate, value_range

SEED: Final = 20
T = TypeVar("T")


def golden_row(
    signature: Signature,
    program: Program,
    rng: np.random.Generator,
    length: int | None,
    number: int = 0,
) -> dict[str, Array]:
    """One row of device inputs as arrays `[1, ...]`, of the device's dtypes.

    Without a `golden` function in the program, values are drawn from `low` to `high`; of the rows
    0 and 1 each has one end first and the other end last. Without these, floats are standard
    normal, and integers and booleans are 0 or 1, which every vocabulary contains. Raises
    `WarmupError` for a `golden` whose rows are not valid.
    """
    specs = signature.device_inputs
    if program.golden is None:
        return {spec.name: _drawn(rng, spec, length, number) for spec in specs}
    golden = program.golden
    return _valid(signature, "golden", _made("golden", lambda: golden(rng, length)), length)


def edge_rows(signature: Signature, program: Program, length: int | None) -> list[dict[str, Array]]:
    """The rows that the program's `edges` names, as arrays `[1, ...]`. Raises `WarmupError`."""
    edges = program.edges
    rows = () if edges is None else _made("edges", lambda: edges(length))
    return [_valid(signature, "edges", row, length) for row in rows]


def _made(name: str, call: Callable[[], T]) -> T:
    """What the function `name` of the model makes. Raises `WarmupError` for what it raises."""
    try:
        return call()
    except Exception as error:
        raise WarmupError(f"{name} failed: {reason_of(error)}") from error


def _valid(signature: Signature, name: str, row: Arrays, length: int | None) -> dict[str, Array]:
    """A row that the function `name` of the model made, if it is what a request may have."""
    specs = signature.device_inputs
    try:
        named = {spec.name: np.asarray(row[spec.name], spec.dtype)[None] for spec in specs}
        if length not in (None, validate(specs, named).length):
            raise InvalidRequest(name, f"its rows do not have the length {length}")
    except KeyError as error:
        raise WarmupError(f"{name} gave {sorted(row)}, without {error}") from None
    except (InvalidRequest, TypeError, ValueError) as error:
        raise WarmupError(f"{name} gave a row that is not valid: {error}") from None
    return {spec.name: named[spec.name].astype(spec.device_dtype) for spec in specs}


def check_golden(signature: Signature, program: Program, lengths: Sequence[int | None]) -> None:
    """Make a row of each length. Raises `WarmupError`."""
    for length in lengths:
        golden_row(signature, program, np.random.default_rng(SEED), length)
        edge_rows(signature, program, length)


def _drawn(rng: np.random.Generator, spec: TensorSpec, length: int | None, number: int) -> Array:
    low, high = spec.limits or (None, None)
    low, high = (None if spec.low is None else low), (None if spec.high is None else high)
    drawn = _random(rng, spec.device_dtype, spec.batch_shape(1, length), low, high)
    ends = [end for end in (low, high) if end is not None]
    for place, end in zip((0, -1), ends[:: 1 if number == 0 else -1], strict=False):
        drawn.flat[place] = end
    return drawn


def _random(
    rng: np.random.Generator,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    low: float | None,
    high: float | None,
) -> Array:
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        least, greatest = value_range(dtype)
        first = max(least, min(0, 0 if high is None else high - 1)) if low is None else low
        last = min(greatest, max(1, first + 1)) if high is None else high
        return rng.integers(int(first), int(last), shape, dtype, endpoint=True)
    if low is not None and high is not None:
        return rng.uniform(low, high, shape).astype(dtype)
    normal = rng.standard_normal(shape)
    if low is not None:
        normal = low + abs(normal)
    elif high is not None:
        normal = high - abs(normal)
    return normal.astype(dtype)
