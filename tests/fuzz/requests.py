"""Requests made out of a fuzzer's bytes: valid ones, and ones that break a rule or two.

Whatever the bytes say, a request begins as one that every decoder takes: right names, datatypes,
shapes and values, as JSON or as binary. `Builder.broken` then takes some of that away again. Where
the bytes end there are zeros, and zeros make a whole request: one row of every input.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from app.http.codecs import oip
from engine.models.tensors import LENGTH, TensorSpec

SPECS: Final = (
    TensorSpec("a", "FP32", (2,)),
    TensorSpec("b", "BYTES"),
    TensorSpec("c", "INT64", (LENGTH,)),
    TensorSpec("d", "FP16", (1,)),
    TensorSpec("e", "BOOL"),
    TensorSpec("f", "UINT8", (2, LENGTH)),
)
"""The model's inputs, which are also its outputs."""

ODD: Final[tuple[Any, ...]] = (
    None, True, False, -1, 0, 1, 2, 8, 256, 2**31, 2**62, 2**63, 2**64, 1e308, -0.5, math.nan,
    "", "x", "1", "FP32", "int64", "\ud800", [], [1], [[]], [[1], 2], {}, {"a": 1},
)  # fmt: skip
KEYS: Final = (
    "binary_data_size", "binary_data", "binary_data_output", "timeout", "priority", "sequence_id",
    "sequence_start", "classification", "shared_memory_region", "other",
)  # fmt: skip


class Provider(Protocol):
    """The source of values for a request; atheris implements it."""

    def ConsumeIntInRange(self, low: int, high: int, /) -> int: ...
    def ConsumeBytes(self, count: int, /) -> bytes: ...
    def ConsumeUnicodeNoSurrogates(self, count: int, /) -> str: ...


@dataclass
class Built:
    """An infer request: its JSON, its binary tensors, and the error of its header length."""

    body: dict[str, Any]
    parts: list[bytes] = field(default_factory=list)
    off: int = 0
    cut: int = 0

    def written(self) -> tuple[bytes, int | None]:
        """Return the body, and the length of its JSON if binary tensors follow."""
        text = json.dumps(self.body).encode()
        whole = text + b"".join(self.parts)
        whole = whole[: len(whole) - self.cut]
        return whole, len(text) + self.off if self.parts or self.off else None


