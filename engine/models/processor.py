"""The host side of a model: Python that runs in the process and thread that serve the request."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.errors import BrimError, ExecutionFailed, InvalidRequest
from engine.models.tensors import Arrays

log = logging.getLogger("brim.engine")

Parameter = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `preprocess` makes of a request.

    inputs      the device inputs, rows first
    parameters  of the response, beside its tensors
    tokens      the number of tokens in the request, for clients that are billed by tokens
    """

    inputs: Arrays
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Client inputs in place of texts: for each row the ids of the model's own vocabulary."""

    rows: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class HostProcessor:
    """Runs before and after the device, in the thread of the request.

    preprocess      client inputs -> `Prepared`; None if clients send the device inputs
    postprocess     device outputs -> client outputs; None if they are the same
    preprocess_ids  for each row the ids of the model's own vocabulary -> `Prepared`; None if the
                    model has no vocabulary
    quick_bytes     for requests that long or shorter, `preprocess` takes at most half a millisecond
    dimensions      sizes that an embedding may be cut to; a configuration may name more
    """

    preprocess: Callable[[Arrays], Prepared] | None = None
    postprocess: Callable[[Arrays], Arrays] | None = None
    preprocess_ids: Callable[[Sequence[Sequence[int]]], Prepared] | None = None
    quick_bytes: int = 0
    dimensions: tuple[int, ...] = ()

    def prepare(self, inputs: Arrays | TokenIds) -> Prepared:
        """Run `preprocess`, or `preprocess_ids`. Raises its `BrimError`, or `ExecutionFailed` for
        anything else.
        """
        try:
            if isinstance(inputs, TokenIds):
                prepared: object = self._preprocess_ids(inputs.rows)
            elif self.preprocess is None:
                return Prepared(inputs)
            else:
                prepared = self.preprocess(inputs)
        except BrimError:
            raise
        except BaseException as error:  # SystemExit too: it would end a thread, or the process
            raise failure("the model's preprocess failed", error) from error
        if not isinstance(prepared, Prepared):
            found = f"preprocess returned a {type(prepared).__name__}, not a Prepared"
            raise ExecutionFailed(f"{found}: return Prepared(inputs)")
        return prepared

    def _preprocess_ids(self, rows: Sequence[Sequence[int]]) -> Prepared:
        if self.preprocess_ids is None:
            raise InvalidRequest("input", "this model takes no token ids")
        return self.preprocess_ids(rows)

    def finish(self, outputs: Arrays) -> Arrays:
        """Run `postprocess`. Raises `ExecutionFailed` for anything that it raises."""
        if self.postprocess is None:
            return outputs
        try:
            return self.postprocess(outputs)
        except BaseException as error:
            raise failure("the model's postprocess failed", error) from error


def failure(what: str, cause: BaseException) -> ExecutionFailed:
    """Log `cause` with its traceback, and return the error for the client.

    The client learns what failed and a reference into the log. The words of the cause are not for
    it: that of a JAX callback is a traceback with the paths of this machine.
    """
    reference = f"{random.getrandbits(32):08x}"
    log.error("failure %s: %s", reference, what, exc_info=cause)
    error = ExecutionFailed(f"{what} (failure {reference})")
    error.__cause__ = cause
    return error
