"""Rows of many requests between one memory and the arrays of a batch: as if copied one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models.signature import Signature
from engine.models.tensors import LENGTH, TensorSpec
from engine.runtime.staging import gather
from engine.scheduling.buckets import Bucket
from engine.scheduling.request_queue import RowSlice
from engine.transport.protocol.layout import Layout, Layouts
from engine.transport.protocol.memory import SharedMemory, Slab
from engine.transport.server.blocks import FEW, Blocks, Place

ORDER = 16


@dataclass(eq=False)
class Request:
    """One request whose rows are in a block, and what is in them."""

    memory: Blocks
    place: Place
    layout: Layout
    rows: int
    inputs: dict[str, Any]
    deadline: float = 0.0
    priority: int = 5
    bucket_length: int | None = None


def signature(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Signature:
    """One whose clients send and get what the device has."""
    return Signature(inputs, outputs, inputs, outputs)


SIGNATURES = {
    "small": signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP64", (3, 2)),)),
    "scalars": signature(
        (TensorSpec("a", "INT8", ()), TensorSpec("b", "INT64", (5,))),
        (TensorSpec("c", "BOOL", ()), TensorSpec("d", "UINT8", (7,))),
    ),
    "lengths": signature(
        (TensorSpec("ids", "INT32", (LENGTH,)), TensorSpec("x", "FP32", (1,))),
        (TensorSpec("states", "FP32", (LENGTH, 2)), TensorSpec("sum", "FP32", ())),
    ),
}

MEMORY = SharedMemory.create("test", 4096 + (1 << ORDER))
OTHER = SharedMemory.create("other", 4096 + (1 << ORDER))


def made(
    tensors: Signature, sizes: list[tuple[int, int, int, bool]]
) -> tuple[Bucket, list[RowSlice[Any]]]:
    """Slices of requests of these sizes: rows, first row, length, in which of two memories."""
    slabs = Slab(MEMORY, ORDER), Slab(OTHER, ORDER)
    blocks = Blocks(MEMORY), Blocks(OTHER)
    dynamic = any(spec.length_axis is not None for spec in tensors.device_inputs)
    layouts, rng = Layouts(tensors), np.random.default_rng(len(sizes))
    slices, longest = [], 1
    for rows, start, length, elsewhere in sizes:
        layout = layouts.of(rows, length if dynamic else None)
        slab = slabs[elsewhere]
        block = slab.take(layout.size)
        assert block is not None
        begin = slab.begin + block[0]
        inputs = {
            field.name: rng.integers(0, 100, field.shape).astype(field.dtype)
            for field in layout.inputs
        }
        layout.write(slab.memory.map, begin, inputs)
        request = Request(
            blocks[elsewhere], Place(blocks[elsewhere], begin, layout.size), layout, rows, inputs
        )
        first = start % rows
        slices.append(RowSlice(request, first, rows - first))
        longest = max(longest, length)
    taken = sum(row_slice.count for row_slice in slices)
    return Bucket(taken + 1, longest if dynamic else None), slices


@pytest.mark.parametrize("name", list(SIGNATURES))
@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 3), st.booleans()),
        min_size=1,
        max_size=3 * FEW,
    )
)
def test_a_batch_is_gathered_and_written_back_row_by_row(
    name: str, sizes: list[tuple[int, int, int, bool]]
) -> None:
    tensors = SIGNATURES[name]
    bucket, slices = made(tensors, sizes)
    staged = gather(bucket, tensors.device_inputs, slices)
    rng = np.random.default_rng(7)
    outputs = {
        spec.name: rng.integers(0, 2, spec.batch_shape(bucket.rows, bucket.length)).astype(
            spec.device_dtype
        )
        for spec in tensors.device_outputs
    }
    at = [sum(row_slice.count for row_slice in slices[:n]) for n in range(len(slices))]
    for memory in {row_slice.request.memory for row_slice in slices}:
        mine = [n for n, row_slice in enumerate(slices) if row_slice.request.memory is memory]
        for place, spec in enumerate(tensors.device_outputs):
            places, own = [at[n] for n in mine], [slices[n] for n in mine]
            memory.write(place, spec, outputs, places, own)
    for begin, (request, start, count) in zip(at, slices, strict=True):
        for spec in tensors.device_inputs:
            rows = request.inputs[spec.name][start : start + count]
            got = staged[spec.name][begin : begin + count]
            if spec.length_axis is not None:
                assert (got[:, rows.shape[1] :] == spec.pad).all()
                got = got[:, : rows.shape[1]]
            assert np.array_equal(got, rows)
        found = request.layout.read_outputs(request.memory.memory.map, request.place.begin)
        for spec in tensors.device_outputs:
            want = outputs[spec.name][begin : begin + count]
            if spec.length_axis is not None:
                want = want[:, : found[spec.name].shape[1]]
            assert np.array_equal(found[spec.name][start : start + count], want)
        for spec in tensors.device_inputs:  # nothing was written beside the outputs
            view = request.layout.read_inputs(request.memory.memory.map, request.place.begin)[
                spec.name
            ]
            assert np.array_equal(view, request.inputs[spec.name])
