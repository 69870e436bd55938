"""Shared by the tests of the codecs: requests as bytes, arrays of every datatype."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from app.http.codecs import oip
from app.http.codecs.messages import InferRequest
from engine.errors import InvalidRequest
from engine.models.tensors import DTYPES, LENGTH, Array, TensorSpec

X = TensorSpec("x", "FP32", (2,))
IDS = TensorSpec("ids", "INT64", (LENGTH,))
Y = TensorSpec("y", "FP32", (2,))
GOOD = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}


def request_of(*tensors: dict[str, Any], **more: Any) -> bytes:
    """A request of JSON alone."""
    return json.dumps({"inputs": list(tensors), **more}).encode()


def binary(spec: TensorSpec, shape: tuple[int, ...], size: int, **more: Any) -> dict[str, Any]:
    """A tensor with a `binary_data_size`."""
    return {
        "name": spec.name,
        "shape": list(shape),
        "datatype": spec.datatype,
        "parameters": {"binary_data_size": size},
        **more,
    }


def elements(*texts: bytes) -> bytes:
    """BYTES in their binary form."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def read(body: bytes, *specs: TensorSpec, header: int | None = None) -> InferRequest:
    """Decode a request for a model with these inputs and the output `y`."""
    return oip.decode(body, header, specs or (X, IDS), (Y,))


def read_binary(header: bytes, raw: bytes, *specs: TensorSpec) -> InferRequest:
    """Decode a request whose JSON part is followed by tensors."""
    return read(header + raw, *specs, header=len(header))


def refusal(body: bytes, *specs: TensorSpec, header: int | None = None) -> str:
    """The message with which a request is refused."""
    with pytest.raises(InvalidRequest) as refused:
        read(body, *specs, header=header)
    return str(refused.value)


def nest(flat: list[Any], shape: list[int]) -> list[Any]:
    """A flat list as nested lists of this shape."""
    for size in reversed(shape[1:]):
        flat = [flat[at : at + size] for at in range(0, len(flat), size)]
    return flat


def same(one: Array, other: Array) -> bool:
    """Compare bit by bit: -0.0 differs from 0.0, and NaN equals itself."""
    if one.dtype == object:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def jsonable(datatype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    """Arrays that JSON carries."""
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        return arrays_of.arrays(object, shape, elements=st.text(max_size=4).map(str.encode))
    if dtype.kind == "f":
        floats = st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)
        return arrays_of.arrays(dtype, shape, elements=floats)
    return arrays_of.arrays(dtype, shape)


def any_bits(datatype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    """Arrays of any bits: NaNs, infinities, bytes that are not UTF-8."""
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        return arrays_of.arrays(object, shape, elements=st.binary(max_size=4))
    if datatype == "BOOL":
        return arrays_of.arrays(dtype, shape)
    size = dtype.itemsize * int(np.prod(shape))
    return st.binary(min_size=size, max_size=size).map(
        lambda raw: np.frombuffer(raw, dtype).reshape(shape)
    )


SHAPES = st.tuples(st.integers(0, 3), st.lists(st.integers(1, 3), max_size=3).map(tuple)).map(
    lambda rows_and_row: (rows_and_row[0], *rows_and_row[1])
)
JSON_DATATYPES = sorted(DTYPES.keys() - oip.BINARY_ONLY)


@st.composite
def json_tensors(draw: st.DrawFn, name: str = "t") -> tuple[TensorSpec, Array]:
    """A tensor that JSON carries, and its spec."""
    datatype, shape = draw(st.sampled_from(JSON_DATATYPES)), draw(SHAPES)
    return TensorSpec(name, datatype, shape[1:]), draw(jsonable(datatype, shape))


@st.composite
def binary_tensors(draw: st.DrawFn, name: str = "t") -> tuple[TensorSpec, Array]:
    """A tensor of any datatype, and its spec."""
    datatype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(SHAPES)
    return TensorSpec(name, datatype, shape[1:]), draw(any_bits(datatype, shape))
