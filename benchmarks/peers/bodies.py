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

from app.cli.bench import requests
from app.cli.bench.plan import Address, EncodedRequest, Settings, Target
from engine.models.model import Model
from engine.models.tensors import Array

Encoding = Literal["json", "binary"]

HEADER_LENGTH = "inference-header-content-length"


def request(
    path: str | None, settings: Settings, name: str, model: Model, row: Array
) -> EncodedRequest:
    """A request for one row of `x`: to `path`, or in the protocol's way to the protocol's."""
    if path is None:
        return requests.encode(
            settings, Target(name), model.signature.inputs, {"x": row[np.newaxis]}
        )
    if settings.binary:
        kind, body = "application/octet-stream", row.tobytes()
    else:
        kind = "application/json"
        body = orjson.dumps({"x": row}, option=orjson.OPT_SERIALIZE_NUMPY)
    host = Address.parse(settings.url).authority
    head = {"Host": host, "User-Agent": "brim-bench", "Content-Type": kind}
    return EncodedRequest(Target(name), requests.http_message(path, head, body))


def answer(path: str | None, model: Model, head: Mapping[str, str], body: bytes) -> Array:
    """The row `y` of a response. `head` are its headers, in lower case: they say its encoding.

    Raises `ValueError`, `LookupError` or `TypeError` for what is no such answer.
    """
    (spec,) = model.signature.outputs
    dtype = spec.device_dtype
    if head["content-type"].startswith("application/octet-stream"):
        row = np.frombuffer(body[int(head.get(HEADER_LENGTH, 0)) :], dtype)
    else:
        said = orjson.loads(body)
        row = np.asarray(said["y"] if path else said["outputs"][0]["data"], dtype)
    return row.reshape(spec.shape)
