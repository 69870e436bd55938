"""Plain Flask, under gunicorn's gthread worker: a request is a batch of one."""

from __future__ import annotations

import os

import numpy as np
from flask import Flask, Response, jsonify, request

from benchmarks.peers.functions import Function

function = Function(os.environ["PEER_MODEL"], buckets=(1,))
app = Flask("peer", static_folder=None)


@app.post("/predict")
def predict() -> Response:
    """JSON."""
    x = np.asarray(request.get_json()["x"], function.dtype)
    return jsonify(y=function(x[np.newaxis])[0].tolist())


@app.post("/binary")
def binary() -> Response:
    """Bytes."""
    x = np.frombuffer(request.get_data(cache=False), function.dtype)
    y = function(x[np.newaxis])[0]
    return Response(y.tobytes(), content_type="application/octet-stream")
