"""The Open Inference Protocol's infer request and response, as JSON.

May touch: orjson, msgspec, numpy.

orjson parses and writes (15 KB of 784 floats: 13 us, the standard library 109 us, msgspec's own
parser 18 us), msgspec checks the structure, numpy the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from app.codec import InferRequest, InferResponse
from engine.errors import ExecutionFailed, InvalidRequest
from engine.model import Parameter
from engine.spec import Array, TensorSpec

BINARY_ONLY: Final = frozenset({"FP16", "BF16"})
"""Datatypes that the protocol lets travel as binary only."""


class WireTensor(msgspec.Struct):
    """One input tensor: `data` is nested or flat, row-major."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Parameter] = {}


class WireOutput(msgspec.Struct):
    """One output that the client wants."""

    name: str
    parameters: dict[str, Parameter] = {}


class WireRequest(msgspec.Struct):
    """The body of an infer request."""

    inputs: list[WireTensor]
    id: str | None = None
    parameters: dict[str, Parameter] = {}
    outputs: list[WireOutput] | None = None


def decode(
    body: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """Turn a body into arrays, rows first, of the datatypes that the specs name.

    Raises `InvalidRequest` naming the field, what came and what was expected. Shapes are checked
    against the data here and against the model by the engine.
    """
    try:
        wire = msgspec.convert(orjson.loads(body), WireRequest)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest("body", f"not JSON: {error}") from None
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise InvalidRequest(path.rstrip("`").lstrip(".") or "body", problem) from None
    specs = {spec.name: spec for spec in inputs}
    arrays: dict[str, Array] = {}
    for tensor in wire.inputs:
        if tensor.name in arrays:
            raise InvalidRequest(tensor.name, "the tensor is there twice")
        if tensor.name not in specs:
            known = ", ".join(specs)
            raise InvalidRequest(tensor.name, f"unexpected tensor; expected {known}")
        arrays[tensor.name] = _array(tensor, specs[tensor.name])
    return InferRequest(arrays, wire.id, _wanted(wire.outputs, outputs), wire.parameters)


def _wanted(wanted: list[WireOutput] | None, specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    known = [spec.name for spec in specs]
    for output in wanted or ():
        if output.name not in known:
            raise InvalidRequest(
                f"outputs: {output.name}", f"no such output; expected {', '.join(known)}"
            )
    return tuple(output.name for output in wanted or ())


def _array(tensor: WireTensor, spec: TensorSpec) -> Array:
    """One tensor's numbers, checked against its own datatype and shape."""
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            tensor.name, f"datatype {tensor.datatype!r} does not fit, expected {spec.datatype}"
        )
    if spec.datatype in BINARY_ONLY:
        raise InvalidRequest(tensor.name, f"{spec.datatype} cannot travel as JSON, only as binary")
    if len(tensor.shape) != len(spec.wire_shape):
        raise InvalidRequest(
            tensor.name,
            f"shape with {len(tensor.shape)} axes does not fit, expected {list(spec.wire_shape)}",
        )
    if any(size < 0 for size in tensor.shape):
        raise InvalidRequest(tensor.name, f"shape {tensor.shape} has a negative size")
    flat = _flat(tensor)
    array = _texts(tensor.name, flat) if spec.datatype == "BYTES" else _numbers(tensor, flat, spec)
    if array.size != math.prod(tensor.shape):
        raise InvalidRequest(
            tensor.name,
            f"shape {tensor.shape} needs {math.prod(tensor.shape)} values, data has {array.size}",
        )
    try:
        return array.reshape(tensor.shape)
    except (ValueError, OverflowError):  # no values at all, but a size beyond 64 bits
        raise InvalidRequest(tensor.name, f"shape {tensor.shape} is too large") from None


def _flat(tensor: WireTensor) -> list[Any]:
    """`data`, row-major, without its nesting; where it is nested, it is nested as `shape` says."""
    data, sizes = tensor.data, [len(tensor.data)]
    while data and isinstance(data[0], list):
        lengths = {len(part) if isinstance(part, list) else -1 for part in data}
        if len(lengths) > 1:
            raise InvalidRequest(tensor.name, "data is nested unevenly")
        sizes += lengths
        data = list(chain.from_iterable(data))
    if len(sizes) > 1 and sizes != tensor.shape:
        raise InvalidRequest(
            tensor.name, f"data is nested as {sizes}, but shape says {tensor.shape}"
        )
    return data


_TYPES: Final[Mapping[str, frozenset[type]]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
}
_EXPECTED: Final = {
    "b": "true or false",
    "i": "whole numbers",
    "u": "whole numbers",
    "f": "numbers",
}
_HELD: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "whole numbers",
    float: "decimals or numbers beyond 64 bits",
    str: "strings",
    dict: "objects",
    type(None): "null",
}


