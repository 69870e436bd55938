"""What a model's tensors are called and shaped: plain data that crosses processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.models.tensors import LENGTH, TensorSpec


@dataclass(frozen=True, slots=True)
class Signature:
    """All that codecs, validation and the API documentation need of a model.

    inputs, outputs                what clients send and receive
    device_inputs, device_outputs  what the compiled program takes and returns
    max_length                     the model's own limit on the dynamic axis, or None
    example                        one request to try: input name -> nested lists
    platform                       the value of `platform` in the protocol's metadata
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device_inputs: tuple[TensorSpec, ...]
    device_outputs: tuple[TensorSpec, ...]
    max_length: int | None = None
    example: Mapping[str, list[Any]] | None = None
    platform: str = "jax"

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise ValueError(f"a model needs {'outputs' if self.inputs else 'inputs'}")
        for spec in (*self.device_inputs, *self.device_outputs):
            if spec.datatype == "BYTES":
                raise ValueError(f"{spec.name}: BYTES cannot go to a device; add a preprocess")

    @property
    def vector(self) -> TensorSpec | None:
        """The output that is an embedding: the only one of FP32 with one axis of a fixed size."""
        found = [spec for spec in self.outputs if spec.datatype == "FP32" and len(spec.shape) == 1]
        return found[0] if len(found) == 1 and found[0].shape != (LENGTH,) else None

    @property
    def dynamic(self) -> bool:
        """Whether the rows have a dynamic axis."""
        return any(LENGTH in spec.shape for spec in self.device_inputs)