class Builder:
    """Builds requests from a provider's values."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return self.provider.ConsumeIntInRange(low, high)

    def yes(self) -> bool:
        """A random boolean."""
        return bool(self.number(0, 1))

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        return choices[self.number(0, len(choices) - 1)]

    def text(self) -> str:
        """A few characters of any script."""
        return self.provider.ConsumeUnicodeNoSurrogates(self.number(0, 6))

    # --- valid requests ---------------------------------------------------------------------------

    def shape(self, spec: TensorSpec, rows: int) -> list[int]:
        """A random number of rows and length."""
        return [rows, *(self.number(1, 3) if size == LENGTH else size for size in spec.shape)]

    def tensor(self, spec: TensorSpec, rows: int) -> tuple[dict[str, Any], bytes | None]:
        """An input that fits its spec, and its bytes if it is binary."""
        shape = self.shape(spec, rows)
        count = math.prod(shape)
        said: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": shape}
        if not spec.shape and self.yes():
            said["shape"] = [rows, 1]
        if spec.datatype in oip.BINARY_ONLY or self.yes():
            raw = self.raw(spec, count)
            return said | {"parameters": {"binary_data_size": len(raw)}}, raw
        values = [self.value(spec) for _ in range(count)]
        return said | {"data": nest(values, shape) if self.yes() else values}, None

    def value(self, spec: TensorSpec) -> Any:
        """A value in JSON."""
        match spec.datatype:
            case "BYTES":
                return self.text()
            case "BOOL":
                return self.yes()
            case "INT64":
                return self.number(-(2**63), 2**63 - 1)
            case "UINT8":
                return self.number(0, 255)
            case _:
                return self.number(-(2**20), 2**20) / 8

    def raw(self, spec: TensorSpec, count: int) -> bytes:
        """A number of values in binary."""
        if spec.datatype == "BYTES":
            texts = [self.text().encode() for _ in range(count)]
            return b"".join(struct.pack("<I", len(text)) + text for text in texts)
        if spec.datatype == "BOOL":
            return bytes(self.number(0, 1) for _ in range(count))
        size = count * spec.dtype.itemsize
        return self.provider.ConsumeBytes(size).ljust(size, b"\0")

    def raw_body(self, spec: TensorSpec) -> bytes:
        """One row of the only input, as raw bytes."""
        if spec.datatype == "BYTES":
            return self.text().encode()
        return self.raw(spec, math.prod(self.shape(spec, 1)))

    def request(self) -> Built:
        """A valid request."""
        rows = self.number(1, 3)
        built = Built({"inputs": []})
        for spec in SPECS:
            if self.number(0, 3) == 3:
                continue
            said, raw = self.tensor(spec, rows)
            built.body["inputs"].append(said)
            built.parts += [] if raw is None else [raw]
        if self.yes():
            built.body["id"] = self.text()
        # FP16 is binary only: requested as binary, or left out
        built.body["parameters"] = {"binary_data_output": True, "timeout": self.number(0, 2**40)}
        if self.yes():
            wanted = [spec.name for spec in SPECS if spec.name != "d" and self.yes()]
            as_binary = {"parameters": {"binary_data": self.yes()}}
            built.body["outputs"] = [{"name": name, **as_binary} for name in wanted]
        return built

    def embeddings(self) -> dict[str, Any]:
        """A request for embeddings, of texts or of tokens."""
        tokens = [self.number(0, 9) for _ in range(self.number(1, 3))]
        given = self.pick(([self.text()], self.text(), tokens, [tokens, tokens]))
        form = self.pick(("float", "base64"))
        return {"model": "m", "input": given, "encoding_format": form}

    # --- broken requests --------------------------------------------------------------------------

    def broken(self) -> Built:
        """A request with none, one or two rules broken."""
        # decided first: a short input has no bytes left after the request is built
        breaks = [self.pick(self._breaks()) for _ in range(self.number(0, 2))]
        built = self.request()
        for each in breaks:
            each(built)
        return built

    def odd(self) -> Any:
        """A value that is usually wrong where it is put."""
        # a copy: the value may be changed further, and the next input needs the original
        return self.text() if self.number(0, 7) == 0 else deepcopy(self.pick(ODD))

    def _breaks(self) -> tuple[Callable[[Built], None], ...]:
        return (
            self._field,
            self._no_field,
            self._size,
            self._value,
            self._parameter,
            self._sequence,
            self._twice,
            self._output,
            self._part,
            self._header,
            self._cut,
        )

    def _place(self, built: Built) -> dict[str, Any]:
        """The request, one of its inputs or one of its outputs."""
        lists = [built.body.get(key) for key in ("inputs", "outputs")]
        inside = [each for part in lists if isinstance(part, list) for each in part]
        places = [built.body, *(each for each in inside if isinstance(each, dict))]
        return dict_of(self.pick(places))

    def _input(self, built: Built) -> dict[str, Any]:
        inputs = built.body.get("inputs")
        return dict_of(self.pick(inputs) if isinstance(inputs, list) and inputs else {})

    def _field(self, built: Built) -> None:
        place = self._place(built)
        place[self.pick([*place, "data", "id", "outputs"])] = self.odd()

    def _no_field(self, built: Built) -> None:
        place = self._place(built)
        if place:
            del place[self.pick(list(place))]

    def _size(self, built: Built) -> None:
        shape = self._input(built).get("shape")
        if isinstance(shape, list) and shape:
            shape[self.number(0, len(shape) - 1)] = self.odd()
        elif isinstance(shape, list):
            shape.append(self.odd())

    def _value(self, built: Built) -> None:
        data = self._input(built).get("data")
        while isinstance(data, list) and data and isinstance(data[0], list) and self.yes():
            data = self.pick(data)
        if not isinstance(data, list) or not data:
            return
        at = self.number(0, len(data) - 1)
        if self.yes():
            data[at] = self.odd()
        elif self.yes():
            del data[at]
        else:
            data.insert(at, data[at])

    def _parameter(self, built: Built) -> None:
        place = self._place(built).setdefault("parameters", {})
        if isinstance(place, dict):
            place[self.pick(KEYS)] = self.odd()

    def _sequence(self, built: Built) -> None:
        parameters = built.body.setdefault("parameters", {})
        if isinstance(parameters, dict):
            parameters["sequence_id"] = self.pick((0, "", 7, "seven", self.odd()))

    def _twice(self, built: Built) -> None:
        listed = built.body.get(self.pick(("inputs", "outputs")))
        if isinstance(listed, list) and listed:
            listed.append(self.pick(listed))

    def _output(self, built: Built) -> None:
        outputs = built.body.setdefault("outputs", [])
        if isinstance(outputs, list):
            outputs.append({"name": self.pick(("a", "d", "unknown"))})

    def _part(self, built: Built) -> None:
        if not built.parts:
            built.parts.append(self.provider.ConsumeBytes(4))
            return
        at = self.number(0, len(built.parts) - 1)
        part = bytearray(built.parts[at])
        if part and self.yes():
            part[self.number(0, len(part) - 1)] = self.number(0, 255)
        else:
            part = part[:-1] if self.yes() else part + b"\0"
        built.parts[at] = bytes(part)

    def _header(self, built: Built) -> None:
        built.off = self.pick((-1, 1, 2, 1000, -1000))

    def _cut(self, built: Built) -> None:
        built.cut = self.number(0, 40)


def dict_of(place: Any) -> dict[str, Any]:
    """Return the element, or a detached one if there is none."""
    return place if isinstance(place, dict) else {}


def nest(flat: list[Any], shape: list[int]) -> list[Any]:
    """A flat list as nested lists of this shape."""
    for size in reversed(shape[1:]):
        flat = [flat[at : at + size] for at in range(0, len(flat), size)]
    return flat
