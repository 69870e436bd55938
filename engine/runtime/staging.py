"""`gather` fills a bucket with the rows of several requests; `scatter` is its inverse.

A *staging buffer* belongs to the batch it was made for, until the device has completed that
batch: JAX reads an aligned numpy array in place, after the call has returned, so a buffer that is
written again too early corrupts the answers of other clients (seen in 15 of 15 runs with aligned
buffers). Every batch therefore gets fresh arrays, and JAX keeps them alive. Padding is the spec's
`pad` value and never comes out again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Protocol, cast

import numpy as np

from engine.models.tensors import Array, Arrays, Extent, TensorSpec
from engine.scheduling.buckets import Bucket
from engine.scheduling.request_queue import Queued, RowSlice


class RowMemory(Protocol):
    """Memory that the rows of many requests lie in."""

    def read(
        self, place: int, spec: TensorSpec, staged: Array, at: Sequence[int], slices: Slices
    ) -> None:
        """Copy rows of the input `spec`, number `place` of the signature: those of each slice to
        `staged` from the row `at`.
        """


class Rows(Queued, Protocol):
    """A queued request with rows: in the memory of many, or in arrays of its own."""

    @property
    def memory(self) -> RowMemory | None:
        """Where its rows are; None for one with `OwnRows`."""


class OwnRows(Rows, Protocol):
    """A request whose rows are in arrays of its own."""

    @property
    def inputs(self) -> Arrays:
        """Device inputs, rows first."""

    @property
    def extent(self) -> Extent:
        """Rows and length."""


Slices = Sequence[RowSlice[Rows]]
Group = tuple[list[int], list[RowSlice[Rows]]]
"""Slices, and the rows of a batch that they begin at."""


def gather(bucket: Bucket, specs: Sequence[TensorSpec], slices: Slices) -> dict[str, Array]:
    """Copy the slices, in order, into fresh staging buffers of the bucket's shape.

    Returns one array `[bucket.rows, ...]` per spec, in the device's dtype.
    """
    begins = list(accumulate([row_slice.count for row_slice in slices], initial=0))
    groups = by_memory(zip(begins, slices, strict=False))
    staged = {}
    for place, spec in enumerate(specs):
        one = np.empty(spec.batch_shape(bucket.rows, bucket.length), spec.device_dtype)
        for memory, (at, members) in groups.items():
            if memory is None:
                _read(spec, one, at, members)
            else:
                memory.read(place, spec, one, at, members)
        one[begins[-1] :] = spec.pad
        staged[spec.name] = one
    return staged


def by_memory(placed: Iterable[tuple[int, RowSlice[Rows]]]) -> dict[RowMemory | None, Group]:
    """The slices of each memory, in order, each with the row that it begins at."""
    groups: dict[RowMemory | None, Group] = {}
    for at, row_slice in placed:
        group = groups.get(row_slice.request.memory)
        if group is None:
            group = groups[row_slice.request.memory] = ([], [])
        group[0].append(at)
        group[1].append(row_slice)
    return groups


def _read(spec: TensorSpec, staged: Array, at: Sequence[int], slices: Slices) -> None:
    for first, (request, start, count) in zip(at, slices, strict=True):
        own = cast("OwnRows", request)
        copy_rows(spec, staged, first, own.inputs[spec.name][start : start + count])


def copy_rows(spec: TensorSpec, staged: Array, at: int, rows: Array) -> None:
    """Copy the rows of one request to `staged[at:]`, and pad them to its length."""
    axis = spec.length_axis
    target = staged[at : at + len(rows)]
    if axis is not None and rows.shape[axis] != target.shape[axis]:
        target[_along(axis, slice(rows.shape[axis], None))] = spec.pad
        target = target[_along(axis, slice(rows.shape[axis]))]
    target[...] = rows


def scatter(
    bucket: Bucket,
    specs: Sequence[TensorSpec],
    outputs: Arrays,
    slices: Sequence[RowSlice[OwnRows]],
) -> list[dict[str, Array]]:
    """The outputs of each slice, in the order of `slices`; see `copy_outputs`."""
    check_outputs(bucket, specs, outputs)
    ends = accumulate(row_slice.count for row_slice in slices)
    return [
        copy_outputs(specs, outputs, end - row_slice.count, row_slice)
        for row_slice, end in zip(slices, ends, strict=True)
    ]


def copy_outputs(
    specs: Sequence[TensorSpec], outputs: Arrays, at: int, row_slice: RowSlice[OwnRows]
) -> dict[str, Array]:
    """The outputs of a slice that begins at the row `at`, in the dtypes that clients get.

    Copies: a view would keep the whole padded batch alive for as long as one client needs its row.
    """
    request, _, count = row_slice
    return {
        spec.name: cut_rows(spec, outputs, at, count, request.extent.length).astype(spec.dtype)
        for spec in specs
    }


def check_outputs(bucket: Bucket, specs: Sequence[TensorSpec], outputs: Arrays) -> None:
    """An executable that gives another shape than it was compiled for is a bug."""
    for spec in specs:
        shape = outputs[spec.name].shape
        if shape != spec.batch_shape(bucket.rows, bucket.length):
            raise AssertionError(f"{spec.name} came back as {shape} from bucket {bucket}")


def cut_rows(spec: TensorSpec, outputs: Arrays, at: int, count: int, length: int | None) -> Array:
    """The output rows from `at`, as a view. A dynamic axis is cut to the request's length."""
    rows = outputs[spec.name][at : at + count]
    return rows if spec.length_axis is None else rows[_along(spec.length_axis, slice(length))]


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    """An index that takes `part` of one axis and all of those before it."""
    return (*[slice(None)] * axis, part)
