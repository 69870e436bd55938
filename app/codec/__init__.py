"""Bytes <-> numpy. Every client mistake becomes a typed error here, before the queue.

One module a wire format. A format decodes a body into an `InferRequest` and encodes an
`InferResponse`; nothing here knows HTTP, Flask or the engine beyond its specs and errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.model import Parameter
from engine.spec import Arrays


@dataclass(frozen=True, slots=True)
class InferRequest:
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


@dataclass(frozen=True, slots=True)
class InferResponse:
    """What it is told."""

    model: str
    version: str
    outputs: Arrays
    id: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
