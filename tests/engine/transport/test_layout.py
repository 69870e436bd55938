"""Where arrays lie in a block, and how arrays of no fixed size are packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ExecutionFailed
from engine.models.signature import Signature
from engine.models.tensors import DTYPES, LENGTH, TensorSpec
from engine.transport.protocol import layout as layouts
from engine.transport.protocol.layout import Layout, Layouts, pack, unpack

IDS = TensorSpec("ids", "INT64", (LENGTH,))
FLAG = TensorSpec("flag", "BOOL")
STATES = TensorSpec("states", "FP16", (LENGTH, 3))
LABEL = TensorSpec("label", "INT32")
SIGNATURE = Signature((IDS, FLAG), (STATES, LABEL), (IDS, FLAG), (STATES, LABEL))


@given(rows=st.integers(1, 40), length=st.integers(1, 70))
def test_arrays_lie_behind_each_other_and_come_back_as_they_were(rows: int, length: int) -> None:
    layout = Layouts(SIGNATURE).of(rows, length)
    buffer, begin = bytearray(layout.size + 128), 64
    rng = np.random.default_rng(rows)
    inputs = {
        "ids": rng.integers(-(2**31), 2**31, (rows, length)),
        "flag": rng.integers(0, 2, rows).astype(bool),
    }
    outputs = {
        "states": rng.normal(size=(rows, length, 3)).astype(np.float16),
        "label": rng.integers(-(2**31), 2**31, rows, np.int32),
    }
    layout.write(buffer, begin, inputs)
    for field in layout.outputs:
        field.view(buffer, begin)[...] = outputs[field.name]
    back = layout.read_inputs(buffer, begin)
    assert back["ids"].dtype == np.int32, "in the dtype of the device"
    for name, array in inputs.items():
        np.testing.assert_array_equal(back[name], array)
    for name, view in layout.read_outputs(buffer, begin).items():
        np.testing.assert_array_equal(view, outputs[name])
        assert view.dtype == outputs[name].dtype
    assert not any(buffer[:begin])
    assert not any(buffer[begin + layout.size :])


def test_the_inputs_of_a_model_with_a_64_bit_output_keep_their_bits() -> None:
    signature = Signature(
        (IDS,), (TensorSpec("sum", "INT64"),), (IDS,), (TensorSpec("sum", "INT64"),)
    )
    (ids,) = Layouts(signature).of(2, 3).inputs
    assert ids.dtype == np.int64


def test_every_array_is_aligned() -> None:
    layout: Layout = Layouts(SIGNATURE).of(3, 5)
    assert all(f.offset % layouts.ALIGNMENT == 0 for f in (*layout.inputs, *layout.outputs))


def test_layouts_are_computed_once_and_not_kept_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layouts, "MAX_LAYOUTS", 2)
    known = Layouts(SIGNATURE)
    first = known.of(1, 1)
    assert known.of(1, 1) is first
    for rows in (2, 3):
        known.of(rows, 1)
    assert known.of(1, 1) == first


NUMBERS = [name for name in DTYPES if name != "BYTES"]


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_packed_arrays_come_back(datatype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(DTYPES[datatype])
    arrays, packed = unpack(pack({"a": array}, {"token_limit": 3, "cut": "0,1"}, 7))
    assert arrays["a"].dtype == array.dtype
    np.testing.assert_array_equal(arrays["a"], array)
    assert (packed.parameters, packed.tokens) == ({"token_limit": 3, "cut": "0,1"}, 7)


@given(st.lists(st.binary(max_size=20) | st.text(max_size=20), max_size=9))
def test_packed_bytes_come_back(elements: list[bytes | str]) -> None:
    array = np.empty((len(elements), 1), np.object_)
    array[:, 0] = elements
    arrays, _ = unpack(pack({"text": array}))
    assert arrays["text"].shape == array.shape
    assert arrays["text"][:, 0].tolist() == elements


def test_an_array_that_is_not_contiguous_is_packed_by_its_values() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(unpack(pack({"a": array}))[0]["a"], array)


def test_a_dtype_that_the_protocol_does_not_have_is_named() -> None:
    with pytest.raises(ExecutionFailed, match=r"moment: dtype datetime64.* is none of"):
        pack({"moment": np.array(["2026-11-28"], "datetime64[D]")})
