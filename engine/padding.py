"""`gather` fills a bucket with the rows of several requests; `scatter` is its inverse.

May touch: numpy.

A *staging buffer* belongs to the batch it was made for, until the device has finished with that
batch: JAX reads an aligned numpy array in place, after the call has returned, so a buffer that is
written again too early corrupts the answers of other clients (seen in 15 of 15 runs with aligned
buffers). Every batch therefore gets fresh arrays, and JAX keeps them alive. Padding is the spec's
`pad` value and never comes out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engine.buckets import Bucket
from engine.spec import Array, Arrays, Extent, TensorSpec
from engine.waiting import Piece, Queued


class Rows(Queued, Protocol):
    """A queued request that carries its arrays, rows first."""

    @property
    def inputs(self) -> Arrays: ...
    @property
    def extent(self) -> Extent: ...


def gather(
    bucket: Bucket, specs: Sequence[TensorSpec], pieces: Sequence[Piece[Rows]]
) -> dict[str, Array]:
    """Copy the pieces, in order, into fresh staging buffers of the bucket's shape.

    Returns one array `[bucket.rows, ...]` per spec, in the device's dtype.
    """
    return {spec.name: _gather_one(bucket, spec, pieces) for spec in specs}


def _gather_one(bucket: Bucket, spec: TensorSpec, pieces: Sequence[Piece[Rows]]) -> Array:
    staged = np.empty(spec.batch_shape(bucket.rows, bucket.length), spec.device_dtype)
    axis = spec.length_axis
    at = 0
    for piece in pieces:
        rows = piece.request.inputs[spec.name][piece.start : piece.start + piece.count]
        target = staged[at : at + piece.count]
        if axis is not None and rows.shape[axis] != target.shape[axis]:
            target[_along(axis, slice(rows.shape[axis], None))] = spec.pad
            target = target[_along(axis, slice(rows.shape[axis]))]
        target[...] = rows
        at += piece.count
    staged[at:] = spec.pad
    return staged


def scatter(
    bucket: Bucket, specs: Sequence[TensorSpec], outputs: Arrays, pieces: Sequence[Piece[Rows]]
) -> list[dict[str, Array]]:
    """The outputs of each piece, in the order of the pieces.

    Copies: a view would keep the whole padded batch alive for as long as one client needs its row.
    A dynamic axis is cut back to the request's own length.
    """
    parts: list[dict[str, Array]] = [{} for _ in pieces]
    for spec in specs:
        output = outputs[spec.name]
        if output.shape != spec.batch_shape(bucket.rows, bucket.length):
            raise AssertionError(f"{spec.name} came back as {output.shape} from bucket {bucket}")
        name, dtype, axis = spec.name, spec.dtype, spec.length_axis
        at = 0
        for piece, part in zip(pieces, parts, strict=True):
            rows = output[at : at + piece.count]
            at += piece.count
            if axis is not None:
                rows = rows[_along(axis, slice(piece.request.extent.length))]
            part[name] = rows.astype(dtype)
    return parts


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    """An index that takes `part` of one axis and all of those before it."""
    return (*[slice(None)] * axis, part)
