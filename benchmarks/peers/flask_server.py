"""Flask under gunicorn's gthread, without batching: what is written first."""

from __future__ import annotations

import os

from flask import Flask, Response, request
from functions import Compiled, decode, encode

app = Flask("plain")
model = Compiled(os.environ["MODEL"])
binary = os.environ["ENCODING"] == "binary"


@app.get("/")
def alive() -> str:
    return "yes"


@app.post("/inference")
def infer() -> Response:
    row = decode(request.get_data())
    return Response(encode(model(row[None])[0], binary), content_type="application/octet-stream")
