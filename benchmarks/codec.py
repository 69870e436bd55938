"""Measures decoding and encoding against the standard library's `json`, and compares parsers.

    python -m benchmarks.codec

First the parsers alone on request bodies of 1x16, 1x784 and 32x784 floats: the standard library,
orjson, msgspec into the typed structures, and orjson followed by msgspec's conversion, which is
what Brim uses. Then Brim's whole codec on a row of 784 floats, in and out, JSON and binary. Best of
several repeats, in microseconds.
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
import orjson

from app.http.codecs import oip
from app.http.codecs.messages import InferRequest, InferResponse
from engine.models.tensors import TensorSpec

REPEATS = 7


def microseconds(call: Callable[[], object], size: int) -> float:
    """The best time of one call, in microseconds; `size` is roughly how many numbers it handles."""
    number = max(5, 200_000 // size)
    return min(timeit.repeat(call, number=number, repeat=REPEATS)) / number * 1e6


def json_body(values: np.ndarray, digits: int) -> bytes:
    """An inference request as a client writes it, with `digits` digits per number."""
    data = [float(f"{value:.{digits}g}") for value in values.ravel()]
    tensor = {"name": "x", "datatype": "FP32", "shape": list(values.shape), "data": data}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def binary_body(values: np.ndarray) -> tuple[bytes, int]:
    """The same with binary numbers: the body, and the length of its JSON."""
    raw = values.astype("<f4").tobytes()
    header = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": list(values.shape),
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    return header + raw, len(header)


def parsers() -> None:
    """Compare the parsers on three sizes, with the digits of a float32 and of a float64."""
    typed = msgspec.json.Decoder(oip.WireRequest)

    def convert(body: bytes) -> object:
        return msgspec.convert(orjson.loads(body), oip.WireRequest)

    candidates: tuple[Callable[[bytes], object], ...] = (
        json.loads,
        orjson.loads,
        typed.decode,
        convert,
    )
    print("| floats | digits | body KB | json | orjson | msgspec, typed | orjson, then typed |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    rng = np.random.default_rng(0)
    for shape in ((1, 16), (1, 784), (32, 784)):
        values = rng.random(shape, np.float32)
        for digits in (7, 16):
            body = json_body(values, digits)
            times = [microseconds(partial(parse, body), values.size) for parse in candidates]
            cells = " | ".join(f"{t:.1f}" for t in times)
            print(f"| {shape[0]}x{shape[1]} | {digits} | {len(body) / 1e3:.1f} | {cells} |")


def codec() -> None:
    """Measure Brim's codec on one row of 784 floats."""
    specs = (TensorSpec("x", "FP32", (784,)),)
    values = np.random.default_rng(0).random((1, 784), np.float32)
    text = json_body(values, 16)
    raw, header_length = binary_body(values)
    answer = InferResponse("m", "1", {"x": values})
    in_json = InferRequest({}, ("x",))
    in_binary = InferRequest({}, ("x",), frozenset({"x"}))
    listed = {"data": values.ravel().tolist()}
    size = values.size
    rows = (
        ("in, json.loads alone (the floor of plain Python)", lambda: json.loads(text)),
        ("in, JSON", lambda: oip.decode(text, None, specs, specs)),
        ("in, binary", lambda: oip.decode(raw, header_length, specs, specs)),
        ("in, raw", lambda: oip.decode(values.tobytes(), 0, specs, specs)),
        ("out, json.dumps of a list alone", lambda: json.dumps(listed)),
        ("out, JSON", lambda: oip.encode(answer, in_json, specs)),
        ("out, binary", lambda: oip.encode(answer, in_binary, specs)),
    )
    print("\n| 1x784 floats | us | of plain json |\n|---|--:|--:|")
    floors = {"in": 0.0, "out": 0.0}
    for name, call in rows:
        spent = microseconds(call, size)
        way = name.split(",")[0]
        floors[way] = floors[way] or spent
        print(f"| {name} | {spent:.1f} | {spent / floors[way]:.2f} |")


if __name__ == "__main__":
    parsers()
    codec()
