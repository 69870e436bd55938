"""`gather` fills a bucket with the rows of several requests; `scatter` is its inverse.

A *staging buffer* belongs to the batch it was made for, until the device has completed that
batch: JAX reads an aligned numpy array in place, after the call has returned, so a buffer that is
written again too early corrupts the answers of other clients (seen in 15 of 15 runs with aligned
buffers). Every batch therefore gets fresh arrays, and JAX keeps them alive. Padding is the spec's
`pad` value and never comes out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engine.models.tensors import Array, Arrays, Extent, TensorSpec
from engine.scheduling.buckets import Bucket
from engine.scheduling.request_queue import Queued, RowSlice


class Rows(Queued, Protocol):
    """A queued request that carries its arrays, rows first."""

    @property
    def inputs(self) -> Arrays:
        """Device inputs, rows first."""

    @property
    def extent(self) -> Extent:
        """Rows and length."""


def gather(
    bucket: Bucket, specs: Sequence[TensorSpec], slices: Sequence[RowSlice[Rows]]
) -> dict[str, Array]:
    """Copy the slices, in order, into fresh staging buffers of the bucket's shape.

    Returns one array `[bucket.rows, ...]` per spec, in the device's dtype.
    """
    return {spec.name: _gather_one(bucket, spec, slices) for spec in specs}


def _gather_one(bucket: Bucket, spec: TensorSpec, slices: Sequence[RowSlice[Rows]]) -> Array:
    staged = np.empty(spec.batch_shape(bucket.rows, bucket.length), spec.device_dtype)
    axis = spec.length_axis
    at = 0
    for row_slice in slices:
        start, count = row_slice.start, row_slice.count
        rows = row_slice.request.inputs[spec.name][start : start + count]
        target = staged[at : at + count]
        if axis is not None and rows.shape[axis] != target.shape[axis]:
            target[_along(axis, slice(rows.shape[axis], None))] = spec.pad
            target = target[_along(axis, slice(rows.shape[axis]))]
        target[...] = rows
        at += count
    staged[at:] = spec.pad
    return staged


def scatter(
    bucket: Bucket, specs: Sequence[TensorSpec], outputs: Arrays, slices: Sequence[RowSlice[Rows]]
) -> list[dict[str, Array]]:
    """The outputs of each slice, in the order of `slices`.

    Copies: a view would keep the whole padded batch alive for as long as one client needs its row.
    A dynamic axis is cut back to the request's own length.
    """
    parts: list[dict[str, Array]] = [{} for _ in slices]
    for spec in specs:
        output = outputs[spec.name]
        if output.shape != spec.batch_shape(bucket.rows, bucket.length):
            raise AssertionError(f"{spec.name} came back as {output.shape} from bucket {bucket}")
        name, dtype, axis = spec.name, spec.dtype, spec.length_axis
        at = 0
        for row_slice, part in zip(slices, parts, strict=True):
            rows = output[at : at + row_slice.count]
            at += row_slice.count
            if axis is not None:
                rows = rows[_along(axis, slice(row_slice.request.extent.length))]
            part[name] = rows.astype(dtype)
    return parts


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    """An index that takes `part` of one axis and all of those before it."""
    return (*[slice(None)] * axis, part)
