"""A tensor's values: JSON lists, or the protocol's binary tensors, <-> numpy.

A binary tensor is raw little-endian bytes; a BYTES element is its length in 4 bytes, then its
bytes. Numeric binary inputs are not copied: the array is a view of the request's body, and the only
copy is the one into the staging buffer of its bucket.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np

from engine.api import Array, ExecutionFailed, InvalidRequest, TensorSpec

_LENGTH: Final = struct.Struct("<I")

_KINDS: Final[Mapping[str, tuple[Any, frozenset[type], str]]] = {
    "b": (list[bool], frozenset({bool}), "true or false"),
    "i": (list[int], frozenset({int}), "whole numbers"),
    "u": (list[int], frozenset({int}), "whole numbers"),
    "f": (list[float], frozenset({int, float}), "numbers"),
}
"""Kind of dtype -> msgspec's type of the list (a whole number is a float, too), types, name."""
_FOUND: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "whole numbers",
    float: "decimals or numbers beyond 64 bits",
    str: "strings",
    dict: "objects",
    type(None): "null",
}


def decode_json(spec: TensorSpec, shape: list[int], data: list[Any]) -> Array:
    """Return the values, nested or flat, as an array of `shape` and of the spec's dtype.

    Raises `InvalidRequest` for values of another type or out of range, and when they do not make up
    this shape.
    """
    flat = _flatten(spec.name, shape, data)
    array = texts(spec.name, flat) if spec.datatype == "BYTES" else _numbers(spec, flat)
    if array.size != (needs := math.prod(shape)):
        problem = f"shape {shape} needs {needs} values, data has {array.size}"
        raise InvalidRequest(spec.name, problem)
    return _reshape(spec.name, array, shape)


def _flatten(name: str, shape: list[int], data: list[Any]) -> list[Any]:
    """Return `data` flat, row-major. If it is nested, its nesting must match `shape`."""
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


def texts(name: str, flat: list[Any]) -> Array:
    """Return a BYTES array [len(flat)] of strings in UTF-8. Raises `InvalidRequest`."""
    array = np.empty(len(flat), dtype=object)
    for index, text in enumerate(flat):
        if not isinstance(text, str):
            raise InvalidRequest(name, f"data[{index}] is {type(text).__name__}, expected a string")
        array[index] = text.encode()
    return array


def decode_base64(spec: TensorSpec, array: Array) -> Array:
    """Return a BYTES array whose elements were encoded as base64. Raises `InvalidRequest`."""
    if spec.datatype != "BYTES":
        problem = f"base64 encodes BYTES, but the tensor is {spec.datatype}"
        raise InvalidRequest(f"{spec.name}: parameters.content_type", problem)
    decoded = np.empty(array.shape, dtype=object)
    for index, element in enumerate(array.flat):
        try:
            decoded.flat[index] = base64.b64decode(element, validate=True)
        except ValueError as error:
            raise InvalidRequest(spec.name, f"data[{index}] is not base64: {error}") from None
    return decoded


def _numbers(spec: TensorSpec, flat: list[Any]) -> Array:
    """Convert to the spec's dtype. No value is cast, rounded or wrapped silently."""
    dtype = spec.dtype
    values = _checked(spec, flat)
    try:
        if dtype.kind != "f" or dtype == np.float64:
            return np.fromiter(values, dtype, len(values))
        if dtype == np.float32 and values:
            # the same rounding and the same errors as below, in 0.7 us instead of 2 for 16 values
            return np.frombuffer(struct.pack(f"<{len(values)}f", *values), "<f4")
        with np.errstate(over="raise"):
            return np.fromiter(values, np.float64, len(values)).astype(dtype)
    except (OverflowError, FloatingPointError, struct.error):
        lowest = float(np.finfo(dtype).min) if dtype.kind == "f" else int(np.iinfo(dtype).min)
        worst = min(flat) if min(flat) < lowest else max(flat)
        problem = f"value {worst} is out of range for {spec.datatype}"
        raise InvalidRequest(spec.name, problem) from None


