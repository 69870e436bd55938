"""The only place that lowers and compiles: a model and a bucket become an executable.

May touch: jax.

Ahead of time, one executable per bucket. A compiled executable refuses every other shape, so
nothing can compile on the request path. The weights are arguments, not constants: closed over,
eight buckets of a 128 MiB model took 2,043 MiB and 12.9 s to build; as arguments 423 MiB and 0.6 s.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import jax
import numpy as np
from jax import monitoring

from engine.buckets import Bucket
from engine.errors import LoadError
from engine.model import Model
from engine.runnable import Memory
from engine.spec import Arrays, TensorSpec

_CALLBACK: Final = re.compile(r"@xla_\w*callback")
"""How a lowered program calls what `jax.pure_callback` and its like were given."""


class Execution:
    """One execution on its way: device arrays that may not be ready yet."""

    __slots__ = ("_outputs", "ready")

    def __init__(self, outputs: Mapping[str, jax.Array]) -> None:
        self._outputs = outputs
        self.ready = all(map(_is_ready, outputs.values()))
        if not self.ready:
            for output in outputs.values():
                output.copy_to_host_async()

    def result(self) -> Arrays:
        """Wait for the device, without the GIL, and bring the outputs to the host."""
        return {name: np.asarray(output) for name, output in self._outputs.items()}


def _is_ready(output: Any) -> bool:
    """JAX's arrays can be asked this, but it is not promised that they will always be: where they
    cannot, nothing is known to be ready.
    """
    ask: Callable[[], bool] | None = getattr(output, "is_ready", None)
    return ask is not None and ask()


class Executable:
    """The compiled program of one bucket, with its weights bound."""

    __slots__ = ("_compiled", "_params", "calls_python", "memory")

    def __init__(
        self, compiled: jax.stages.Compiled, params: Any, memory: Memory, *, calls_python: bool
    ) -> None:
        self._compiled = compiled
        self._params = params
        self.memory = memory
        self.calls_python = calls_python

    def launch(self, inputs: Arrays) -> Execution:
        """Start it on staged arrays of exactly the bucket's shape, and return at once."""
        return Execution(self._compiled(self._params, dict(inputs)))


class Compiler:
    """Compiles the buckets of one model. Its weights go to the device once, here."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._params = jax.block_until_ready(jax.device_put(model.params))
        self._avals = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._params
        )
        self.weights_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self._params))

    def compile(self, bucket: Bucket) -> Executable:
        """Lower and compile one bucket. Safe to call from several threads.

        Raises `LoadError` when `apply` does not give what the model's spec promises.
        """
        model = self._model
        inputs = {
            spec.name: jax.ShapeDtypeStruct(
                spec.batch_shape(bucket.rows, bucket.length), spec.device_dtype
            )
            for spec in model.device_inputs
        }

        def apply(params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            return _named(model.device_outputs, bucket, model.apply(params, inputs))

        with expected_compiles():
            lowered = jax.jit(apply).lower(self._avals, inputs)
            compiled = lowered.compile()
        calls_python = _CALLBACK.search(lowered.as_text()) is not None
        memory = _memory(compiled, model, bucket)
        return Executable(compiled, self._params, memory, calls_python=calls_python)


def _named(specs: tuple[TensorSpec, ...], bucket: Bucket, outputs: object) -> dict[str, jax.Array]:
    """The outputs in the spec's order, checked while tracing."""
    if not isinstance(outputs, Mapping):
        raise LoadError(f"apply gave a {type(outputs).__name__}, not a dict of named outputs")
    for spec in specs:
        if spec.name not in outputs:
            raise LoadError(f"apply gave {sorted(outputs)}, but the spec promises {spec.name!r}")
        got = outputs[spec.name]
        shape = spec.batch_shape(bucket.rows, bucket.length)
        if got.shape != shape or got.dtype != spec.device_dtype:
            raise LoadError(
                f"output {spec.name!r} of bucket {bucket} is {got.dtype}{list(got.shape)}, "
                f"but the spec promises {spec.device_dtype}{list(shape)}"
            )
    return {spec.name: outputs[spec.name] for spec in specs}


def _memory(compiled: jax.stages.Compiled, model: Model, bucket: Bucket) -> Memory:
    analysis: Any = compiled.memory_analysis()
    inputs = sum(spec.nbytes(bucket.rows, bucket.length) for spec in model.device_inputs)
    return Memory(
        inputs=inputs,
        outputs=int(analysis.output_size_in_bytes),
        temporary=int(analysis.temp_size_in_bytes),
        code=int(analysis.generated_code_size_in_bytes),
    )


# --- nothing compiles after READY ---------------------------------------------------------------

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_expecting = threading.local()
_alarms: list[Callable[[], None]] = []
_alarms_lock = threading.Lock()
_listening = False


@contextmanager
def expected_compiles() -> Iterator[None]:
    """What this thread compiles inside is part of start-up."""
    before = getattr(_expecting, "now", False)
    _expecting.now = True
    try:
        yield
    finally:
        _expecting.now = before


def watch_compiles(alarm: Callable[[], None]) -> Callable[[], None]:
    """Call `alarm` for every compile outside of `expected_compiles`, in whatever thread.

    Returns a function that ends the watch. JAX's listener can be added but not removed, so there is
    one for the whole process.
    """
    global _listening
    with _alarms_lock:
        _alarms.append(alarm)
        if not _listening:
            monitoring.register_event_duration_secs_listener(_heard)
            _listening = True

    def unwatch() -> None:
        with _alarms_lock:
            if alarm in _alarms:
                _alarms.remove(alarm)

    return unwatch


def _heard(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == _COMPILE_EVENT and not getattr(_expecting, "now", False):
        with _alarms_lock:
            alarms = tuple(_alarms)
        for alarm in alarms:
            alarm()
