"""Arrays -> the bytes of one infer request, head and body, as JSON or with binary tensors.

May touch: numpy, orjson. The encoders are the server's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from app.bench.plan import Address, BenchError, Settings, Shot, Target
from app.codec import oip, oip_binary, oip_json
from engine.spec import Arrays, TensorSpec


def make(settings: Settings, target: Target, specs: Sequence[TensorSpec], arrays: Arrays) -> Shot:
    """The request that carries `arrays`, which have rows first. Raises `BenchError`.

    A deadline goes along twice: as the protocol's `parameters.timeout`, in microseconds, and as a
    header for whatever stands before the server.
    """
    parameters: dict[str, Any] = {}
    head = {"Host": Address.parse(settings.url).authority, "User-Agent": "brim-bench"}
    if settings.deadline_ms is not None:
        parameters["timeout"] = max(1, round(settings.deadline_ms * 1e3))
        head["X-Request-Timeout-Ms"] = f"{settings.deadline_ms:g}"
    parts: list[bytes | memoryview[Any]] = []
    if settings.binary:
        parts = [oip_binary.encode(spec, arrays[spec.name]) for spec in specs]
        parameters["binary_data_output"] = True
        inputs = [
            _tensor(spec, arrays) | {"parameters": {"binary_data_size": len(part)}}
            for spec, part in zip(specs, parts, strict=True)
        ]
    else:
        inputs = [_with_data(spec, arrays) for spec in specs]
    said = {"inputs": inputs} | ({"parameters": parameters} if parameters else {})
    header = orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)
    body = b"".join((header, *parts))
    head["Content-Type"] = "application/octet-stream" if settings.binary else "application/json"
    if settings.binary:
        head["Inference-Header-Content-Length"] = str(len(header))
    head["Content-Length"] = str(len(body))
    lines = [f"POST /v2/models/{target.model}/infer HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in head.items()]
    return Shot(target, "\r\n".join((*lines, "", "")).encode() + body)


def _tensor(spec: TensorSpec, arrays: Arrays) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": arrays[spec.name].shape}


def _with_data(spec: TensorSpec, arrays: Arrays) -> dict[str, Any]:
    if spec.datatype in oip.BINARY_ONLY:
        raise BenchError(f"{spec.name}: {spec.datatype} travels as binary only; use --binary")
    return _tensor(spec, arrays) | {"data": oip_json.encode(spec, arrays[spec.name])}
