"""Every way in which Brim can say no, drawn once.

May touch: nothing.

::

    BrimError
    ├── ConfigError          never   the operator's configuration is wrong
    ├── LoadError            never   weights or code could not be made into a model
    ├── WarmupError          never   a bucket failed its proof
    ├── InvalidRequest       never   the client's tensors do not fit the model's spec
    ├── UnknownModel         never   no model of that name is configured
    ├── ModelFailed          never   the model cannot serve until the process is restarted
    ├── Refused              retry   turned away at the door, before any work
    │   ├── NotReady         retry   still loading, compiling or warming up
    │   ├── QueueFull        retry   `max_queue_rows` is reached
    │   ├── Shed             retry   the deadline cannot be met behind those who wait
    │   └── ShuttingDown     retry   the process is draining; another replica can answer
    ├── DeadlineExceeded     retry   accepted, but the answer came too late
    ├── Cancelled            never   the client left before the answer
    └── ExecutionFailed      retry   the device failed this batch
        └── NonFiniteOutput  never   this request's own rows made NaN or infinity

*retry* or *never* is the class attribute `retry`: may the very same request succeed later?
"""

from __future__ import annotations

from typing import ClassVar


class BrimError(Exception):
    """Root of the tree. `retry`: may the same request succeed later without a change?"""

    retry: ClassVar[bool] = False


class ConfigError(BrimError):
    """A wrong configuration: names the file, the key, the value that came and what is allowed."""

    def __init__(self, key: str, value: object, expected: str, *, file: str | None = None) -> None:
        self.key, self.value, self.expected, self.file = key, value, expected, file
        super().__init__(key, value, expected, file)

    def in_file(self, file: str, prefix: str = "") -> ConfigError:
        """The same error, said of one place in one file."""
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
    """A client's mistake. `field` is where it is, the message says what came and what fits."""

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}")


class UnknownModel(BrimError):
    """No model of that name is configured."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown model {name!r}; this server has {', '.join(known) or 'none'}")


class ModelFailed(BrimError):
    """The model failed for good: its load, its warm-up, or one of its threads."""


class Refused(BrimError):
    """Turned away before any work was done. `retry_after_s` is when trying again makes sense."""

    retry = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class NotReady(Refused):
    """Still loading, compiling or warming up."""


class QueueFull(Refused):
    """The queue holds `max_queue_rows` already."""


class Shed(Refused):
    """Its deadline cannot be met, or only by making somebody else late who was promised theirs."""


class ShuttingDown(Refused):
    """The process is draining."""


class DeadlineExceeded(BrimError):
    """Accepted, but the deadline passed first; the time in the queue counts."""

    retry = True


class Cancelled(BrimError):
    """The client went away before its answer."""


class ExecutionFailed(BrimError):
    """The device failed the batch that carried this request. `__cause__` has the reason."""

    retry = True


class NonFiniteOutput(ExecutionFailed):
    """The request's own rows made NaN or infinity; its neighbours in the batch did not suffer."""

    retry = False
