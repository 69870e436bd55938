"""How the arrays of a request lie in its block.

Usually both processes compute the same layout from the signature, the rows and the length: the
device inputs first, in the dtypes of the device, then the device outputs. Arrays of no fixed size
(BYTES, and what a `postprocess` beside the engine returns) are packed with msgpack instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from engine.errors import ExecutionFailed
from engine.models.processor import Parameter
from engine.models.signature import Signature
from engine.models.tensors import DTYPES, Array, Arrays, TensorSpec

ALIGNMENT: Final = 64
MAX_LAYOUTS: Final = 4096

Buffer = Any
"""What `numpy.ndarray` takes as a buffer; Python 3.11 has no type for it."""


class Field(NamedTuple):
    """One array: `offset` is in bytes from the beginning of the block."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    def view(self, buffer: Buffer, begin: int) -> Array:
        """The array in a block that begins at `begin`."""
        return np.ndarray(self.shape, self.dtype, buffer, begin + self.offset)


class Layout(NamedTuple):
    """Where the arrays are, and how many bytes they need together."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    size: int

    def write(self, buffer: Buffer, begin: int, inputs: Arrays) -> None:
        """Copy the inputs of a request into its block. 64-bit values are narrowed here."""
        for field in self.inputs:
            field.view(buffer, begin)[...] = inputs[field.name]

    def read_inputs(self, buffer: Buffer, begin: int) -> dict[str, Array]:
        """The inputs, as views."""
        return {field.name: field.view(buffer, begin) for field in self.inputs}

    def read_outputs(self, buffer: Buffer, begin: int) -> dict[str, Array]:
        """The outputs, as views."""
        return {field.name: field.view(buffer, begin) for field in self.outputs}


class Layouts:
    """The layouts of one signature, computed once for each number of rows and length."""

    def __init__(self, signature: Signature) -> None:
        self._inputs, self._outputs = signature.device_inputs, signature.device_outputs
        self._known: dict[tuple[int, int | None], Layout] = {}

    def of(self, rows: int, length: int | None) -> Layout:
        """The layout of a request with so many rows of this length."""
        layout = self._known.get((rows, length))
        if layout is None:
            if len(self._known) >= MAX_LAYOUTS:
                self._known.clear()
            layout = self._known[rows, length] = self._compute(rows, length)
        return layout

    def _compute(self, rows: int, length: int | None) -> Layout:
        end = 0

        def field(spec: TensorSpec, dtype: np.dtype[Any]) -> Field:
            nonlocal end
            shape, begin = spec.batch_shape(rows, length), end
            size = int(np.prod(shape)) * dtype.itemsize
            end += -(-size // ALIGNMENT) * ALIGNMENT
            return Field(spec.name, shape, dtype, begin)

        inputs = tuple(field(spec, spec.device_dtype) for spec in self._inputs)
        outputs = tuple(field(spec, spec.dtype) for spec in self._outputs)
        return Layout(inputs, outputs, end)


class _Packed(msgspec.Struct, array_like=True):
    """An array: `data` is its bytes, or the elements of a BYTES array."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes | list[Any]


class Packed(msgspec.Struct, array_like=True):
    """Arrays of any size, and what belongs to them."""

    arrays: dict[str, _Packed]
    parameters: dict[str, Parameter] = {}
    tokens: int = 0


_DATATYPES: Final[Mapping[np.dtype[Any], str]] = {dtype: name for name, dtype in DTYPES.items()}
_DECODER: Final = msgspec.msgpack.Decoder(Packed)


def pack(
    arrays: Arrays, parameters: Mapping[str, Parameter] | None = None, tokens: int = 0
) -> bytes:
    """Pack arrays. Raises `ExecutionFailed` for a dtype that the protocol does not have."""
    packed = {name: _pack_one(name, np.asarray(array)) for name, array in arrays.items()}
    return msgspec.msgpack.encode(Packed(packed, dict(parameters or {}), tokens))


def _pack_one(name: str, array: Array) -> _Packed:
    datatype = _DATATYPES.get(array.dtype)
    if datatype is None:
        raise ExecutionFailed(f"{name}: dtype {array.dtype} is none of {list(DTYPES)}")
    data = array.reshape(-1).tolist() if datatype == "BYTES" else array.tobytes()
    return _Packed(datatype, array.shape, data)


def unpack(data: bytes | memoryview) -> tuple[dict[str, Array], Packed]:
    """The arrays, and the rest."""
    packed = _DECODER.decode(data)
    return {name: _unpack_one(one) for name, one in packed.arrays.items()}, packed


def _unpack_one(packed: _Packed) -> Array:
    if isinstance(packed.data, bytes):
        return np.frombuffer(packed.data, DTYPES[packed.datatype]).reshape(packed.shape)
    array = np.empty(len(packed.data), np.object_)
    array[:] = packed.data
    return array.reshape(packed.shape)
