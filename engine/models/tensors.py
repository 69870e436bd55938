"""Tensor names, datatypes and shapes, and whether one request's arrays fit them.

The datatype names are those of the Open Inference Protocol. A spec describes one *row*; on the
wire and in arrays the rows come first: `TensorSpec("image", "FP32", (8, 8))` is an array
`[rows, 8, 8]`. At most one axis of a row is dynamic, written `LENGTH`; all dynamic tensors of a
model share its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import ml_dtypes
import numpy as np

from engine.errors import InvalidRequest

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, Array]

LENGTH: Final = -1  # the dynamic axis in a spec's shape; also how the wire writes it
DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BYTES": np.dtype(np.object_),
}
"""Datatype name -> numpy dtype. BYTES is an object array of `bytes`."""

# By default JAX computes in 32 bits, and an executable refuses int64.
_ON_DEVICE: Final[Mapping[str, str]] = {"INT64": "INT32", "UINT64": "UINT32", "FP64": "FP32"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor of a model.

    `shape` is that of one row, with `LENGTH` for the dynamic axis. `pad` fills padding.
    `nonfinite` allows NaN and infinity in an output; otherwise they fail the request whose row
    made them. `normalized` says that each row of an output is a vector of length 1. INT64, UINT64
    and FP64 are narrowed to 32 bits on the device.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    pad: float = 0
    nonfinite: bool = False
    normalized: bool = False
    dtype: np.dtype[Any] = field(init=False, repr=False, compare=False)
    """The numpy dtype on the wire."""
    device_dtype: np.dtype[Any] = field(init=False, repr=False, compare=False)
    """The numpy dtype on the device."""
    length_axis: int | None = field(init=False, repr=False, compare=False)
    """The index of the dynamic axis in an array that has rows first, or None."""

    def __post_init__(self) -> None:
        if self.datatype not in DTYPES:
            raise ValueError(f"{self.name}: datatype {self.datatype!r} is none of {list(DTYPES)}")
        if self.shape.count(LENGTH) > 1 or any(n < 1 and n != LENGTH for n in self.shape):
            raise ValueError(f"{self.name}: shape {self.shape} needs positive sizes, one LENGTH")
        # computed once: every request needs them
        axis = self.shape.index(LENGTH) + 1 if LENGTH in self.shape else None
        on_device = DTYPES[_ON_DEVICE.get(self.datatype, self.datatype)]
        object.__setattr__(self, "dtype", DTYPES[self.datatype])
        object.__setattr__(self, "device_dtype", on_device)
        object.__setattr__(self, "length_axis", axis)

    @property
    def wire_shape(self) -> tuple[int, ...]:
        """Rows first, -1 for what varies."""
        return (-1, *self.shape)

    def batch_shape(self, rows: int, length: int | None) -> tuple[int, ...]:
        """The shape of this tensor in a bucket."""
        return (rows, *(length if n == LENGTH and length is not None else n for n in self.shape))

    def nbytes(self, rows: int, length: int | None) -> int:
        """Bytes on the device in a bucket."""
        return int(np.prod(self.batch_shape(rows, length))) * self.device_dtype.itemsize


class Extent(NamedTuple):
    """How large a request is: its rows, and their common length where one axis is dynamic."""

    rows: int
    length: int | None


def validate(specs: Sequence[TensorSpec], arrays: Arrays, max_length: int | None = None) -> Extent:
    """Check one request's arrays against the specs. Returns its extent.

    `max_length` bounds the dynamic axis. Raises `InvalidRequest` with the tensor's name, what came
    and what was expected: a missing or surplus tensor, another dtype (nothing is cast silently),
    another shape, rows or lengths that differ between tensors, a 64-bit integer that the device
    could not hold.
    """
    extent: Extent | None = None
    if len(arrays) > len(specs):
        raise _misnamed(specs, arrays)
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            raise _misnamed(specs, arrays)
        _check_shape(spec, array)
        _check_dtype(spec, array)
        extent = _merge(extent, spec, array, max_length)
    if extent is None:
        raise InvalidRequest("inputs", "no tensors; expected at least one")
    return extent


def _misnamed(specs: Sequence[TensorSpec], arrays: Arrays) -> InvalidRequest:
    """A tensor is surplus or missing; or both, and then the surplus one is likely the other."""
    expected = [spec.name for spec in specs]
    for name in arrays:
        if name not in expected:
            known = ", ".join(sorted(expected)) or "none"
            return InvalidRequest(name, f"unexpected tensor; expected {known}")
    missing = next(name for name in expected if name not in arrays)
    got = ", ".join(sorted(arrays)) or "none"
    return InvalidRequest(missing, f"tensor is missing; got {got}")


def _check_shape(spec: TensorSpec, array: Array) -> None:
    row = array.shape[1:]
    fits = row == spec.shape or (
        len(row) == len(spec.shape)
        and all(want in (LENGTH, got) for want, got in zip(spec.shape, row, strict=True))
    )
    if not fits or not array.ndim:
        problem = f"shape {list(array.shape)} does not fit, expected {list(spec.wire_shape)}"
        raise InvalidRequest(spec.name, problem)
    if array.shape[0] < 1:
        raise InvalidRequest(spec.name, "no rows; expected at least one")


def _check_dtype(spec: TensorSpec, array: Array) -> None:
    if array.dtype != spec.dtype:
        raise InvalidRequest(spec.name, f"dtype {array.dtype} is not {spec.datatype}")
    if spec.dtype != spec.device_dtype and array.size:
        _check_fits_device(spec, array)


def _check_fits_device(spec: TensorSpec, array: Array) -> None:
    """A 64-bit number becomes one of 32 bits on the device: it may be rounded, not wrapped."""
    floating = spec.dtype.kind == "f"
    limits = np.finfo(spec.device_dtype) if floating else np.iinfo(spec.device_dtype)
    low, high = np.array([limits.min, limits.max], spec.device_dtype).tolist()
    array = array[np.isfinite(array)] if floating else array
    for value in (array.min().item(), array.max().item()) if array.size else ():
        if not low <= value <= high:
            bits = f"this model computes in {8 * spec.device_dtype.itemsize} bits"
            problem = f"value {value} is out of range; {bits}, expected {low} to {high}"
            raise InvalidRequest(spec.name, problem)


def _merge(extent: Extent | None, spec: TensorSpec, array: Array, max_length: int | None) -> Extent:
    """The extent after one more tensor, which must agree with those before it."""
    axis = spec.length_axis
    length = None if axis is None else array.shape[axis]
    if length is not None and max_length is not None and not 1 <= length <= max_length:
        raise InvalidRequest(spec.name, f"length {length} does not fit, expected 1 to {max_length}")
    rows = array.shape[0]
    if extent is None:
        return Extent(rows, length)
    before = "but the tensors before it have"
    if rows != extent.rows:
        raise InvalidRequest(spec.name, f"{rows} rows, {before} {extent.rows}")
    if length is not None and extent.length is not None and length != extent.length:
        raise InvalidRequest(spec.name, f"length {length}, {before} {extent.length}")
    return Extent(rows, extent.length if length is None else length)
