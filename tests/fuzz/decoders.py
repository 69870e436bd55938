"""A coverage-guided fuzz of the decoders: `make fuzz`, one minute.

Needs atheris, which that target installs into its own environment. Any input must decode to a
request or raise `InvalidRequest`. Anything else is a crash; its input is printed and kept.

The JSON parser is compiled and reports no coverage, so most inputs are built (`requests.py`): valid
requests with none, one or two rules broken. A report at the end counts the decoded requests.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections import Counter

import atheris

with atheris.instrument_imports(include=["app", "engine"]):
    from app.http.codecs import oip, openai
    from app.http.codecs.messages import InferRequest, parse
    from engine.errors import InvalidRequest
    from engine.models.processor import HostProcessor, Prepared, TokenIds
    from engine.models.signature import Signature
    from engine.serving.version import ModelInterface
    from engine.testing import puppet_config

from tests.fuzz.requests import SPECS, Builder

TEXT = SPECS[1]
READER = ModelInterface(
    "1", Signature((TEXT,), SPECS[:1], SPECS[:1], SPECS[:1]),
    HostProcessor(preprocess_ids=lambda rows: Prepared({})),
)  # fmt: skip
CONFIG = puppet_config(token_ids=True)
tried: Counter[str] = Counter()
decoded: Counter[str] = Counter()
valued: Counter[str] = Counter()
"""Decoded requests that had values."""


def note(kind: str, asked: InferRequest) -> None:
    """Count a request that has values."""
    valued[kind] += any(array.size for array in asked.inputs.values())


def embeddings(builder: Builder) -> None:
    """A request for embeddings, sometimes with a wrong field."""
    body = builder.embeddings()
    if builder.yes():
        body[builder.pick(("input", "encoding_format", "dimensions", "model"))] = builder.odd()
    given = body["input"]
    if isinstance(given, list) and builder.yes():
        given.append(builder.odd())
    asked = parse(json.dumps(body).encode(), openai.EmbeddingsRequest)
    decoded = openai.decode(asked, TEXT, READER, CONFIG, max_rows=8)
    valued["embeddings"] += isinstance(decoded, TokenIds) or decoded["b"].size > 0


def infer(builder: Builder) -> None:
    """JSON, and binary tensors after it."""
    body, header = builder.broken().written()
    note("infer", oip.decode(body, header, SPECS, SPECS))


def raw(builder: Builder) -> None:
    """One raw tensor; sometimes for a model with several inputs."""
    spec = builder.pick(SPECS)
    body = builder.raw_body(spec)
    if builder.number(0, 3) == 3:
        body = body[: builder.number(0, len(body))]
    specs = SPECS if builder.number(0, 7) == 1 else (spec,)
    note("raw", oip.decode(body, 0, specs, SPECS))


def anything(builder: Builder) -> None:
    """Arbitrary bytes."""
    header = builder.pick((None, 0, 3, 10))
    note("anything", oip.decode(builder.provider.ConsumeBytes(4096), header, SPECS, SPECS))


KINDS = (infer, infer, infer, infer, raw, embeddings, anything)


def one(data: bytes) -> None:
    """Run one of the decoders on one input."""
    builder = Builder(atheris.FuzzedDataProvider(data))
    decode = builder.pick(KINDS)
    tried[decode.__name__] += 1
    try:
        decode(builder)
    except InvalidRequest:
        return
    decoded[decode.__name__] += 1


@ctypes.CFUNCTYPE(None)
def report() -> None:
    """Print the number of inputs and the share that was decoded."""
    for kind, count in sorted(tried.items()):
        print(
            f"{kind}: {count} inputs, {decoded[kind] / count:.0%} decoded, "
            f"{valued[kind] / count:.0%} with values",
            flush=True,
        )


if __name__ == "__main__":
    # libFuzzer ends the process itself, without Python's atexit
    ctypes.CDLL(None).__cxa_atexit(report, None, None)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
