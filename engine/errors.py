"""Every error of the engine.

::

    BrimError
    ├── ConfigError          never   the operator's configuration is wrong
    ├── LoadError            never   weights or code could not be made into a model
    ├── WarmupError          never   a bucket failed verification
    ├── InvalidRequest       never   the client's tensors do not fit the model's spec
    │   └── RequestTooLarge  never   more rows than one request may have
    ├── DeadlineTooShort     never   not even an idle device could answer in time
    ├── UnknownModel         never   no model of that name is configured
    ├── UnknownVersion       never   the model has no such version
    ├── ModelFailed          never   the model cannot serve until the process is restarted
    ├── Refused              retry   refused before any work
    │   ├── NotReady         retry   still loading, compiling or warming up
    │   ├── QueueFull        retry   the places of the queue are taken, `max_queue_rows`
    │   ├── TooManyWaiting   retry   this process has as many requests as it may have
    │   ├── NoThread         retry   no thread for its hooks: all hang, or the system starts none
    │   ├── Shed             retry   the deadline cannot be met behind the queue
    │   ├── ShuttingDown     retry   the process is draining; another replica can answer
    │   └── EngineLost       retry   the engine's process has ended; it is started again
    ├── DeadlineExceeded     retry   accepted, but the deadline passed before the answer
    ├── Cancelled            never   the client disconnected before the answer
    └── ExecutionFailed      retry   the device failed this batch
        └── NonFiniteOutput  never   this request's own rows made NaN or infinity

*retry* or *never* is the class attribute `retry`: whether the same request may succeed later.
"""

from __future__ import annotations

from typing import ClassVar


class BrimError(Exception):
    """Root of the tree. `retry`: whether the same request may succeed later."""

    retry: ClassVar[bool] = False


class ConfigError(BrimError):
    """A wrong configuration: names the file, the key, the value that came and what is allowed."""

    def __init__(self, key: str, value: object, expected: str, *, file: str | None = None) -> None:
        self.key, self.value, self.expected, self.file = key, value, expected, file
        super().__init__(key, value, expected, file)

    def in_file(self, file: str, prefix: str = "") -> ConfigError:
        """The same error with the file and the table that it is about."""
        key = f"{prefix}.{self.key}" if prefix and self.key else prefix or self.key
        return ConfigError(key, self.value, self.expected, file=file)

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        key = f"{self.key}: " if self.key else ""
        return f"{where}{key}got {self.value!r}, expected {self.expected}"


class LoadError(BrimError):
    """Weights or code could not be made into a model."""


class WarmupError(BrimError):
    """A bucket did not compile, did not run, or did not agree with the one-row bucket."""


class InvalidRequest(BrimError):
    """A client's mistake in `field`. The message has the value that came and what was expected."""

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}")


class RequestTooLarge(InvalidRequest):
    """More rows than one request may have; in several requests they are served."""


class DeadlineTooShort(BrimError):
    """No answer of an idle device would be in time: the request is too large for its deadline."""


class UnknownModel(BrimError):
    """No model of that name is configured."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown model {name!r}; this server has {', '.join(known) or 'none'}")


class UnknownVersion(BrimError):
    """A model of that name is configured, but not in that version."""

    def __init__(self, name: str, version: str, known: str) -> None:
        super().__init__(f"model {name!r} has no version {version!r}; it has {known}")


class ModelFailed(BrimError):
    """Load, warm-up or a thread of the model failed; it cannot serve until a restart."""


class Refused(BrimError):
    """Refused before any work was done. `retry_after_s`: when another try makes sense."""

    retry = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class NotReady(Refused):
    """Still loading, compiling or warming up."""


class QueueFull(Refused):
    """The places of the queue, `max_queue_rows`, are taken; others leave them soon."""


class TooManyWaiting(Refused):
    """The process has as many requests in flight, or before a model's hooks, as it may have."""


class NoThread(Refused):
    """No thread for it: all are in hooks that have passed their deadlines, or none can start."""


class Shed(Refused):
    """Its deadline cannot be met, or only by delaying an accepted request beyond its own."""


class ShuttingDown(Refused):
    """The process is draining."""


class EngineLost(Refused):
    """The engine's process ended before the answer, or is not up yet."""


class DeadlineExceeded(BrimError):
    """Accepted, but the deadline passed first; the time in the queue counts."""

    retry = True


class Cancelled(BrimError):
    """The client disconnected before its answer."""


class ExecutionFailed(BrimError):
    """The device failed the batch that carried this request. `__cause__` has the reason."""

    retry = True


class NonFiniteOutput(ExecutionFailed):
    """The request's own rows made NaN or infinity; other requests of the batch are not affected."""

    retry = False


def reason_of(error: BaseException) -> str:
    """Why a model failed, as its requests, the terminal and `brim check` say it."""
    return f"{type(error).__name__}: {error}"
