"""Raw tensors survive a round trip without copies; every length is checked."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.codecs import tensors
from engine.errors import InvalidRequest
from engine.models.tensors import DTYPES, Array, TensorSpec
from tests.app.wire import SHAPES, any_bits, binary_tensors, elements, same

NUMBERS = sorted(DTYPES.keys() - {"BYTES"})


def refusal(spec: TensorSpec, shape: Sequence[int], raw: bytes) -> str:
    with pytest.raises(InvalidRequest) as refused:
        tensors.decode_binary(spec, shape, memoryview(raw))
    return str(refused.value)


# --- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", sorted(DTYPES))
@given(data=st.data())
def test_a_round_trip_preserves_every_bit(datatype: str, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    spec, array = TensorSpec("t", datatype, shape[1:]), data.draw(any_bits(datatype, shape))
    raw = tensors.encode_binary(spec, array)
    read = tensors.decode_binary(spec, array.shape, memoryview(raw))
    assert same(read, array)
    assert read.dtype == spec.dtype


@pytest.mark.parametrize(
    ("datatype", "values", "raw"),
    [
        ("BOOL", [True, False], b"\1\0"),
        ("UINT8", [1, 255], b"\x01\xff"),
        ("INT16", [1, -2], b"\x01\x00\xfe\xff"),
        ("UINT32", [258], b"\x02\x01\x00\x00"),
        ("INT64", [-2], b"\xfe" + b"\xff" * 7),
        ("FP16", [1.0], b"\x00\x3c"),
        ("BF16", [1.0], b"\x80\x3f"),
        ("FP32", [1.0], b"\x00\x00\x80\x3f"),
        ("FP64", [1.0], b"\x00" * 6 + b"\xf0\x3f"),
        ("BYTES", [b"ab", b""], b"\x02\x00\x00\x00ab\x00\x00\x00\x00"),
    ],
)
def test_bytes_are_little_endian_and_in_the_order_of_the_rows(
    datatype: str, values: list[float], raw: bytes
) -> None:
    spec = TensorSpec("t", datatype)
    array = np.array(values, spec.dtype)
    assert bytes(tensors.encode_binary(spec, array)) == raw
    assert same(tensors.decode_binary(spec, (len(values),), memoryview(raw)), array)


def test_a_view_that_is_not_contiguous_is_written_row_by_row() -> None:
    turned = np.arange(4, dtype=np.uint8).reshape(2, 2).T
    assert bytes(tensors.encode_binary(TensorSpec("t", "UINT8", (2,)), turned)) == b"\0\2\1\3"


def test_a_32_bit_output_of_the_device_is_written_with_the_64_bits_of_its_datatype() -> None:
    raw = tensors.encode_binary(TensorSpec("t", "INT64"), np.array([-2], np.int32))
    assert bytes(raw) == struct.pack("<q", -2)


# --- nothing is copied ----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 64], ids=["aligned or not", "unaligned", "further on"])
@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_are_a_view_of_the_body(datatype: str, offset: int) -> None:
    spec = TensorSpec("t", datatype, (3,))
    body = bytes(offset + 6 * spec.dtype.itemsize)
    array = tensors.decode_binary(spec, (2, 3), memoryview(body)[offset:])
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not array.flags.writeable


@given(binary_tensors())
def test_numbers_are_written_without_a_copy_too(case: tuple[TensorSpec, Array]) -> None:
    spec, array = case
    if spec.datatype != "BYTES" and array.size:
        raw = tensors.encode_binary(spec, array)
        assert np.shares_memory(np.frombuffer(raw, np.uint8), array.view(np.uint8))


# --- refusals -------------------------------------------------------------------------------------

TEXT = TensorSpec("t", "BYTES")
FLAG = TensorSpec("t", "BOOL")
FLOAT = TensorSpec("t", "FP32", (2,))


@pytest.mark.parametrize(
    ("spec", "shape", "raw", "message"),
    [
        pytest.param(
            FLOAT,
            (1, 2),
            bytes(7),
            "7 bytes do not fit, shape [1, 2] of FP32 needs 8",
            id="too few",
        ),
        pytest.param(
            FLOAT,
            (1, 2),
            bytes(12),
            "12 bytes do not fit, shape [1, 2] of FP32 needs 8",
            id="a value too many",
        ),
        pytest.param(
            FLOAT,
            (2**62, 2),
            bytes(8),
            f"8 bytes do not fit, shape [{2**62}, 2] of FP32 needs {2**65}",
            id="a product beyond 64 bits",
        ),
        pytest.param(
            FLOAT,
            (2**62, 4),
            b"",
            f"0 bytes do not fit, shape [{2**62}, 4] of FP32 needs {2**66}",
            id="a product that would wrap to 0",
        ),
        pytest.param(
            FLOAT,
            (0, 2**63 - 1),
            b"",
            f"shape [0, {2**63 - 1}] is too large",
            id="no values, size too large",
        ),
        pytest.param(FLAG, (2,), b"\1\2", "a BOOL is 2, expected 0 or 1", id="a BOOL of 2"),
        pytest.param(FLAG, (1,), b"\xff", "a BOOL is 255, expected 0 or 1", id="true as -1"),
        pytest.param(
            TEXT,
            (1,),
            b"\1\0",
            "the length of element 0 is cut off: 2 bytes are left, expected 4",
            id="cut-off length",
        ),
        pytest.param(
            TEXT,
            (2,),
            elements(b"a") + b"\0",
            "the length of element 1 is cut off: 1 bytes are left, expected 4",
            id="cut-off second length",
        ),
        pytest.param(
            TEXT,
            (1,),
            elements(b"abc")[:-1],
            "element 0 says 3 bytes, but 2 are left",
            id="an element is cut off",
        ),
        pytest.param(
            TEXT,
            (1,),
            b"\xff" * 4,
            f"element 0 says {2**32 - 1} bytes, but 0 are left",
            id="a length of four gigabytes",
        ),
        pytest.param(
            TEXT,
            (1,),
            elements(b"a", b"b"),
            "2 elements do not fit, shape [1] needs 1",
            id="an element too many",
        ),
        pytest.param(
            TEXT, (2,), elements(b"a"), "1 elements do not fit, shape [2] needs 2", id="one too few"
        ),
        pytest.param(
            TEXT,
            (0, 2**63 - 1),
            b"",
            f"shape [0, {2**63 - 1}] is too large",
            id="no text, size too large",
        ),
    ],
)
def test_bytes_that_do_not_make_up_the_shape_are_refused(
    spec: TensorSpec, shape: tuple[int, ...], raw: bytes, message: str
) -> None:
    assert refusal(spec, shape, raw) == f"t: {message}"


@given(st.sampled_from(sorted(DTYPES)), SHAPES, st.binary(max_size=80))
def test_any_bytes_are_refused_or_make_up_exactly_the_shape(
    datatype: str, shape: tuple[int, ...], raw: bytes
) -> None:
    spec = TensorSpec("t", datatype, shape[1:])
    try:
        array = tensors.decode_binary(spec, shape, memoryview(raw))
    except InvalidRequest:
        return
    assert (array.shape, array.dtype) == (shape, spec.dtype)
    assert bytes(tensors.encode_binary(spec, array)) == raw
