"""The Open Inference Protocol's infer request and response: JSON, and binary tensors after it.

A body is JSON alone; or JSON of `header_length` bytes and then the raw tensors in the order of the
JSON; or, with a `header_length` of 0, one input's raw tensor alone. orjson parses and writes;
msgspec checks the structure (`WireRequest`, also the source of the OpenAPI document).

Every optional field may be null. Unknown `parameters` may hold anything and are ignored, since
clients add their own. Parameters that would change the answer and are not supported are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np
import orjson

from app.http.codecs import tensors
from app.http.codecs.messages import Answer, InferRequest, InferResponse, decodable, parse
from app.http.codecs.parameters import (
    BASE64,
    OF_REQUESTS,
    OF_TENSORS,
    Parameters,
    check_supported,
    flag,
    whole_number,
)
from engine.api import (
    LENGTH,
    Array,
    ExecutionFailed,
    InvalidRequest,
    Parameter,
    TensorSpec,
    too_many_rows,
)

BINARY_ONLY: Final = frozenset({"FP16", "BF16"})
"""Datatypes that the protocol allows as binary only."""

Buffer: TypeAlias = "memoryview[Any]"
Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Specs: TypeAlias = Sequence[TensorSpec]


class WireTensor(msgspec.Struct):
    """An input tensor: `data`, nested or flat, row-major; or `parameters.binary_data_size`."""

    name: str
    shape: Annotated[list[Size], msgspec.Meta(max_length=32)]
    datatype: str
    data: list[Any] | None = None
    parameters: Parameters | None = None


class WireOutput(msgspec.Struct):
    """A requested output; `parameters.binary_data` selects its form."""

    name: str
    parameters: Parameters | None = None


@decodable
class WireRequest(msgspec.Struct):
    """The body of an infer request, or its JSON part."""

    inputs: list[WireTensor]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[WireOutput] | None = None


class AnswerTensor(Answer, frozen=True):
    """An output: `data`, flat and row-major; or `parameters.binary_data_size`."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Parameter] | msgspec.UnsetType = msgspec.UNSET


class WireAnswer(Answer, frozen=True):
    """The body of an infer response, or its JSON part."""

    model_name: str
    model_version: str
    outputs: list[AnswerTensor]
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Parameter] | msgspec.UnsetType = msgspec.UNSET


def decode(
    body: bytes,
    header_length: int | None,
    inputs: Specs,
    outputs: Specs,
    max_rows: int | None = None,
) -> InferRequest:
    """Decode a body into arrays, rows first, of the datatypes of the specs.

    `header_length` is None for a body of JSON alone. Raises `InvalidRequest` naming the field, the
    value found and the value expected; for more than `max_rows` rows before any value is decoded.
    Shapes are checked against the data here, and against the model by the engine.
    """
    if header_length == 0:
        return _decode_raw(memoryview(body), inputs, outputs)
    header, binary = _split(memoryview(body), header_length)
    wire = parse(header, WireRequest)
    parameters = wire.parameters or {}
    if parameters:
        check_supported(parameters, OF_REQUESTS)
    if max_rows is not None:
        _check_rows(wire.inputs, max_rows)
    arrays = _arrays(wire.inputs, inputs, binary)
    if binary is not None:
        binary.check_consumed()
    if not parameters and not wire.outputs:
        return InferRequest(arrays, *_every_output(tuple(outputs)), wire.id)
    names, as_binary = _requested(wire, parameters, outputs)
    microseconds = whole_number(parameters, "timeout")
    timeout_s = microseconds / 1e6 if microseconds else None
    priority = whole_number(parameters, "priority")
    return InferRequest(arrays, names, as_binary, wire.id, timeout_s, priority)


def _check_rows(wires: list[WireTensor], max_rows: int) -> None:
    for tensor in wires:
        if tensor.shape and tensor.shape[0] > max_rows:
            raise too_many_rows(tensor.name, tensor.shape[0], max_rows)


