"""The `parameters` of a request, of its inputs and of its outputs.

May touch: nothing. Those that are not known here are left alone: clients add their own. Those that
would change the answer, and are not served, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.errors import InvalidRequest
from engine.model import Parameter

Parameters = dict[str, Parameter]

_SHARED_MEMORY: Final = "shared memory is not served; tensors travel in the body"
_NOT_SERVED: Final[Mapping[str, str]] = {
    "classification": "classes are not served; ask for the tensor itself",
    "shared_memory_region": _SHARED_MEMORY,
    "shared_memory_byte_size": _SHARED_MEMORY,
    "shared_memory_offset": _SHARED_MEMORY,
}
"""What Triton's extensions ask of a tensor -> why it is refused."""


def check_tensor(parameters: Parameters, where: str) -> None:
    """Refuse what would be another tensor than the one that is named `where`."""
    for key, reason in _NOT_SERVED.items():
        if key in parameters:
            raise InvalidRequest(f"{where}: parameters.{key}", reason)


def check_no_sequence(parameters: Parameters) -> None:
    """Refuse what would be one of several requests with a state."""
    if parameters.get("sequence_id", 0) not in (0, ""):
        raise InvalidRequest("parameters.sequence_id", "sequences are not served; no state is kept")


def flag(parameters: Parameters, key: str, *, default: bool) -> bool:
    """True or false. Raises `InvalidRequest` for anything else."""
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"parameters.{key}", f"got {value!r}, expected true or false")
    return value


def whole_number(parameters: Parameters, key: str, where: str = "") -> int:
    """A whole number from 0 up, 0 if it is not there. Raises `InvalidRequest` for anything else."""
    value = parameters.get(key, 0)
    if type(value) is not int or value < 0:
        field = f"{where}: parameters.{key}" if where else f"parameters.{key}"
        raise InvalidRequest(field, f"got {value!r}, expected a whole number from 0 up")
    return value


def timeout(parameters: Parameters) -> float | None:
    """`timeout` in seconds; it comes in microseconds, and 0 is the model's own."""
    microseconds = whole_number(parameters, "timeout")
    return microseconds / 1e6 if microseconds else None
