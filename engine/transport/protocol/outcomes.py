"""The errors that can be an outcome, as numbers and text, and back."""

from __future__ import annotations

from typing import Final

from engine import errors
from engine.errors import BrimError, InvalidRequest, Refused

ERRORS: Final[tuple[type[BrimError], ...]] = (
    errors.ExecutionFailed,
    errors.NonFiniteOutput,
    errors.InvalidRequest,
    errors.RequestTooLarge,
    errors.DeadlineTooShort,
    errors.QueueFull,
    errors.TooManyWaiting,
    errors.Shed,
    errors.NotReady,
    errors.ShuttingDown,
    errors.EngineLost,
    errors.ModelFailed,
    errors.DeadlineExceeded,
    errors.Cancelled,
    errors.NoThread,
)
"""Both processes have this table. A subclass of a model's own becomes its nearest base here."""

_BETWEEN: Final = "\0"
_CUT: Final = "…".encode()


def error_number(error: BrimError) -> int:
    """The position of its class in the table."""
    for kind in type(error).__mro__:
        if kind in ERRORS:
            return ERRORS.index(kind)
    return 0


def error_text(error: BrimError, capacity: int) -> bytes:
    """Its message in UTF-8, cut to `capacity` bytes."""
    text = str(error)
    if isinstance(error, InvalidRequest):
        text = f"{error.field}{_BETWEEN}{error.problem}"
    data = text.encode("utf-8", "replace")
    if len(data) > capacity:
        data = data[: capacity - len(_CUT)].decode("utf-8", "ignore").encode() + _CUT
    return data


def retry_after_s(error: BrimError) -> float:
    """When another try makes sense; 0 for an error that is no refusal."""
    return error.retry_after_s if isinstance(error, Refused) else 0.0


def error_of(number: int, text: str, retry_s: float) -> BrimError:
    """The error again."""
    kind = ERRORS[number]
    if issubclass(kind, InvalidRequest):
        field, _, problem = text.partition(_BETWEEN)
        return kind(field, problem)
    if issubclass(kind, Refused):
        return kind(text, retry_s)
    return kind(text)
