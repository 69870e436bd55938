"""What the rest of the engine needs of compiled programs. JAX implements it in `compiler.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from engine.models.tensors import Arrays
from engine.scheduling.buckets import Bucket


@dataclass(frozen=True, slots=True)
class Memory:
    """Device bytes of one executable, as XLA reports them.

    `temporary` exists while it runs, `code` always. The weights are not included: they exist once
    for all buckets.
    """

    inputs: int
    outputs: int
    temporary: int
    code: int


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A model's parameters on the device: the leaves of their pytree, flattened once at load.

    A launch passes this list. Flattening an `nnx.State` of 100 leaves at each launch costs 177 us,
    a nested dict 91 us, a flat list 77 us.
    """

    leaves: list[Any]
    nbytes: int


class Execution(Protocol):
    """One launch that may still be running."""

    @property
    def ready(self) -> bool:
        """Whether it had finished when `launch` returned, so that `result` does not wait."""

    def result(self) -> Arrays:
        """Wait for the device and return the outputs `[bucket.rows, ...]` on the host.

        Raises what the device raised.
        """


class Executable(Protocol):
    """The compiled program of one bucket. It holds no weights."""

    @property
    def memory(self) -> Memory:
        """What it takes on the device."""

    @property
    def self_contained(self) -> bool:
        """Whether it runs on the device alone. A program that calls back into Python takes as long
        as the callback does, so its measured cost predicts nothing.
        """

    def launch(self, weights: Weights, inputs: Arrays) -> Execution:
        """Start it on staged arrays of exactly the bucket's shape, and return at once."""


class Compiler(Protocol):
    """Compiles the buckets of one model."""

    @property
    def weights(self) -> Weights:
        """The model's parameters, on the device."""

    def compile(self, bucket: Bucket) -> Executable:
        """Compile one bucket. Safe to call from several threads."""
