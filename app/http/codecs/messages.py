"""The structs that bodies are decoded into and encoded from, and the parser of JSON bodies.

msgspec creates a struct in a fifth of the time of a frozen dataclass.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
import orjson
from typing_extensions import override

from engine.api import Arrays, InvalidRequest, Parameter

T = TypeVar("T")

LARGE: Final = 64 * 1024
"""Bytes of JSON, which take about a millisecond to parse."""

_alone = threading.Lock()
_decodable: set[type] = set()


class InferRequest(msgspec.Struct, frozen=True):
    """A decoded request, whatever its wire format.

    `outputs` are the requested names, in the requested order; `binary` are those to send as binary.
    `timeout_s` None means the model's own timeout; `priority` 1 is the highest, 0 the default.
    """

    inputs: Arrays
    outputs: tuple[str, ...]
    binary: frozenset[str] = frozenset()
    id: str | None = None
    timeout_s: float | None = None
    priority: int = 0


class InferResponse(msgspec.Struct, frozen=True):
    """A response to encode."""

    model: str
    version: str
    outputs: Arrays
    id: str | None = None
    parameters: Mapping[str, Parameter] = {}


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON response, written and documented as this type. A field that is UNSET is left out.

    A field has no other default: the document would show it as optional.
    """


class Verdict(Answer, frozen=True):
    """What a probe is told: the status is 503 where it does not hold."""

    @property
    def holds(self) -> bool:
        """Whether the status is 200."""
        raise NotImplementedError


class Readiness(Verdict, frozen=True):
    """Whether traffic may come."""

    ready: bool

    @property
    @override
    def holds(self) -> bool:
        return self.ready


def decodable(kind: type[T]) -> type[T]:
    """Class decorator for the structs that `parse` makes: builds msgspec's type information now.

    Left to the first request, several threads build it at once, which is a race in msgspec: 7 of 40
    fresh processes whose first requests came together died of SIGSEGV, and none of 40 in which the
    type had been used before.
    """
    msgspec.json.Decoder(kind)
    _decodable.add(kind)
    return kind


def decodable_types() -> frozenset[type]:
    """The structs that `parse` makes."""
    return frozenset(_decodable)


def parse(body: bytes | memoryview[Any], kind: type[T]) -> T:
    """Parse a JSON body. Raises `InvalidRequest` naming the field and what was expected."""
    if kind not in _decodable:
        raise AssertionError(f"{kind.__name__} is not @decodable; this is a bug")
    try:
        return _loads(body, kind) if len(body) <= LARGE else _loads_alone(body, kind)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest("body", f"not JSON: {error}") from None
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".")
        raise InvalidRequest(field or "body", f"{problem}{_allowed(kind, field)}") from None


def _allowed(kind: type[Any], name: str) -> str:
    """The values of a field that takes a few only; msgspec names just the one that came."""
    for field in msgspec.structs.fields(kind):
        kinds = get_args(field.type) or (field.type,)
        values = [
            value for each in kinds if get_origin(each) is Literal for value in get_args(each)
        ]
        if field.encode_name == name and values:
            return f", expected {', '.join(map(str, values))} or null"
    return ""


def _loads(body: bytes | memoryview[Any], kind: type[T]) -> T:
    return msgspec.convert(orjson.loads(body), kind)


def _loads_alone(body: bytes | memoryview[Any], kind: type[T]) -> T:
    """Parse a large body while no other one is parsed, and without garbage collections.

    orjson holds the GIL, so two at a time would end no earlier, and would hold the objects of both:
    up to 24 bytes per byte. The collector looks at every new list again and again: 4 MiB of empty
    lists took 415 ms with it, and 167 ms without.
    """
    with _alone:
        collects = gc.isenabled()
        gc.disable()
        try:
            return _loads(body, kind)
        finally:
            if collects:
                gc.enable()
