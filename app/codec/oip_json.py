"""A tensor's values as JSON has them <-> numpy.

May touch: msgspec, numpy. Structure and parsing are `oip.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np

from engine.errors import ExecutionFailed, InvalidRequest
from engine.spec import Array, TensorSpec


def decode(spec: TensorSpec, shape: list[int], data: list[Any]) -> Array:
    """The values, nested or flat, as an array of `shape` and of the spec's dtype.

    Raises `InvalidRequest` for values of another kind or out of range, and when they do not make up
    this shape.
    """
    flat = _flat(spec.name, shape, data)
    array = texts(spec.name, flat) if spec.datatype == "BYTES" else _numbers(spec, flat)
    if array.size != math.prod(shape):
        raise InvalidRequest(
            spec.name, f"shape {shape} needs {math.prod(shape)} values, data has {array.size}"
        )
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):  # no values at all, but a size beyond 64 bits
        raise InvalidRequest(spec.name, f"shape {shape} is too large") from None


def _flat(name: str, shape: list[int], data: list[Any]) -> list[Any]:
    """`data`, row-major, without its nesting; where it is nested, it is nested as `shape` says."""
    sizes = [len(data)]
    while data and isinstance(data[0], list):
        lengths = {len(part) if isinstance(part, list) else -1 for part in data}
        if len(lengths) > 1:
            raise InvalidRequest(name, "data is nested unevenly")
        sizes += lengths
        data = list(chain.from_iterable(data))
    if len(sizes) > 1 and sizes != shape:
        raise InvalidRequest(name, f"data is nested as {sizes}, but shape says {shape}")
    return data


_LISTS: Final[Mapping[str, Any]] = {
    "b": list[bool],
    "i": list[int],
    "u": list[int],
    "f": list[float],
}
"""What the values of a dtype's kind are to msgspec, for which a whole number is a decimal, too."""
_TYPES: Final[Mapping[str, frozenset[type]]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
}
_EXPECTED: Final = {
    "b": "true or false",
    "i": "whole numbers",
    "u": "whole numbers",
    "f": "numbers",
}
_HELD: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "whole numbers",
    float: "decimals or numbers beyond 64 bits",
    str: "strings",
    dict: "objects",
    type(None): "null",
}


def _numbers(spec: TensorSpec, flat: list[Any]) -> Array:
    """The values as the spec's dtype. Nothing is cast, rounded or wrapped silently.

    msgspec looks at the types before numpy sees the list: left to itself that would make [true, 2]
    numbers, [2**63, 0] floats, and one long string among short values an array as wide as that
    string.
    """
    dtype = spec.dtype
    try:
        values = msgspec.convert(flat, _LISTS[dtype.kind])
    except msgspec.ValidationError:
        odd = next(type(value) for value in flat if type(value) not in _TYPES[dtype.kind])
        if odd is list:
            raise InvalidRequest(spec.name, "data is nested unevenly") from None
        raise InvalidRequest(
            spec.name, f"data holds {_HELD[odd]}, expected {_EXPECTED[dtype.kind]}"
        ) from None
    try:
        if dtype.kind != "f" or dtype == np.float64:
            return np.fromiter(values, dtype, len(values))
        with np.errstate(over="raise"):
            return np.fromiter(values, np.float64, len(values)).astype(dtype)
    except (OverflowError, FloatingPointError):
        worst = min(flat) if min(flat) < _lowest(dtype) else max(flat)
        raise InvalidRequest(
            spec.name, f"value {worst} is out of range for {spec.datatype}"
        ) from None


def _lowest(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).min) if dtype.kind == "f" else int(np.iinfo(dtype).min)


def texts(name: str, flat: list[Any]) -> Array:
    """BYTES: strings, in UTF-8."""
    texts = np.empty(len(flat), dtype=object)
    for place, text in enumerate(flat):
        if not isinstance(text, str):
            raise InvalidRequest(name, f"data[{place}] is {type(text).__name__}, expected a string")
        texts[place] = text.encode()
    return texts


def encode(spec: TensorSpec, array: Array) -> Array | list[str]:
    """What orjson writes as the tensor's `data`: flat, row-major.

    Raises `ExecutionFailed` for what JSON cannot carry.
    """
    if spec.datatype == "BYTES":
        try:
            return [bytes(text).decode() for text in array.ravel()]
        except UnicodeDecodeError as error:
            raise ExecutionFailed(f"output {spec.name!r} is not UTF-8: {error}") from None
    if array.dtype.kind == "f" and np.count_nonzero(np.isfinite(array)) < array.size:
        raise ExecutionFailed(f"output {spec.name!r} has NaN or infinity, which JSON cannot carry")
    return np.ascontiguousarray(array).ravel()
