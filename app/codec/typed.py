"""JSON -> a typed structure, parsed once.

May touch: orjson, msgspec.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import orjson

from engine.errors import InvalidRequest

T = TypeVar("T")


def parse(body: bytes | memoryview[Any], kind: type[T]) -> T:
    """Raises `InvalidRequest` naming the field, what came and what was expected."""
    try:
        return msgspec.convert(orjson.loads(body), kind)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest("body", f"not JSON: {error}") from None
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise InvalidRequest(path.rstrip("`").lstrip(".") or "body", problem) from None
