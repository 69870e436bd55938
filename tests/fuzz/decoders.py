"""A coverage-guided fuzz of the decoders: `make fuzz`, one minute.

Needs atheris, which that target installs. The one rule: whatever comes in, either a request comes
out or `InvalidRequest`. Anything else is a crash, and the input that made it is printed and kept.

The JSON parser is compiled and shows the fuzzer no coverage, so most inputs are built: the bytes
decide which fields there are, with which values, right and wrong ones, and where it is cut off.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["app", "engine"]):
    from app.codec import oip, openai
    from engine.errors import InvalidRequest
    from engine.spec import LENGTH, TensorSpec

SPECS = (
    TensorSpec("a", "FP32", (2,)),
    TensorSpec("b", "BYTES"),
    TensorSpec("c", "INT64", (LENGTH,)),
    TensorSpec("d", "FP16", (1,)),
    TensorSpec("e", "BOOL"),
)
NAMES = ("a", "b", "c", "d", "e", "nobody")
DATATYPES = ("FP32", "BYTES", "INT64", "FP16", "BOOL", "INT8", "fp32")
ODD = (None, True, -1, 0, 1, 2, 8, 2**31, 2**63, 2**64, 1e308, -0.5, "", "x", "\ud7ff", [], [1], {})
KEYS = ("binary_data_size", "binary_data", "binary_data_output", "timeout", "priority", "other")


class Builder:
    """Makes a request out of bytes."""

    def __init__(self, data: bytes) -> None:
        self.provider = atheris.FuzzedDataProvider(data)

    def pick(self, choices: tuple[Any, ...]) -> Any:
        """One of them."""
        return choices[self.provider.ConsumeIntInRange(0, len(choices) - 1)]

    def some(self, most: int) -> range:
        """So many times."""
        return range(self.provider.ConsumeIntInRange(0, most))

    def value(self) -> Any:
        """A number or a text, or something odd."""
        kind = self.provider.ConsumeIntInRange(0, 4)
        if kind == 0:
            return self.provider.ConsumeInt(8)
        if kind == 1:
            return self.provider.ConsumeRegularFloat()
        if kind == 2:
            return self.provider.ConsumeUnicodeNoSurrogates(6)
        return self.pick(ODD)

    def values(self) -> list[Any]:
        """A list of values, sometimes nested."""
        if self.provider.ConsumeBool():
            return [self.values() for _ in self.some(3)] if self.provider.ConsumeBool() else []
        one = self.value()
        return [one if self.provider.ConsumeBool() else self.value() for _ in self.some(4)]

    def parameters(self) -> dict[str, Any]:
        """Some of those that mean something, with right and wrong values."""
        return {self.pick(KEYS): self.value() for _ in self.some(2)}

    def tensor(self) -> dict[str, Any]:
        """An input, with most of its fields."""
        tensor = {
            "name": self.pick(NAMES),
            "datatype": self.pick(DATATYPES),
            "shape": [self.pick((1, 1, 2, 2, 0, 4, -1, 2**62, "1")) for _ in self.some(4)],
        }
        if self.provider.ConsumeBool():
            tensor["data"] = self.values()
        if self.provider.ConsumeBool():
            tensor["parameters"] = self.parameters()
        return tensor

    def request(self) -> dict[str, Any]:
        """The whole of one."""
        body: dict[str, Any] = {"inputs": [self.tensor() for _ in self.some(3)]}
        if self.provider.ConsumeBool():
            body["outputs"] = [
                {"name": self.pick(NAMES), "parameters": self.parameters()} for _ in self.some(3)
            ]
        if self.provider.ConsumeBool():
            body["parameters"] = self.parameters()
        if self.provider.ConsumeBool():
            body[self.pick(("id", "inputs", "outputs", "parameters"))] = self.value()
        return body

    def embeddings(self) -> dict[str, Any]:
        """A request for embeddings."""
        body = {
            "model": "m",
            "input": self.values() if self.provider.ConsumeBool() else self.value(),
        }
        if self.provider.ConsumeBool():
            body[self.pick(("encoding_format", "dimensions", "model"))] = self.value()
        return body


def one(data: bytes) -> None:
    """One input, through one of the decoders."""
    builder = Builder(data)
    which = builder.provider.ConsumeIntInRange(0, 4)
    with contextlib.suppress(InvalidRequest):
        if which == 0:
            text = json.dumps(builder.embeddings()).encode()
            openai.sentences(openai.decode(text), lambda tokens: "x" * len(tokens))
        elif which == 1:
            spec = builder.pick(SPECS)
            oip.decode(builder.provider.ConsumeBytes(64), 0, (spec,), SPECS)
        elif which == 2:
            oip.decode(json.dumps(builder.request()).encode(), None, SPECS, SPECS)
        elif which == 3:
            header = json.dumps(builder.request()).encode()
            off = builder.pick((0, 0, 0, 0, -1, 1, 1000))
            raw = builder.provider.ConsumeBytes(64)
            oip.decode(header + raw, len(header) + off, SPECS, SPECS)
        else:
            body = builder.provider.ConsumeBytes(4096)
            oip.decode(body, builder.pick((None, 0, 3, 10)), SPECS, SPECS)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
