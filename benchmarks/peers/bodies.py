"""One row as the bytes of a request, and an answer's bytes as a row: in the words of each server.

Brim and Triton speak the Open Inference Protocol, both ways as JSON or with a binary tensor. The
others have no protocol: their JSON is `{"x": [...]}` -> `{"y": [...]}`, and their binary body is
the row itself, little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import orjson

from app.bench import shots
from app.bench.plan import Address, Settings, Shot, Target
from engine.model import Model
from engine.spec import Array

Encoding = Literal["json", "binary"]

HEADER_LENGTH = "inference-header-content-length"


def request(path: str | None, settings: Settings, name: str, model: Model, row: Array) -> Shot:
    """A request for one row of `x`: to `path`, or in the protocol's way to the protocol's."""
    if path is None:
        return shots.make(settings, Target(name), model.inputs, {"x": row[np.newaxis]})
    if settings.binary:
        kind, body = "application/octet-stream", row.tobytes()
    else:
        kind = "application/json"
        body = orjson.dumps({"x": row}, option=orjson.OPT_SERIALIZE_NUMPY)
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {Address.parse(settings.url).authority}",
        "User-Agent: brim-bench",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
    ]
    return Shot(Target(name), "\r\n".join((*lines, "", "")).encode() + body)


def answer(path: str | None, model: Model, head: Mapping[str, str], body: bytes) -> Array:
    """The row `y` of a response. `head` are its headers, in lower case: they say its encoding.

    Raises `ValueError`, `LookupError` or `TypeError` for what is no such answer.
    """
    (spec,) = model.outputs
    dtype = spec.device_dtype
    if head["content-type"].startswith("application/octet-stream"):
        row = np.frombuffer(body[int(head.get(HEADER_LENGTH, 0)) :], dtype)
    else:
        said = orjson.loads(body)
        row = np.asarray(said["y"] if path else said["outputs"][0]["data"], dtype)
    return row.reshape(spec.shape)
