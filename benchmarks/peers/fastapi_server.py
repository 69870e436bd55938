"""FastAPI under uvicorn, without batching: what is written first, with an async route."""

from __future__ import annotations

import os

from fastapi import FastAPI, Request, Response
from functions import Compiled, decode, encode

app = FastAPI()
model = Compiled(os.environ["MODEL"])
binary = os.environ["ENCODING"] == "binary"


@app.get("/")
async def alive() -> str:
    return "yes"


@app.post("/inference")
async def infer(request: Request) -> Response:
    row = decode(await request.body())
    return Response(encode(model(row[None])[0], binary), media_type="application/octet-stream")