def _numbers(tensor: WireTensor, flat: list[Any], spec: TensorSpec) -> Array:
    """The values as the spec's dtype. Nothing is cast, rounded or wrapped silently.

    Types are looked at before numpy sees the list: left to itself it would make [true, 2] numbers,
    [2**63, 0] floats, and one long string among short values an array as wide as that string.
    """
    allowed = _TYPES[spec.dtype.kind]
    if not allowed.issuperset(map(type, flat)):
        odd = next(type(value) for value in flat if type(value) not in allowed)
        if odd is list:
            raise InvalidRequest(tensor.name, "data is nested unevenly")
        raise InvalidRequest(
            tensor.name, f"data holds {_HELD[odd]}, expected {_EXPECTED[spec.dtype.kind]}"
        )
    try:
        if spec.dtype.kind != "f":
            return np.asarray(flat, spec.dtype)
        with np.errstate(over="raise"):
            return np.asarray(flat, np.float64).astype(spec.dtype)
    except (OverflowError, FloatingPointError):
        worst = min(flat) if min(flat) < _lowest(spec.dtype) else max(flat)
        raise InvalidRequest(
            tensor.name, f"value {worst} is out of range for {spec.datatype}"
        ) from None


def _lowest(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).min) if dtype.kind == "f" else int(np.iinfo(dtype).min)


def _texts(name: str, flat: list[Any]) -> Array:
    """BYTES: strings, in UTF-8."""
    texts = np.empty(len(flat), dtype=object)
    for place, text in enumerate(flat):
        if not isinstance(text, str):
            raise InvalidRequest(name, f"data[{place}] is {type(text).__name__}, expected a string")
        texts[place] = text.encode()
    return texts


def encode(response: InferResponse, specs: Sequence[TensorSpec]) -> bytes:
    """Write the outputs, flat and row-major, in the order of the specs.

    Raises `ExecutionFailed` for an output that JSON cannot carry.
    """
    body: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id is not None:
        body["id"] = response.id
    if response.parameters:
        body["parameters"] = dict(response.parameters)
    body["outputs"] = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": response.outputs[spec.name].shape,
            "data": _data(spec, response.outputs[spec.name]),
        }
        for spec in specs
        if spec.name in response.outputs
    ]
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _data(spec: TensorSpec, array: Array) -> Array | list[str]:
    if spec.datatype in BINARY_ONLY:
        raise ExecutionFailed(f"output {spec.name!r} is {spec.datatype}, which is binary only")
    if spec.datatype == "BYTES":
        try:
            return [bytes(text).decode() for text in array.ravel()]
        except UnicodeDecodeError as error:
            raise ExecutionFailed(f"output {spec.name!r} is not UTF-8: {error}") from None
    if spec.dtype.kind == "f" and not np.isfinite(array).all():
        raise ExecutionFailed(f"output {spec.name!r} has NaN or infinity, which JSON cannot carry")
    return np.ascontiguousarray(array).ravel()
