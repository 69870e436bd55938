"""The Open Inference Protocol's infer request and response: JSON, and binary tensors after it.

May touch: orjson, msgspec, numpy.

A body is JSON alone; or JSON of `header_length` bytes and then the raw tensors, in the order of the
JSON (`oip_binary.py`); or, with a `header_length` of 0, one input's raw tensor and nothing else.
orjson parses and writes, msgspec checks the structure (`WireRequest`, of which the OpenAPI document
is made), `oip_json.py` the numbers, `oip_parameters.py` what is asked beside the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import orjson

from app.answer import Answer
from app.codec import InferRequest, InferResponse, oip_binary, oip_json
from app.codec.oip_parameters import (
    Parameters,
    check_no_sequence,
    check_tensor,
    flag,
    timeout,
    whole_number,
)
from app.codec.typed import parse, prepared
from engine.errors import ExecutionFailed, InvalidRequest
from engine.spec import LENGTH, Array, TensorSpec

BINARY_ONLY: Final = frozenset({"FP16", "BF16"})
"""Datatypes that the protocol lets travel as binary only."""

MAX_AXES: Final = 32

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class WireTensor(msgspec.Struct):
    """An input tensor: `data`, nested or flat, row-major; or `parameters.binary_data_size`."""

    name: str
    shape: Annotated[list[Size], msgspec.Meta(max_length=MAX_AXES)]
    datatype: str
    data: list[Any] | None = None
    parameters: Parameters = {}


class WireOutput(msgspec.Struct):
    """An output that the client wants; `parameters.binary_data` says in which form."""

    name: str
    parameters: Parameters = {}


@prepared
class WireRequest(msgspec.Struct):
    """The body of an infer request, or its JSON part."""

    inputs: list[WireTensor]
    id: str | None = None
    parameters: Parameters = {}
    outputs: list[WireOutput] | None = None


class AnswerTensor(Answer, frozen=True):
    """An output: `data`, flat and row-major; or `parameters.binary_data_size`."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


class WireAnswer(Answer, frozen=True):
    """What `encode` writes, or its JSON part."""

    model_name: str
    model_version: str
    outputs: list[AnswerTensor]
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


