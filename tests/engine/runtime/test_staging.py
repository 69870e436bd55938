"""`scatter` gives back what `gather` took in, and nothing of the padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models.tensors import DTYPES, LENGTH, Arrays, Extent, TensorSpec
from engine.runtime.staging import gather, scatter
from engine.scheduling.buckets import Bucket
from engine.scheduling.request_queue import DEFAULT_PRIORITY, RowSlice

IDS = TensorSpec("ids", "INT64", (LENGTH,), pad=7)


@dataclass(frozen=True, eq=False)
class Request:
    """A queued request that carries its arrays."""

    inputs: Arrays
    extent: Extent
    bucket_length: int | None = None
    enqueued_at: float = 0.0
    deadline: float = 0.0
    priority: int = DEFAULT_PRIORITY
    memory: ClassVar[None] = None

    @property
    def rows(self) -> int:
        return self.extent.rows


def ids(*rows: list[int]) -> Request:
    """A request of several rows of the same length."""
    return Request({"ids": np.array(rows, np.int64)}, Extent(len(rows), len(rows[0])))


# --- for every dtype, shape and cut -------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One batch as hypothesis draws it."""

    bucket: Bucket
    specs: tuple[TensorSpec, ...]
    slices: tuple[RowSlice[Request], ...]


@st.composite
def specs_of_one_model(draw: st.DrawFn) -> tuple[TensorSpec, ...]:
    """One to three tensors of any datatype; the dynamic axis at any place, or nowhere."""

    def spec(name: str) -> TensorSpec:
        shape = draw(st.lists(st.integers(1, 3), max_size=2))
        if draw(st.booleans()):
            shape.insert(draw(st.integers(0, len(shape))), LENGTH)
        datatype = draw(st.sampled_from([name for name in DTYPES if name != "BYTES"]))
        return TensorSpec(name, datatype, tuple(shape), pad=draw(st.sampled_from([0, 1])))

    return tuple(spec(name) for name in "abc"[: draw(st.integers(1, 3))])


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    specs = draw(specs_of_one_model())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    longest = draw(st.integers(1, 5))
    slices = []
    for _ in range(draw(st.integers(1, 4))):
        extent = Extent(draw(st.integers(1, 4)), draw(st.integers(1, longest)))
        inputs = {
            spec.name: rng.integers(0, 100, spec.batch_shape(extent.rows, extent.length)).astype(
                spec.dtype
            )
            for spec in specs
        }
        start = draw(st.integers(0, extent.rows - 1))
        count = draw(st.integers(1, extent.rows - start))
        slices.append(RowSlice(Request(inputs, extent), start, count))
    rows = sum(row_slice.count for row_slice in slices) + draw(st.integers(0, 3))
    return Batch(Bucket(rows, longest), specs, tuple(slices))


@given(batch=batches())
@settings(deadline=None)
def test_scatter_gives_every_slice_back_the_rows_it_brought(batch: Batch) -> None:
    staged = gather(batch.bucket, batch.specs, batch.slices)
    parts = list(scatter(batch.bucket, batch.specs, staged, batch.slices))
    for row_slice, part in zip(batch.slices, parts, strict=True):
        for spec in batch.specs:
            rows = row_slice.request.inputs[spec.name][
                row_slice.start : row_slice.start + row_slice.count
            ]
            assert part[spec.name].dtype == spec.dtype
            assert np.array_equal(part[spec.name], rows)


@given(batch=batches())
@settings(deadline=None)
def test_a_bucket_is_filled_to_its_shape_and_what_is_not_a_row_is_padding(batch: Batch) -> None:
    staged = gather(batch.bucket, batch.specs, batch.slices)
    for spec in batch.specs:
        array = staged[spec.name]
        assert array.shape == spec.batch_shape(batch.bucket.rows, batch.bucket.length)
        assert array.dtype == spec.device_dtype
        is_padding = np.ones(array.shape, bool)
        at = 0
        for row_slice in batch.slices:
            real = [slice(None)] * array.ndim
            real[0] = slice(at, at + row_slice.count)
            if spec.length_axis is not None:
                real[spec.length_axis] = slice(row_slice.request.extent.length)
            is_padding[tuple(real)] = False
            at += row_slice.count
        assert np.all(array[is_padding] == spec.pad)


@given(batch=batches())
@settings(deadline=None)
def test_an_answer_is_a_copy_that_pins_nothing_of_the_batch(batch: Batch) -> None:
    staged = gather(batch.bucket, batch.specs, batch.slices)
    for part in scatter(batch.bucket, batch.specs, staged, batch.slices):
        for name, rows in part.items():
            assert rows.base is None
            assert rows.flags.writeable
            assert not np.shares_memory(rows, staged[name])


# --- by hand ------------------------------------------------------------------------------------


def test_pieces_stand_in_order_and_are_padded_along_both_axes() -> None:
    long, short = ids([1, 2, 3], [4, 5, 6]), ids([8], [9])
    staged = gather(Bucket(4, 3), (IDS,), (RowSlice(long, 1, 1), RowSlice(short, 0, 2)))
    assert staged["ids"].tolist() == [[4, 5, 6], [8, 7, 7], [9, 7, 7], [7, 7, 7]]
    assert staged["ids"].dtype == np.int32


def test_the_padding_along_the_length_is_cut_off_again() -> None:
    long, short = ids([1, 2, 3]), ids([8], [9])
    outputs = {"ids": np.array([[1, 2, 3], [8, -1, -1], [9, -1, -1], [-1, -1, -1]], np.int32)}
    parts = list(
        scatter(Bucket(4, 3), (IDS,), outputs, (RowSlice(long, 0, 1), RowSlice(short, 0, 2)))
    )
    assert [part["ids"].tolist() for part in parts] == [[[1, 2, 3]], [[8], [9]]]
    assert all(part["ids"].dtype == np.int64 for part in parts)


def test_padding_may_be_nan() -> None:
    spec = TensorSpec("x", "FP64", (), pad=float("nan"))
    request = Request({"x": np.array([1.5])}, Extent(1, None))
    staged = gather(Bucket(2), (spec,), (RowSlice(request, 0, 1),))["x"]
    assert staged[0] == 1.5
    assert np.isnan(staged[1])


def test_every_batch_gets_buffers_of_its_own() -> None:
    slices = (RowSlice(ids([1]), 0, 1),)
    first, second = (gather(Bucket(1, 1), (IDS,), slices)["ids"] for _ in range(2))
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(first, slices[0].request.inputs["ids"])


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 2), id="a-row-too-few"),
        pytest.param((5, 2), id="a-row-too-many"),
        pytest.param((4, 3), id="another-length"),
        pytest.param((4,), id="an-axis-too-few"),
    ],
)
def test_an_output_of_another_shape_is_never_handed_out(shape: tuple[int, ...]) -> None:
    outputs: Any = {"ids": np.zeros(shape, np.int32)}
    with pytest.raises(AssertionError, match=r"ids came back as .* from bucket 4x2"):
        list(scatter(Bucket(4, 2), (IDS,), outputs, (RowSlice(ids([1]), 0, 1),)))
