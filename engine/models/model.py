"""A model: its signature, host processor and program; and the states of its versions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from engine.errors import BrimError, InvalidRequest, LoadError, reason_of
from engine.models.processor import HostProcessor, Prepared
from engine.models.signature import Signature
from engine.models.tensors import Array, Arrays, TensorSpec, validate
from engine.scheduling.buckets import BucketGrid

Params = Any
"""Any pytree of arrays. It is an argument of every executable, so it exists once on the device."""

Apply = Callable[[Params, Mapping[str, Any]], Mapping[str, Any]]
Golden = Callable[[np.random.Generator, int | None], Arrays]
Edges = Callable[[int | None], Sequence[Arrays]]


@dataclass(frozen=True, slots=True)
class Program:
    """The device side: `apply(params, inputs) -> outputs`, traced once per bucket.

    `inputs` and the result are dicts of arrays with rows first. The outputs of a row may depend on
    that row alone, and not on padding; warm-up verifies it. `golden(rng, length)` makes one row of
    device inputs, shaped as in the signature, for warm-up; `length` is None without a dynamic axis.
    `edges(length)` makes rows that are valid and unlike any other, which warm-up verifies too.
    """

    apply: Apply
    params: Params
    golden: Golden | None = None
    edges: Edges | None = None


class Model:
    """A pure function, its weights, the names of its tensors, and Python around it.

    `inputs` and `outputs` are what clients see. With `preprocess` the device gets `device_inputs`
    instead, and with `postprocess` it returns `device_outputs`. A request's arrays may be read-only
    views of its body: a hook copies what it changes. `Signature`, `HostProcessor` and `Program`
    describe the arguments.

    Hooks that are given here run in the engine's process, on threads of their own. Hooks that need
    neither the weights nor JAX scale with the HTTP processes: `host` names a function as
    `"module:function"`, which is called in each of them with the factory's options and returns a
    `HostProcessor`. Its module must not import JAX.

    Raises ValueError where the arguments do not fit each other.
    """

    __slots__ = ("host", "processor", "program", "signature")

    def __init__(
        self,
        *,
        apply: Apply,
        params: Params,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        preprocess: Callable[[Arrays], Prepared] | None = None,
        postprocess: Callable[[Arrays], Arrays] | None = None,
        device_inputs: Sequence[TensorSpec] = (),
        device_outputs: Sequence[TensorSpec] = (),
        golden: Golden | None = None,
        edges: Edges | None = None,
        example: Mapping[str, list[Any]] | None = None,
        max_length: int | None = None,
        host: str = "",
        platform: str = "jax",
        properties: Mapping[str, str] | None = None,
    ) -> None:
        if host and (preprocess or postprocess):
            raise ValueError("a model has hooks of its own or a host, not both")
        for hook, name, specs in (
            (preprocess, "device_inputs", device_inputs),
            (postprocess, "device_outputs", device_outputs),
        ):
            if hook is not None and not specs:
                raise ValueError(f"a model with a host-side hook must state its {name}")
        self.signature = Signature(
            inputs=_specs("inputs", inputs),
            outputs=_specs("outputs", outputs),
            device_inputs=_specs("device_inputs", device_inputs or inputs),
            device_outputs=_specs("device_outputs", device_outputs or outputs),
            max_length=max_length,
            example=None if example is None else _lists(example),
            platform=platform,
            properties=dict(properties or {}),
        )
        self.host = host
        self.processor = HostProcessor(preprocess, postprocess)
        self.program = Program(apply, params, golden, edges)

    def check(self, grid: BucketGrid) -> None:
        """Check what needs no device: the axes against the configured buckets, what the functions
        take, and the example, which goes through `preprocess` as a request does. Raises
        `LoadError`.
        """
        self.signature.check_grid(grid)
        self._check_functions()
        example: object = self.signature.example
        if example is None:
            return
        if not isinstance(example, Mapping):
            found = f"the example is of type {type(example).__name__}, not a dict"
            raise LoadError(f"{found}; it has rows for each input, by name")
        try:
            inputs = {spec.name: _array(spec, example[spec.name]) for spec in self.signature.inputs}
            validate(self.signature.inputs, inputs)
        except (KeyError, TypeError, ValueError, OverflowError, InvalidRequest) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else f"is not valid: {error}"
            raise LoadError(f"the example {what}; it has rows for each input, by name") from None
        if self.processor.preprocess is None:
            return
        try:
            validate(self.signature.device_inputs, self.processor.prepare(inputs).inputs)
        except BrimError as error:
            # the cause of another error is for the log, and here the author reads it
            why = error if error.__cause__ is None else reason_of(error.__cause__)
            raise LoadError(f"the example does not pass preprocess: {why}") from error

    def _check_functions(self) -> None:
        for name, function, *arguments in (
            ("golden", self.program.golden, "rng", "length"),
            ("edges", self.program.edges, "length"),
            ("preprocess", self.processor.preprocess, "inputs"),
            ("postprocess", self.processor.postprocess, "outputs"),
        ):
            if function is not None:
                call = f"it is called as {name}({', '.join(arguments)})"
                check_call(str(name), function, call, arguments)


def check_call(
    name: str,
    function: object,
    call: str,
    arguments: Sequence[object] = (),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Raise `LoadError` unless `function` takes these arguments; `call` says so in words."""
    if not callable(function):
        raise LoadError(f"{name} is of type {type(function).__name__}, not a function")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # not known for some callables of other libraries
    try:
        signature.bind(*arguments, **(options or {}))
    except TypeError:
        plain = signature.replace(return_annotation=signature.empty)
        raise LoadError(f"{name} takes {plain}, but {call}") from None


def _specs(name: str, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    if isinstance(specs, TensorSpec) or not all(isinstance(each, TensorSpec) for each in specs):
        raise ValueError(f"{name} is not a sequence of TensorSpec, as (TensorSpec(...),)")
    return tuple(specs)


def _lists(example: Any) -> Any:
    """Nested lists of plain values, which cross processes, in the place of arrays."""
    if isinstance(example, Mapping):
        return {str(name): _lists(rows) for name, rows in example.items()}
    if isinstance(example, list | tuple):
        return [_lists(part) for part in example]
    return example.tolist() if isinstance(example, np.ndarray | np.generic) else example


def _array(spec: TensorSpec, rows: list[Any]) -> Array:
    """Rows of an example. Raises ValueError for rows that are uneven or not of this datatype."""
    if spec.datatype != "BYTES":
        return np.asarray(rows, spec.dtype)
    texts = np.asarray(rows, np.object_)
    flat = [text.encode() if isinstance(text, str) else text for text in texts.ravel()]
    texts.ravel()[:] = flat
    return texts


class ModelState(Enum):
    """`LOADING -> COMPILING -> WARMING -> READY -> DRAINING -> CLOSED`, or `FAILED` from any."""

    LOADING = "loading"
    COMPILING = "compiling"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"
    FAILED = "failed"

    def may_become(self, other: ModelState) -> bool:
        """Forward only. FAILED follows any state but CLOSED, and only CLOSED follows FAILED."""
        if self is ModelState.FAILED:
            return other is ModelState.CLOSED
        order = list(ModelState)  # FAILED is last
        return self is not ModelState.CLOSED and order.index(other) > order.index(self)

    @property
    def startup_finished(self) -> bool:
        """Start-up is over, successfully or not."""
        return self not in (ModelState.LOADING, ModelState.COMPILING, ModelState.WARMING)
