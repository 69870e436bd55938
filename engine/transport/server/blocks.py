"""The rows of many requests in one memory: a batch is gathered and scattered by a few array
operations, whatever its number of requests.

Rows of a fixed shape are elements of one array over the whole memory, which overlap: the element
`n` begins at the `n`-th item. Indexing it with the places of the rows of a batch reads or writes
all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from engine.models.tensors import Array, Arrays, TensorSpec
from engine.runtime.staging import copy_rows, cut_rows
from engine.scheduling.request_queue import RowSlice
from engine.transport.protocol.layout import Field
from engine.transport.protocol.memory import SharedMemory

FEW: Final = 4
"""Up to so many slices are copied one by one: making an index takes as long as four copies."""


class Place(NamedTuple):
    """The block of a request: `capacity` bytes of the memory of `blocks`, from `begin`."""

    blocks: Blocks
    begin: int
    capacity: int

    def read(self, size: int) -> bytes:
        """The first bytes."""
        return self.blocks.memory.map[self.begin : self.begin + min(size, self.capacity)]

    def write(self, data: bytes) -> None:
        """Replace the first bytes."""
        self.blocks.memory.map[self.begin : self.begin + len(data)] = data


Slices = Sequence[RowSlice[Any]]
"""Of requests with a `place` in this memory, and a `layout`."""


class Blocks:
    """Copies rows between the blocks of one memory and the arrays of a batch."""

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory
        self._rows: dict[tuple[tuple[int, ...], np.dtype[Any]], Array] = {}

    def read(
        self, place: int, spec: TensorSpec, staged: Array, at: Sequence[int], slices: Slices
    ) -> None:
        """See `engine.runtime.staging.RowMemory`."""
        fields = [row_slice.request.layout.inputs[place] for row_slice in slices]
        if spec.length_axis is None and len(slices) > FEW:
            rows = self._elements(fields[0])
            staged[_places(at, slices)] = rows[_indexes(rows, fields, slices)]
            return
        for field, first, (request, start, count) in zip(fields, at, slices, strict=True):
            rows = field.view(self.memory.map, request.place.begin)
            copy_rows(spec, staged, first, rows[start : start + count])

    def write(
        self, place: int, spec: TensorSpec, outputs: Arrays, at: Sequence[int], slices: Slices
    ) -> None:
        """Copy rows of the output `spec`, number `place` of the signature, into their blocks: those
        of each slice from the row `at`.
        """
        fields = [row_slice.request.layout.outputs[place] for row_slice in slices]
        if spec.length_axis is None and len(slices) > FEW:
            rows = self._elements(fields[0])
            computed = outputs[spec.name][_places(at, slices)]
            rows[_indexes(rows, fields, slices)] = computed
            return
        for field, first, (request, start, count) in zip(fields, at, slices, strict=True):
            rows = field.view(self.memory.map, request.place.begin)
            length = rows.shape[spec.length_axis] if spec.length_axis is not None else None
            rows[start : start + count] = cut_rows(spec, outputs, first, count, length)

    def _elements(self, field: Field) -> Array:
        """Every row of this shape and dtype that the memory can hold, from each item on."""
        key = shape, dtype = field.shape[1:], field.dtype
        rows = self._rows.get(key)
        if rows is None:
            one = np.empty(shape, dtype)
            count = (self.memory.size - one.nbytes) // dtype.itemsize + 1
            strides = (dtype.itemsize, *one.strides)
            rows = np.ndarray((count, *shape), dtype, self.memory.map, 0, strides)
            self._rows[key] = rows
        return rows


def _indexes(rows: Array, fields: Sequence[Field], slices: Slices) -> Array:
    """Where in `rows` each row of the slices is: the items of its dtype before it."""
    itemsize, step = rows.itemsize, math.prod(rows.shape[1:])
    begins = [
        (request.place.begin + field.offset) // itemsize + start * step
        for field, (request, start, _) in zip(fields, slices, strict=True)
    ]
    return _expanded(begins, slices, step)


def _places(at: Sequence[int], slices: Slices) -> Array | slice:
    """Where each row is in the batch."""
    rows = sum([row_slice.count for row_slice in slices])
    if at[-1] + slices[-1].count - at[0] == rows:
        return slice(at[0], at[0] + rows)
    return _expanded(at, slices, 1)


def _expanded(begins: Sequence[int], slices: Slices, step: int) -> Array:
    """`begins`, and for each slice of several rows the rows after its first, each `step` on."""
    counts = [row_slice.count for row_slice in slices]
    if len(counts) == sum(counts):
        return np.array(begins)
    numbers = np.arange(sum(counts)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(begins, counts) + numbers * step
