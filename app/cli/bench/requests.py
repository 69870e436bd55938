"""Makes the requests of a plan: arrays for models that only the server knows, encoded.

This is the client's own encoder of the Open Inference Protocol; it shares none with the server.
"""

from __future__ import annotations

import http.client
import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import orjson

from app.cli.bench.plan import Address, BenchError, EncodedRequest, Plan, Settings, Target
from engine.api import DTYPES, Array, Arrays, TensorSpec

TIMEOUT_S: Final = 10.0
"""For each GET before the load."""

LENGTH: Final = 16
"""The default size of a dynamic axis, and the default number of words in a text."""

WORDS: Final = ("a", "batch", "holds", "the", "rows", "of", "several", "requests", "at", "once")

BINARY_ONLY: Final = ("FP16", "BF16")
"""Datatypes for which the protocol has no JSON form."""

_LENGTH: Final = struct.Struct("<I")


def plan(settings: Settings, targets: Sequence[Target], length: int | None) -> Plan:
    """Ask the server for the tensors of the targets' models, and make one request for each.

    Without targets: one row to every model of the server. Values are the model's example in the
    OpenAPI document, repeated to the number of rows; or random values, if there is no example or
    `length` gives the size of dynamic axes and the number of words in texts. Raises `BenchError`.
    """
    server = _Server(settings.url)
    if not targets:
        targets = [Target(name) for name in server.models()]
    rng = np.random.default_rng(settings.seed)
    requests = []
    for target in targets:
        specs = server.inputs(target.model, length or LENGTH)
        example = {} if length else server.example(target.model)
        arrays = {
            spec.name: _repeated(spec, example[spec.name], target.rows)
            if spec.name in example
            else _random(spec, target.rows, length or LENGTH, rng)
            for spec in specs
        }
        requests.append(encode(settings, target, specs, arrays))
    return Plan(settings, tuple(requests))


class _Server:
    """The server's descriptions of its models."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._address = Address.parse(url)

    def models(self) -> list[str]:
        listed = self._get("/v2/models") or {}
        names = [str(name) for name in listed.get("models", [])]
        if not names:
            raise BenchError(f"{self._url} does not list its models; name some with --model")
        return names

    def inputs(self, model: str, length: int) -> list[TensorSpec]:
        metadata = self._get(f"/v2/models/{model}")
        if metadata is None:
            raise BenchError(f"{self._url} does not serve a model {model!r} (now)")
        try:
            return [
                TensorSpec(
                    tensor["name"],
                    tensor["datatype"],
                    tuple(length if size < 0 else size for size in tensor["shape"][1:]),
                )
                for tensor in metadata["inputs"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(f"the inputs of {model!r} are not understood: {error}") from None

    def example(self, model: str) -> Mapping[str, Mapping[str, Any]]:
        """Tensor name -> tensor, from the OpenAPI document; empty without an example."""
        schemas = self._document.get("components", {}).get("schemas", {})
        example = schemas.get(f"{model}.InferRequest", {}).get("example", {})
        return {tensor["name"]: tensor for tensor in example.get("inputs", [])}

    @cached_property
    def _document(self) -> dict[str, Any]:
        return self._get("/openapi.json") or {}

    def _get(self, path: str) -> dict[str, Any] | None:
        """The JSON object at `path`; None if the status is not 200 or the body is no object."""
        address = self._address
        connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path, headers={"Host": address.authority})
            response = connection.getresponse()
            ok = response.status == http.HTTPStatus.OK
            content = orjson.loads(response.read()) if ok else None
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"no response from {self._url}: {error}") from None
        except orjson.JSONDecodeError:
            content = None
        finally:
            connection.close()
        return content if isinstance(content, dict) else None


def _repeated(spec: TensorSpec, tensor: Mapping[str, Any], rows: int) -> Array:
    """The rows of the example's tensor, repeated up to `rows`."""
    try:
        data = tensor["data"]
        values = [text.encode() for text in data] if spec.datatype == "BYTES" else data
        array = np.array(values, spec.dtype).reshape(tensor["shape"])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise BenchError(f"the example of {spec.name!r} is not understood: {error}") from None
    return np.resize(array, (rows, *array.shape[1:]))


def _random(spec: TensorSpec, rows: int, length: int, rng: np.random.Generator) -> Array:
    """Standard normal floats; integers 0 and 1, which are in every vocabulary; words for texts."""
    shape = (rows, *spec.shape)
    if spec.datatype == "BYTES":
        texts = np.empty(shape, object)
        for index in np.ndindex(shape):
            texts[index] = " ".join(rng.choice(WORDS, length)).encode()
        return texts
    dtype = DTYPES[spec.datatype]
    if dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def encode(
    settings: Settings, target: Target, specs: Sequence[TensorSpec], arrays: Arrays
) -> EncodedRequest:
    """The request that carries `arrays`, shaped [rows, ...]. Raises `BenchError`.

    A deadline is sent twice: as the protocol's `parameters.timeout`, in microseconds, and as a
    header for proxies in front of the server.
    """
    parameters: dict[str, Any] = {}
    head = {"Host": Address.parse(settings.url).authority, "User-Agent": "brim-bench"}
    if settings.deadline_ms is not None:
        parameters["timeout"] = max(1, round(settings.deadline_ms * 1e3))
        head["X-Request-Timeout-Ms"] = f"{settings.deadline_ms:g}"
    if settings.binary:
        parameters["binary_data_output"] = True
    tensors = [_tensor(spec, arrays[spec.name], binary=settings.binary) for spec in specs]
    content = {"inputs": [tensor for tensor, _ in tensors]}
    header = _json(content | ({"parameters": parameters} if parameters else {}))
    body = header + b"".join(raw for _, raw in tensors)
    head["Content-Type"] = "application/octet-stream" if settings.binary else "application/json"
    if settings.binary:
        head["Inference-Header-Content-Length"] = str(len(header))
    path = f"/v2/models/{target.model}/infer"
    return EncodedRequest(target, http_message(path, head, body))


def http_message(path: str, head: Mapping[str, str], body: bytes) -> bytes:
    """A POST with these headers and Content-Length."""
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


def _tensor(spec: TensorSpec, array: Array, *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """The tensor's JSON, and the bytes that follow all JSON."""
    tensor = {"name": spec.name, "datatype": spec.datatype, "shape": array.shape}
    if binary:
        raw = _raw(spec, array)
        return tensor | {"parameters": {"binary_data_size": len(raw)}}, raw
    if spec.datatype in BINARY_ONLY:
        raise BenchError(f"{spec.name}: {spec.datatype} has no JSON form; use --binary")
    flat = np.ascontiguousarray(array).ravel()
    data = [text.decode() for text in flat] if spec.datatype == "BYTES" else flat
    return tensor | {"data": data}, b""


def _raw(spec: TensorSpec, array: Array) -> bytes:
    """Row-major, little-endian; an element of BYTES has its length in four bytes before it."""
    if spec.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in array.ravel())
    return array.astype(spec.dtype.newbyteorder("<")).tobytes()


def _json(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
