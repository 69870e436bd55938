"""What a model is: a pure function, its weights, and what its tensors are called.

May touch: numpy. A model is made by a family (`engine/models/`) or by the user's own factory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.spec import LENGTH, Array, Arrays, TensorSpec

Params = Any
"""Any pytree of arrays. It is an argument of every executable, so it exists once on the device."""

Parameter = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `preprocess` made of a request: device inputs, and what the response should say.

    `tokens` is how many tokens the request was, for those who bill by them.
    """

    inputs: Arrays
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """`apply(params, inputs) -> outputs`, with names.

    `apply` is traced once per bucket: `inputs` and its result are dicts of arrays with rows first.
    A row's outputs may depend on that row alone, and not on padding; warm-up proves it.

    `inputs` and `outputs` are what clients see. With `preprocess` (host-side, in the request's own
    thread) the device gets `device_inputs` instead, and with `postprocess` it gives
    `device_outputs`. A request's arrays may be read-only views of its body: a hook copies what it
    wants to change. `golden(rng, length)` makes one row of device inputs, shaped as in the spec,
    for warm-up; `length` is None without a dynamic axis. `example` is one request for people to
    try. `max_length` is the model's own limit on the dynamic axis. `detokenize` turns token ids of
    the model's own vocabulary into the text that they stand for.
    """

    apply: Callable[[Params, Mapping[str, Any]], Mapping[str, Any]]
    params: Params
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Callable[[Arrays], Prepared] | None = None
    postprocess: Callable[[Arrays], Arrays] | None = None
    device_inputs: tuple[TensorSpec, ...] = ()
    device_outputs: tuple[TensorSpec, ...] = ()
    golden: Callable[[np.random.Generator, int | None], Arrays] | None = None
    example: Mapping[str, list[Any]] | None = None
    max_length: int | None = None
    detokenize: Callable[[Sequence[int]], str] | None = None
    platform: str = "jax"

    def __post_init__(self) -> None:
        for wire, device, hook in (
            ("inputs", "device_inputs", self.preprocess),
            ("outputs", "device_outputs", self.postprocess),
        ):
            if not getattr(self, wire):
                raise ValueError(f"a model needs {wire}")
            if not getattr(self, device):
                if hook is not None:
                    raise ValueError(f"a model with a host-side hook must state its {device}")
                object.__setattr__(self, device, getattr(self, wire))
        for spec in (*self.device_inputs, *self.device_outputs):
            if spec.datatype == "BYTES":
                raise ValueError(f"{spec.name}: BYTES cannot go to a device; add a preprocess")

    @property
    def dynamic(self) -> bool:
        """Does a row have a dynamic axis?"""
        return any(LENGTH in spec.shape for spec in self.device_inputs)

    def golden_row(self, rng: np.random.Generator, length: int | None) -> dict[str, Array]:
        """One row of device inputs as arrays `[1, ...]`.

        Without a `golden` of the model's own: floats are standard normal, integers and booleans
        are 0 or 1, which is inside every vocabulary.
        """
        if self.golden is not None:
            return {
                spec.name: np.asarray(row, spec.device_dtype)[None]
                for spec, row in self._named(self.golden(rng, length))
            }
        return {
            spec.name: _random(rng, spec.batch_shape(1, length), spec.device_dtype)
            for spec in self.device_inputs
        }

    def _named(self, rows: Arrays) -> list[tuple[TensorSpec, Array]]:
        return [(spec, rows[spec.name]) for spec in self.device_inputs]


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