def _checked(spec: TensorSpec, flat: list[Any]) -> list[Any]:
    """Check the types with msgspec before numpy sees the list.

    numpy alone would turn [true, 2] into numbers, [2**63, 0] into floats, and one long string among
    short values into an array as wide as that string.
    """
    checked, types, expected = _KINDS[spec.dtype.kind]
    try:
        values: list[Any] = msgspec.convert(flat, checked)
    except msgspec.ValidationError:
        odd = next(type(value) for value in flat if type(value) not in types)
        found = "is nested unevenly" if odd is list else f"holds {_FOUND[odd]}, expected {expected}"
        raise InvalidRequest(spec.name, f"data {found}") from None
    return values


def decode_binary(spec: TensorSpec, shape: Sequence[int], raw: memoryview) -> Array:
    """Return a read-only array of `shape` that views `raw` (BYTES: an array of new objects).

    `shape` has no negative sizes. Raises `InvalidRequest` when the bytes do not make up exactly
    this shape.
    """
    needs = math.prod(shape)
    if spec.datatype == "BYTES":
        elements = _elements(spec.name, raw)
        if len(elements) != needs:
            problem = f"{len(elements)} elements do not fit, shape {list(shape)} needs {needs}"
            raise InvalidRequest(spec.name, problem)
        array = np.empty(needs, object)
        array[:] = elements
        return _reshape(spec.name, array, shape)
    needs *= spec.dtype.itemsize
    if len(raw) != needs:
        problem = f"do not fit, shape {list(shape)} of {spec.datatype} needs {needs}"
        raise InvalidRequest(spec.name, f"{len(raw)} bytes {problem}")
    if spec.datatype == "BOOL" and (odd := raw.tobytes().translate(None, b"\0\1")):
        raise InvalidRequest(spec.name, f"a BOOL is {odd[0]}, expected 0 or 1")
    return _reshape(spec.name, np.frombuffer(raw, spec.dtype.newbyteorder("<")), shape)


def _elements(name: str, raw: memoryview) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while left := len(raw) - at:
        if left < _LENGTH.size:
            problem = f"is cut off: {left} bytes are left, expected {_LENGTH.size}"
            raise InvalidRequest(name, f"the length of element {len(elements)} {problem}")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > len(raw) - at:
            problem = f"says {length} bytes, but {len(raw) - at} are left"
            raise InvalidRequest(name, f"element {len(elements)} {problem}")
        elements.append(bytes(raw[at : at + length]))
        at += length
    return elements


def _reshape(name: str, array: Array, shape: Sequence[int]) -> Array:
    """Reshape to `shape`, which has as many values as `array`. Raises `InvalidRequest`."""
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):  # no values, but another size beyond 64 bits
        raise InvalidRequest(name, f"shape {list(shape)} is too large") from None


def encode_json(spec: TensorSpec, array: Array) -> Array | list[str]:
    """Return the tensor's `data` for orjson: flat, row-major.

    Raises `ExecutionFailed` for values that JSON cannot carry.
    """
    if spec.datatype == "BYTES":
        try:
            return [bytes(text).decode() for text in array.ravel()]
        except UnicodeDecodeError as error:
            raise ExecutionFailed(f"output {spec.name!r} is not UTF-8: {error}") from None
    if array.dtype.kind == "f" and np.count_nonzero(np.isfinite(array)) < array.size:
        raise ExecutionFailed(f"output {spec.name!r} has NaN or infinity, which JSON cannot carry")
    return np.ascontiguousarray(array).ravel()


def encode_binary(spec: TensorSpec, array: Array) -> bytes | memoryview[Any]:
    """Return the tensor's bytes, row-major."""
    if spec.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in array.ravel().tolist())
    row_major = np.ascontiguousarray(array, spec.dtype.newbyteorder("<"))
    # as bytes, because bfloat16 has no buffer interface of its own
    return row_major.reshape(-1).view(np.uint8).data