def _split(body: Buffer, header_length: int | None) -> tuple[Buffer, _BinaryPart | None]:
    if header_length is None:
        return body, None
    if not 0 <= header_length <= len(body):
        problem = f"{header_length} does not fit, expected 0 to {len(body)}, the length of the body"
        raise InvalidRequest("Inference-Header-Content-Length", problem)
    return body[:header_length], _BinaryPart(body[header_length:])


class _BinaryPart:
    """The bytes after the JSON, consumed in order."""

    def __init__(self, raw: Buffer) -> None:
        self._raw = raw

    def take(self, name: str, size: int) -> Buffer:
        left = len(self._raw)
        if size > left:
            raise InvalidRequest(name, f"binary_data_size is {size}, but {left} bytes are left")
        taken, self._raw = self._raw[:size], self._raw[size:]
        return taken

    def check_consumed(self) -> None:
        if left := len(self._raw):
            raise InvalidRequest("body", f"{left} bytes are left over after the binary tensors")


def _decode_raw(body: Buffer, inputs: Specs, outputs: Specs) -> InferRequest:
    """Decode one row of the model's only input; a BYTES row has the body as its one element."""
    if len(inputs) != 1:
        problem = f"0 means one raw tensor, but the model has {len(inputs)} inputs"
        raise InvalidRequest("Inference-Header-Content-Length", problem)
    (spec,) = inputs
    if spec.datatype == "BYTES":
        array = np.empty((1,) * (1 + len(spec.shape)), object)
        array.flat[0] = bytes(body)
    else:
        array = tensors.decode_binary(spec, _raw_shape(spec, len(body)), body)
    names = tuple(output.name for output in outputs)
    return InferRequest({spec.name: array}, names, frozenset(names))


