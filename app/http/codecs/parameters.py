"""The `parameters` of infer requests, of their inputs and of their outputs.

Any of them may be null, and then is as good as missing. Unknown ones may hold anything and are
ignored, since clients add their own. Those that would change the answer and are not supported are
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as shorten
from typing import Any, Final, NamedTuple, TypeAlias

from engine.api import InvalidRequest

Parameters: TypeAlias = dict[str, Any]


class Unsupported(NamedTuple):
    """A parameter of Triton's extensions that is refused, unless its value asks for nothing."""

    reason: str
    nothing: tuple[Any, ...] = (None,)


_SHARED_MEMORY: Final = Unsupported("shared memory is not served; tensors travel in the body")
OF_REQUESTS: Final[Mapping[str, Unsupported]] = {
    "sequence_id": Unsupported("sequences are not served; no state is kept", (None, 0, "")),
}
OF_TENSORS: Final[Mapping[str, Unsupported]] = {
    "classification": Unsupported("classes are not served; ask for the tensor itself", (None, 0)),
    "shared_memory_region": _SHARED_MEMORY,
    "shared_memory_byte_size": _SHARED_MEMORY,
    "shared_memory_offset": _SHARED_MEMORY,
}

BASE64: Final = "base64"
"""MLServer's `content_type` of a BYTES input whose elements are encoded so in JSON."""


def check_supported(
    parameters: Parameters, unsupported: Mapping[str, Unsupported], prefix: str = ""
) -> None:
    """Raise `InvalidRequest` if one of them is unsupported; `prefix` comes before its name."""
    for key, value in parameters.items():
        if key in unsupported and value not in unsupported[key].nothing:
            raise InvalidRequest(f"{prefix}parameters.{key}", unsupported[key].reason)


def flag(parameters: Parameters, key: str, *, default: bool) -> bool:
    """Return a parameter that is true or false, `default` if it is missing or null."""
    value = parameters.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        problem = f"got {shorten(value)}, expected true or false"
        raise InvalidRequest(f"parameters.{key}", problem)
    return value


def whole_number(parameters: Parameters, key: str, prefix: str = "") -> int:
    """Return a parameter from 0 up, 0 if it is missing or null; `prefix` comes before its name in
    an error.
    """
    value = parameters.get(key)
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        problem = f"got {shorten(value)}, expected a whole number from 0 up"
        raise InvalidRequest(f"{prefix}parameters.{key}", problem)
    return value
