"""The floor: a Flask route that parses the same request and sends an equal answer, no engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from flask import Flask, Response, request

from app.worker.suspension import Place


class Floor(Flask):
    """A Flask app whose requests may all run on the event loop's thread."""

    def place(self, _environ: Mapping[str, Any]) -> Place:
        """Called by Brim's worker: every request runs on the event loop's thread."""
        return Place("bare", inline=True)


app = Floor("floor", static_folder=None)


@app.get("/ready")
def ready() -> str:
    """Ready at once."""
    return "yes"


@app.post("/v2/models/<name>/infer")
def infer(name: str) -> Response:
    """Parse, compute with numpy, and encode at most 16 numbers of the first tensor."""
    body = request.get_data(cache=False)
    length = int(request.headers.get("Inference-Header-Content-Length", len(body)))
    (tensor,) = orjson.loads(body[:length])["inputs"]
    if length < len(body):
        x = np.frombuffer(body, np.float32, offset=length)
    else:
        x = np.asarray(tensor["data"], np.float32)
    y = x[:16] * 2 + np.float32(0.1)
    output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": [1, len(y)]}
    answer = {"model_name": name, "model_version": "1", "outputs": [output]}
    if length < len(body):
        output["parameters"] = {"binary_data_size": y.nbytes}
        header = orjson.dumps(answer)
        response = Response(header + y.tobytes(), content_type="application/octet-stream")
        response.headers["Inference-Header-Content-Length"] = str(len(header))
        return response
    output["data"] = y
    content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, content_type="application/json")