def _raw_shape(spec: TensorSpec, size: int) -> tuple[int, ...]:
    """Return the shape of one row of `size` bytes, which give the length of a dynamic axis."""
    step = spec.dtype.itemsize * math.prod(axis for axis in spec.shape if axis != LENGTH)
    if LENGTH in spec.shape and size % step:
        problem = f"{size} bytes are no multiple of {step}, one step of the dynamic axis"
        raise InvalidRequest(spec.name, problem)
    return (1, *(size // step if axis == LENGTH else axis for axis in spec.shape))


def _arrays(wires: list[WireTensor], inputs: Specs, binary: _BinaryPart | None) -> dict[str, Array]:
    specs = {spec.name: spec for spec in inputs}
    arrays: dict[str, Array] = {}
    for tensor in wires:
        if tensor.name in arrays:
            raise InvalidRequest(tensor.name, "the tensor is there twice")
        if tensor.name not in specs:
            raise InvalidRequest(tensor.name, f"unexpected tensor; expected {', '.join(specs)}")
        arrays[tensor.name] = _array(tensor, specs[tensor.name], binary)
    return arrays


def _array(tensor: WireTensor, spec: TensorSpec, binary: _BinaryPart | None) -> Array:
    """Decode one tensor.

    Rows of a single value may also come as [n, 1]: Triton's clients know no rows without an axis.
    """
    single = not spec.shape and tensor.shape[1:] == [1]
    if not single and len(tensor.shape) != 1 + len(spec.shape):
        problem = f"shape with {len(tensor.shape)} axes does not fit"
        raise InvalidRequest(tensor.name, f"{problem}, expected {list(spec.wire_shape)}")
    if tensor.datatype != spec.datatype:
        problem = f"datatype {tensor.datatype!r} does not fit, expected {spec.datatype}"
        raise InvalidRequest(tensor.name, problem)
    parameters = tensor.parameters
    if parameters:
        check_supported(parameters, OF_TENSORS, f"{tensor.name}: ")
    if parameters and parameters.get("binary_data_size") is not None:
        array = _binary_values(tensor, spec, parameters, binary)
    else:
        array = _json_values(tensor, spec)
    if parameters and parameters.get("content_type") == BASE64:
        array = tensors.decode_base64(spec, array)
    return array.reshape(-1) if single else array


def _json_values(tensor: WireTensor, spec: TensorSpec) -> Array:
    if tensor.data is None:
        raise InvalidRequest(tensor.name, "no data; expected data, or parameters.binary_data_size")
    if spec.datatype in BINARY_ONLY:
        raise InvalidRequest(tensor.name, f"{spec.datatype} travels as binary only")
    return tensors.decode_json(spec, tensor.shape, tensor.data)


def _binary_values(
    tensor: WireTensor, spec: TensorSpec, parameters: Parameters, binary: _BinaryPart | None
) -> Array:
    if tensor.data is not None:
        raise InvalidRequest(tensor.name, "data and binary_data_size together; expected one")
    if binary is None:
        problem = "binary_data_size without a header Inference-Header-Content-Length"
        raise InvalidRequest(tensor.name, problem)
    size = whole_number(parameters, "binary_data_size", f"{tensor.name}: ")
    return tensors.decode_binary(spec, tensor.shape, binary.take(tensor.name, size))


def _requested(
    wire: WireRequest, parameters: Parameters, specs: Specs
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the requested outputs (all, if none is named), and those requested as binary."""
    all_binary = flag(parameters, "binary_data_output", default=False)
    known = {spec.name: spec for spec in specs}
    names: list[str] = []
    binary: list[str] = []
    for output in wire.outputs or map(WireOutput, known):
        field = f"outputs: {output.name}"
        if output.name not in known:
            raise InvalidRequest(field, f"no such output; expected {', '.join(known)}")
        if output.name in names:
            raise InvalidRequest(field, "the output is named twice")
        names.append(output.name)
        if _as_binary(output.parameters or {}, field, default=all_binary):
            binary.append(output.name)
        elif (datatype := known[output.name].datatype) in BINARY_ONLY:
            raise InvalidRequest(field, f"{datatype} travels as binary only; set binary_data")
    return tuple(names), frozenset(binary)


@lru_cache(maxsize=256)
def _every_output(specs: tuple[TensorSpec, ...]) -> tuple[tuple[str, ...], frozenset[str]]:
    """What most requests ask for: all outputs, as JSON."""
    return _requested(WireRequest([]), {}, specs)


def _as_binary(parameters: Parameters, field: str, *, default: bool) -> bool:
    """Whether an output is requested as binary."""
    check_supported(parameters, OF_TENSORS, f"{field}: ")
    if parameters.get("content_type") == BASE64:
        problem = "outputs are not encoded as base64; set binary_data for raw bytes"
        raise InvalidRequest(f"{field}: parameters.content_type", problem)
    return flag(parameters, "binary_data", default=default)


def encode(
    response: InferResponse, request: InferRequest, specs: Specs
) -> tuple[bytes, int | None]:
    """Return the body, and the length of its JSON part when binary tensors follow it.

    Outputs have the requested order. Raises `ExecutionFailed` for an output that JSON cannot carry.
    """
    outputs, parts = _outputs(response, request, specs)
    header: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id is not None:
        header["id"] = response.id
    if response.parameters:
        header["parameters"] = dict(response.parameters)
    header["outputs"] = outputs
    try:
        encoded = orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise ExecutionFailed(f"the answer does not fit into JSON: {error}") from error
    return (b"".join((encoded, *parts)), len(encoded)) if parts else (encoded, None)


def _outputs(
    response: InferResponse, request: InferRequest, specs: Specs
) -> tuple[list[dict[str, Any]], list[bytes | Buffer]]:
    """Return the JSON of the requested outputs, and the data of those requested as binary."""
    known = {spec.name: spec for spec in specs}
    outputs: list[dict[str, Any]] = []
    parts: list[bytes | Buffer] = []
    for name in request.outputs:
        spec, array = known[name], response.outputs[name]
        output: dict[str, Any] = {"name": name, "datatype": spec.datatype, "shape": array.shape}
        if name in request.binary:
            raw = tensors.encode_binary(spec, array)
            parts.append(raw)
            output["parameters"] = {"binary_data_size": len(raw)}
        else:
            output["data"] = tensors.encode_json(spec, array)
        outputs.append(output)
    return outputs, parts
