"""Plain FastAPI, under uvicorn: a request is a batch of one, and runs on FastAPI's threads."""

from __future__ import annotations

import os

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from benchmarks.peers.functions import Function

function = Function(os.environ["PEER_MODEL"], buckets=(1,))
app = FastAPI()


class Row(BaseModel):
    """What comes in."""

    x: list[float]


class Answer(BaseModel):
    """What goes out."""

    y: list[float]


@app.post("/predict")
def predict(row: Row) -> Answer:
    """JSON."""
    x = np.asarray(row.x, function.dtype)
    return Answer(y=function(x[np.newaxis])[0].tolist())


@app.post("/binary")
async def binary(request: Request) -> Response:
    """Bytes."""
    x = np.frombuffer(await request.body(), function.dtype)
    y = await run_in_threadpool(function, x[np.newaxis])
    return Response(y[0].tobytes(), media_type="application/octet-stream")