def decode(
    body: bytes,
    header_length: int | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> InferRequest:
    """Turn a body into arrays, rows first, of the datatypes that the specs name.

    `header_length` is None for a body of JSON alone. Raises `InvalidRequest` naming the field, what
    came and what was expected. Shapes are checked against the data here, and against the model by
    the engine.
    """
    if header_length == 0:
        return _raw(memoryview(body), inputs, outputs)
    end = len(body) if header_length is None else header_length
    if not 0 <= end <= len(body):
        raise InvalidRequest(
            "Inference-Header-Content-Length",
            f"{end} does not fit, expected 0 to {len(body)}, the length of the body",
        )
    wire = _parse(memoryview(body)[:end])
    rest = None if header_length is None else _Rest(memoryview(body)[end:])
    specs = {spec.name: spec for spec in inputs}
    arrays: dict[str, Array] = {}
    for tensor in wire.inputs:
        if tensor.name in arrays:
            raise InvalidRequest(tensor.name, "the tensor is there twice")
        if tensor.name not in specs:
            raise InvalidRequest(tensor.name, f"unexpected tensor; expected {', '.join(specs)}")
        arrays[tensor.name] = _array(tensor, specs[tensor.name], rest)
    if rest is not None:
        rest.check_empty()
    names, binary = _wanted(wire, outputs)
    return InferRequest(
        arrays,
        names,
        binary,
        wire.id,
        timeout(wire.parameters),
        whole_number(wire.parameters, "priority"),
    )


def _parse(part: memoryview[Any]) -> WireRequest:
    wire = parse(part, WireRequest)
    check_no_sequence(wire.parameters)
    return wire


class _Rest:
    """The bytes after the JSON, handed out in order."""

    def __init__(self, raw: memoryview[Any]) -> None:
        self._raw = raw
        self._at = 0

    def take(self, name: str, size: int) -> memoryview[Any]:
        left = len(self._raw) - self._at
        if size > left:
            raise InvalidRequest(name, f"binary_data_size is {size}, but {left} bytes are left")
        self._at += size
        return self._raw[self._at - size : self._at]

    def check_empty(self) -> None:
        left = len(self._raw) - self._at
        if left:
            raise InvalidRequest("body", f"{left} bytes are left over after the binary tensors")


def _raw(
    body: memoryview[Any], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """A raw request: one row of the one input. BYTES are the body itself, one element."""
    if len(inputs) != 1:
        raise InvalidRequest(
            "Inference-Header-Content-Length",
            f"0 means one raw tensor, but the model has {len(inputs)} inputs",
        )
    (spec,) = inputs
    names = tuple(output.name for output in outputs)
    if spec.datatype == "BYTES":
        array = np.empty((1, *(1 for _ in spec.shape)), object)
        array.flat[0] = bytes(body)
        return InferRequest({spec.name: array}, names, frozenset(names))
    fixed = spec.dtype.itemsize
    for size in spec.shape:
        fixed *= 1 if size == LENGTH else size
    if LENGTH in spec.shape and len(body) % fixed:
        problem = f"{len(body)} bytes are no multiple of {fixed}, one step of the dynamic axis"
        raise InvalidRequest(spec.name, problem)
    shape = (1, *(len(body) // fixed if size == LENGTH else size for size in spec.shape))
    return InferRequest({spec.name: oip_binary.decode(spec, shape, body)}, names, frozenset(names))


def _array(tensor: WireTensor, spec: TensorSpec, rest: _Rest | None) -> Array:
    """One tensor, from wherever its values are.

    A row that is one value may come as [n, 1], too: Triton's clients know no row without an axis.
    """
    if not spec.shape and tensor.shape[1:] == [1]:
        return _values(tensor, spec, rest).reshape(-1)
    if len(tensor.shape) != 1 + len(spec.shape):
        raise InvalidRequest(
            tensor.name,
            f"shape with {len(tensor.shape)} axes does not fit, expected {list(spec.wire_shape)}",
        )
    return _values(tensor, spec, rest)


def _values(tensor: WireTensor, spec: TensorSpec, rest: _Rest | None) -> Array:
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            tensor.name, f"datatype {tensor.datatype!r} does not fit, expected {spec.datatype}"
        )
    check_tensor(tensor.parameters, tensor.name)
    if "binary_data_size" not in tensor.parameters:
        if tensor.data is None:
            raise InvalidRequest(
                tensor.name, "no data; expected data, or parameters.binary_data_size"
            )
        if spec.datatype in BINARY_ONLY:
            raise InvalidRequest(tensor.name, f"{spec.datatype} travels as binary only")
        return oip_json.decode(spec, tensor.shape, tensor.data)
    if tensor.data is not None:
        raise InvalidRequest(tensor.name, "data and binary_data_size together; expected one")
    if rest is None:
        raise InvalidRequest(
            tensor.name, "binary_data_size without a header Inference-Header-Content-Length"
        )
    size = whole_number(tensor.parameters, "binary_data_size", tensor.name)
    return oip_binary.decode(spec, tensor.shape, rest.take(tensor.name, size))


def _wanted(
    wire: WireRequest, specs: Sequence[TensorSpec]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Which outputs, and which of them as binary. None named means all."""
    all_binary = flag(wire.parameters, "binary_data_output", default=False)
    if not wire.outputs:
        for spec in specs:
            _check_form(spec, as_binary=all_binary)
        names = [spec.name for spec in specs]
        return tuple(names), frozenset(names if all_binary else ())
    known = {spec.name: spec for spec in specs}
    names, binary = [], set()
    for output in wire.outputs:
        field = f"outputs: {output.name}"
        if output.name not in known:
            raise InvalidRequest(field, f"no such output; expected {', '.join(known)}")
        if output.name in names:
            raise InvalidRequest(field, "the output is named twice")
        names.append(output.name)
        check_tensor(output.parameters, field)
        as_binary = flag(output.parameters, "binary_data", default=all_binary)
        _check_form(known[output.name], as_binary=as_binary)
        if as_binary:
            binary.add(output.name)
    return tuple(names), frozenset(binary)


def _check_form(spec: TensorSpec, *, as_binary: bool) -> None:
    if spec.datatype in BINARY_ONLY and not as_binary:
        problem = f"{spec.datatype} travels as binary only; set binary_data"
        raise InvalidRequest(f"outputs: {spec.name}", problem)


def encode(
    response: InferResponse, asked: InferRequest, specs: Sequence[TensorSpec]
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part when binary tensors follow it.

    Outputs stand in the order in which they were asked for. Raises `ExecutionFailed` for an output
    that JSON cannot carry.
    """
    known = {spec.name: spec for spec in specs}
    outputs: list[dict[str, Any]] = []
    parts: list[bytes | memoryview[Any]] = []
    for name in asked.outputs:
        spec, array = known[name], response.outputs[name]
        said: dict[str, Any] = {
            "name": name,
            "datatype": spec.datatype,
            "shape": array.shape,
        }
        if name in asked.binary:
            raw = oip_binary.encode(spec, array)
            parts.append(raw)
            said["parameters"] = {"binary_data_size": len(raw)}
        else:
            said["data"] = oip_json.encode(spec, array)
        outputs.append(said)
    header: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id is not None:
        header["id"] = response.id
    if response.parameters:
        header["parameters"] = dict(response.parameters)
    header["outputs"] = outputs
    try:
        written = orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise ExecutionFailed(f"the answer does not fit into JSON: {error}") from error
    if not parts:
        return written, None
    return b"".join((written, *parts)), len(written)
