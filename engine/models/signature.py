"""What a model's tensors are called and shaped: plain data that crosses processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import LoadError
from engine.models.tensors import LENGTH, TensorSpec
from engine.scheduling.buckets import BucketGrid


@dataclass(frozen=True, slots=True)
class Signature:
    """All that codecs, validation and the API documentation need of a model.

    inputs, outputs                what clients send and receive
    device_inputs, device_outputs  what the compiled program takes and returns
    max_length                     the model's own limit on the dynamic axis, or None
    example                        one request to try: input name -> nested lists
    platform                       the value of `platform` in the protocol's metadata
    properties                     what else the metadata says of the model, name -> text
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device_inputs: tuple[TensorSpec, ...]
    device_outputs: tuple[TensorSpec, ...]
    max_length: int | None = None
    example: Mapping[str, list[Any]] | None = None
    platform: str = "jax"
    properties: Mapping[str, str] = field(default_factory=dict)
    wide: str = field(init=False, repr=False, compare=False)
    """Kinds of dtype that the device computes in 64 bits: those of the 64-bit outputs, because a
    number that overflows in 32 bits is another one. 64-bit inputs alone are narrowed.
    """

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise ValueError(f"a model needs {'outputs' if self.inputs else 'inputs'}")
        for specs in (self.inputs, self.outputs, self.device_inputs, self.device_outputs):
            names = [spec.name for spec in specs]
            if len(set(names)) < len(names):
                raise ValueError(f"two of the tensors {names} have one name")
        for spec in (*self.outputs, *self.device_outputs):
            if (spec.low, spec.high) != (None, None):
                raise ValueError(f"{spec.name}: low and high are for inputs, not for outputs")
        for spec in (*self.device_inputs, *self.device_outputs):
            if spec.datatype == "BYTES":
                raise ValueError(f"{spec.name}: BYTES cannot go to a device; add a preprocess")
        self._widen()

    def _widen(self) -> None:
        wide = ""
        for spec in self.device_outputs:
            if spec.narrowed:
                wide += "f" if spec.dtype.kind == "f" else "iu"
        object.__setattr__(self, "wide", wide)
        # what only a preprocess sees is narrowed nowhere
        on_wire = wide if self.inputs == self.device_inputs else "iuf"
        object.__setattr__(self, "inputs", _widened(self.inputs, on_wire))
        object.__setattr__(self, "device_inputs", _widened(self.device_inputs, wide))
        object.__setattr__(self, "device_outputs", _widened(self.device_outputs, wide))
        for spec in self.device_inputs:
            if spec.limits is not None and spec.limits[0] > spec.limits[1]:
                problem = f"no value from low {spec.low} to high {spec.high} has 32 bits"
                remedy = "without a 64-bit output a model computes in 32"
                raise ValueError(f"{spec.name}: {problem}; {remedy}")

    @property
    def vector(self) -> TensorSpec | None:
        """The output that is an embedding: the only one of FP32 with one axis of a fixed size."""
        found = [spec for spec in self.outputs if spec.datatype == "FP32" and len(spec.shape) == 1]
        return found[0] if len(found) == 1 and found[0].shape != (LENGTH,) else None

    @property
    def dynamic(self) -> bool:
        """Whether the rows have a dynamic axis."""
        return any(LENGTH in spec.shape for spec in self.device_inputs)

    def check_grid(self, grid: BucketGrid) -> None:
        """Raise `LoadError` unless the configured buckets fit the axes of the tensors."""
        lengths, longest = list(grid.lengths), grid.max_length
        if self.dynamic and not lengths:
            raise LoadError(_no_lengths(self.device_inputs))
        if not self.dynamic and lengths:
            shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in self.device_inputs)
            problem = f"the config gives lengths = {lengths}, but no input has a dynamic axis"
            raise LoadError(f"{problem}: {shapes}. Write LENGTH where the lengths belong")
        if longest and self.max_length and longest > self.max_length:
            problem = f"lengths reach {longest}, but the model's own limit is {self.max_length}"
            raise LoadError(problem)


def _widened(specs: Sequence[TensorSpec], kinds: str) -> tuple[TensorSpec, ...]:
    return tuple(spec.widened() if spec.dtype.kind in kinds else spec for spec in specs)


def _no_lengths(specs: Sequence[TensorSpec]) -> str:
    spec = next(spec for spec in specs if spec.length_axis is not None)
    problem = f"input {spec.name!r} has the shape {spec.shape}, where -1 is LENGTH, a dynamic axis"
    remedy = "the config needs lengths, as lengths = [32, 128]"
    if spec.shape[0] != LENGTH:
        return f"{problem}: {remedy}"
    return f"{problem}: {remedy}; if it is meant as the batch axis, leave it out: {spec.shape[1:]}"
