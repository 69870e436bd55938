"""The protocol's binary tensors: raw little-endian bytes <-> numpy.

May touch: numpy.

Numbers are not copied on their way in: the array is a view of the request's body, and its one copy
is the one into its bucket's staging buffer. A BYTES element is its length, 4 bytes, and its bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from engine.errors import InvalidRequest
from engine.spec import Array, TensorSpec

_LENGTH: Final = struct.Struct("<I")


def decode(spec: TensorSpec, shape: Sequence[int], raw: memoryview) -> Array:
    """An array of `shape` that views `raw`, read-only (BYTES: an array of new objects).

    `shape` has no negative sizes. Raises `InvalidRequest` when the bytes do not make up exactly
    this shape.
    """
    if spec.datatype == "BYTES":
        return _decode_bytes(spec.name, shape, raw)
    needs = math.prod(shape) * spec.dtype.itemsize
    if len(raw) != needs:
        raise InvalidRequest(
            spec.name,
            f"{len(raw)} bytes do not fit, shape {list(shape)} of {spec.datatype} needs {needs}",
        )
    if spec.datatype == "BOOL" and (odd := raw.tobytes().translate(None, b"\0\1")):
        raise InvalidRequest(spec.name, f"a BOOL is {odd[0]}, expected 0 or 1")
    little = spec.dtype.newbyteorder("<")
    return _reshape(spec.name, np.frombuffer(raw, little), shape)


def _decode_bytes(name: str, shape: Sequence[int], raw: memoryview) -> Array:
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        if len(raw) - at < _LENGTH.size:
            raise InvalidRequest(
                name,
                f"the length of element {len(elements)} is cut off: {len(raw) - at} bytes are "
                f"left, expected {_LENGTH.size}",
            )
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > len(raw) - at:
            raise InvalidRequest(
                name,
                f"element {len(elements)} says {length} bytes, but {len(raw) - at} are left",
            )
        elements.append(bytes(raw[at : at + length]))
        at += length
    if len(elements) != math.prod(shape):
        raise InvalidRequest(
            name,
            f"{len(elements)} elements do not fit, shape {list(shape)} needs {math.prod(shape)}",
        )
    array = np.empty(len(elements), object)
    array[:] = elements
    return _reshape(name, array, shape)


def _reshape(name: str, array: Array, shape: Sequence[int]) -> Array:
    try:
        return array.reshape(tuple(shape))
    except (ValueError, OverflowError):  # no values at all, but a size beyond 64 bits
        raise InvalidRequest(name, f"shape {list(shape)} is too large") from None


def encode(spec: TensorSpec, array: Array) -> bytes | memoryview[Any]:
    """The tensor's bytes, row-major."""
    if spec.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in array.ravel().tolist())
    row_major = np.ascontiguousarray(array, spec.dtype.newbyteorder("<"))
    # as bytes, because bfloat16 has no buffer interface of its own
    return row_major.reshape(-1).view(np.uint8).data
