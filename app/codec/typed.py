"""JSON -> a typed structure, parsed once.

May touch: orjson, msgspec.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import orjson

from engine.errors import InvalidRequest

T = TypeVar("T")

_prepared: set[type] = set()


def prepared(kind: type[T]) -> type[T]:
    """For a structure that `parse` makes: what msgspec must know of it is worked out here, once.

    Left to the first request, it is worked out by several threads at once, and that is a race in
    msgspec: 7 of 40 fresh processes whose first requests came together died of SIGSEGV, and none of
    40 in which the type had been used before.
    """
    msgspec.json.Decoder(kind)
    _prepared.add(kind)
    return kind


def parse(body: bytes | memoryview[Any], kind: type[T]) -> T:
    """Raises `InvalidRequest` naming the field, what came and what was expected."""
    if kind not in _prepared:
        raise AssertionError(f"{kind.__name__} was not prepared; this is a bug")
    try:
        return msgspec.convert(orjson.loads(body), kind)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest("body", f"not JSON: {error}") from None
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise InvalidRequest(path.rstrip("`").lstrip(".") or "body", problem) from None
