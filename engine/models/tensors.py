"""Tensor names, datatypes and shapes, and whether one request's arrays fit them.

The datatype names are those of the Open Inference Protocol. A spec describes one *row*; on the
wire and in arrays the rows come first: `TensorSpec("image", "FP32", (8, 8))` is an array
`[rows, 8, 8]`. At most one axis of a row is dynamic, written `LENGTH`; all dynamic tensors of a
model share its size.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from copy import copy
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
    made them. `normalized` says that each row of an output is a vector of length 1.

    A model with an INT64, UINT64 or FP64 output computes numbers of this kind in 64 bits; otherwise
    such inputs are narrowed to 32 bits, and values that do not fit are refused.

    `low` and `high` are the least and the greatest value of an input, both allowed; None is the
    datatype's own. Other values are refused before they reach the device: a JAX program does not
    notice an index beyond its table. Warm-up runs both ends.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    pad: float = 0
    nonfinite: bool = False
    normalized: bool = False
    low: float | None = None
    high: float | None = None
    dtype: np.dtype[Any] = field(init=False, repr=False, compare=False)
    """The numpy dtype on the wire."""
    device_dtype: np.dtype[Any] = field(init=False, repr=False, compare=False)
    """The numpy dtype on the device."""
    length_axis: int | None = field(init=False, repr=False, compare=False)
    """The index of the dynamic axis in an array that has rows first, or None."""
    limits: tuple[float, float] | None = field(init=False, repr=False, compare=False)
    """The least and the greatest value of an input, or None where nothing needs to be compared."""

    def __post_init__(self) -> None:
        if self.datatype not in DTYPES:
            raise ValueError(f"{self.name}: datatype {self.datatype!r} is none of {list(DTYPES)}")
        object.__setattr__(self, "shape", _sizes(self.name, self.shape))
        object.__setattr__(self, "low", _plain(self.low))
        object.__setattr__(self, "high", _plain(self.high))
        if self.shape.count(LENGTH) > 1 or any(n < 1 and n != LENGTH for n in self.shape):
            raise ValueError(f"{self.name}: shape {self.shape} needs positive sizes, one LENGTH")
        # computed once: every request needs them
        axis = self.shape.index(LENGTH) + 1 if LENGTH in self.shape else None
        on_device = DTYPES[_ON_DEVICE.get(self.datatype, self.datatype)]
        object.__setattr__(self, "dtype", DTYPES[self.datatype])
        object.__setattr__(self, "device_dtype", on_device)
        object.__setattr__(self, "length_axis", axis)
        object.__setattr__(self, "limits", self._limits())

    def _limits(self) -> tuple[float, float] | None:
        """Those of `low` and `high`, and of the device where it has fewer bits than the wire."""
        stated = [value for value in (self.low, self.high) if value is not None]
        if not stated and not self.narrowed:
            return None  # every value fits
        if self.dtype.kind in "bO":
            raise ValueError(f"{self.name}: {self.datatype} has no low and no high")
        least, greatest = value_range(self.dtype)
        low = least if self.low is None else self.low
        high = greatest if self.high is None else self.high
        kind = float if self.dtype.kind not in "iu" else int
        if not least <= low <= high <= greatest or any(kind(value) != value for value in stated):
            given = f"low {self.low} and high {self.high} do not fit"
            what = "whole numbers" if kind is int else "numbers"
            between = (
                f"from {least:g} to {greatest:g}" if kind is float else f"{least} to {greatest}"
            )
            raise ValueError(f"{self.name}: {given}, expected {what} {between}, low <= high")
        least, greatest = value_range(self.device_dtype)
        return max(low, least), min(high, greatest)

    @property
    def narrowed(self) -> bool:
        """Whether the device has fewer bits than the wire."""
        return self.device_dtype != self.dtype

    def widened(self) -> TensorSpec:
        """The same tensor with all of its bits on the device."""
        wide = copy(self)
        object.__setattr__(wide, "device_dtype", self.dtype)
        object.__setattr__(wide, "limits", wide._limits())
        return wide

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


def _sizes(name: str, shape: object) -> tuple[int, ...]:
    """The sizes of one row as plain numbers, which cross processes."""
    try:
        return tuple(operator.index(size) for size in shape)  # type: ignore[attr-defined]
    except TypeError:
        problem = f"shape {shape!r} is not the sizes of one row, as (4, 4) or (LENGTH,)"
        raise ValueError(f"{name}: {problem}; it has no batch axis") from None


def _plain(value: float | None) -> float | None:
    """A number of NumPy as one of Python, which crosses processes."""
    return value.item() if isinstance(value, np.generic) else value


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
    if spec.limits is not None and array.size:
        _check_values(spec, array, *spec.limits)


def _check_values(spec: TensorSpec, array: Array, low: float, high: float) -> None:
    """Every value is in the range. Without a stated one, a 64-bit float may also be infinite or
    NaN: on a device with fewer bits it stays what it is.
    """
    if spec.dtype.kind == "f" and spec.low is None and spec.high is None:
        array = np.where(np.isfinite(array), array, 0)
    # NaN is in no range: every comparison with it is false
    if low <= array.min() and array.max() <= high:
        return
    outside = np.argwhere(~((array >= low) & (array <= high)))[0]
    row, value = int(outside[0]), array[tuple(outside)].item()
    as_stated = (spec.low is None or spec.low <= value) and (
        spec.high is None or value <= spec.high
    )
    bits = f"; this model computes in {8 * spec.device_dtype.itemsize} bits"
    why = bits if spec.narrowed and as_stated else ""
    problem = f"value {value} in row {row} is out of range{why}, expected {low} to {high}"
    raise InvalidRequest(spec.name, problem)


def value_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The least and the greatest finite value of a number's dtype."""
    finfo: Any = ml_dtypes.finfo  # numpy's own does not know bfloat16
    limits = np.iinfo(dtype) if dtype.kind in "iu" else finfo(dtype)
    low, high = np.array([limits.min, limits.max], dtype).tolist()
    return low, high


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
