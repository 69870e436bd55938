"""Bytes <-> numpy. Every client mistake becomes a typed error here, before the queue.

One module a wire format. A format decodes a body into an `InferRequest` and encodes an
`InferResponse`; nothing here knows HTTP, Flask or the engine beyond its specs and errors.

May touch: msgspec, whose structures are made in a fifth of a frozen dataclass's time.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.model import Parameter
from engine.spec import Arrays


class InferRequest(msgspec.Struct, frozen=True):
    """What a client asked.

    `outputs` are the names it wants, in its order; those in `binary` it wants as binary.
    `timeout_s` is None for the model's own; `priority` 1 is the highest, 0 the default.
    """

    inputs: Arrays
    outputs: tuple[str, ...]
    binary: frozenset[str] = frozenset()
    id: str | None = None
    timeout_s: float | None = None
    priority: int = 0


class InferResponse(msgspec.Struct, frozen=True):
    """What it is told."""

    model: str
    version: str
    outputs: Arrays
    id: str | None = None
    parameters: Mapping[str, Parameter] = {}
