"""The floor: Flask, a route that parses the same JSON and answers as much, and no engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from flask import Flask, Response, request


class Floor(Flask):
    """A Flask app, all of whose requests may run on the thread that serves the others."""

    def quick(self, _environ: Mapping[str, Any]) -> bool:
        """What Brim's worker asks."""
        return True


app = Floor("floor", static_folder=None)


@app.post("/v2/models/<name>/infer")
def infer(name: str) -> Response:
    """Parse, compute with numpy, write."""
    (tensor,) = orjson.loads(request.get_data(cache=False))["inputs"]
    y = np.asarray(tensor["data"], np.float32) * 2 + np.float32(0.1)
    output = {"name": "y", "datatype": "FP32", "shape": tensor["shape"], "data": y}
    answer = {"model_name": name, "model_version": "1", "outputs": [output]}
    content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, content_type="application/json")
