"""A coverage-guided fuzz of the decoders: `make fuzz`, one minute.

Needs atheris, which that target installs into an environment of its own. The one rule: whatever
comes in, either a request comes out or `InvalidRequest`. Anything else is a crash, and the input
that made it is printed and kept.

The JSON parser is compiled and shows the fuzzer no coverage, so most inputs are built
(`requests.py`): valid requests, with none, one or two rules broken. How many came out as a request
is said at the end.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections import Counter

import atheris

with atheris.instrument_imports(include=["app", "engine"]):
    from app.codec import InferRequest, oip, openai
    from engine.errors import InvalidRequest

from tests.fuzz.requests import SPECS, Builder

tried: Counter[str] = Counter()
decoded: Counter[str] = Counter()
valued: Counter[str] = Counter()
"""Those of the decoded that had values in them."""


def note(kind: str, asked: InferRequest) -> None:
    """Count a request that has values in it."""
    valued[kind] += any(array.size for array in asked.inputs.values())


def embeddings(builder: Builder) -> None:
    """A request for embeddings, with a field gone wrong now and then."""
    body = builder.embeddings()
    if builder.yes():
        body[builder.pick(("input", "encoding_format", "dimensions", "model"))] = builder.odd()
    given = body["input"]
    if isinstance(given, list) and builder.yes():
        given.append(builder.odd())
    asked = openai.decode(json.dumps(body).encode())
    valued["embeddings"] += openai.sentences(asked, lambda tokens: "x" * len(tokens)).size > 0


def infer(builder: Builder) -> None:
    """JSON, and tensors behind it."""
    body, header = builder.broken().written()
    note("infer", oip.decode(body, header, SPECS, SPECS))


def raw(builder: Builder) -> None:
    """The tensor of one input and nothing else; sometimes for a model that has several."""
    spec = builder.pick(SPECS)
    body = builder.raw_body(spec)
    if builder.number(0, 3) == 3:
        body = body[: builder.number(0, len(body))]
    specs = SPECS if builder.number(0, 7) == 1 else (spec,)
    note("raw", oip.decode(body, 0, specs, SPECS))


def anything(builder: Builder) -> None:
    """Bytes."""
    header = builder.pick((None, 0, 3, 10))
    note("anything", oip.decode(builder.provider.ConsumeBytes(4096), header, SPECS, SPECS))


KINDS = (infer, infer, infer, infer, raw, embeddings, anything)


def one(data: bytes) -> None:
    """One input, through one of the decoders."""
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
    """How many inputs there were, and how many of them came out as a request."""
    for kind, count in sorted(tried.items()):
        print(
            f"{kind}: {count} inputs, {decoded[kind] / count:.0%} decoded, "
            f"{valued[kind] / count:.0%} with values",
            flush=True,
        )


if __name__ == "__main__":
    # libFuzzer ends the process itself and leaves Python's own atexit out
    ctypes.CDLL(None).__cxa_atexit(report, None, None)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
