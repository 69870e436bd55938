"""The only place that lowers and compiles: a program and a bucket become an executable.

One executable per bucket, compiled ahead of time. A compiled executable refuses every other shape,
so nothing can compile on the request path. Weights are arguments, not constants: closed over, eight
buckets of a 128 MiB model took 2,043 MiB and 12.9 s to build; as arguments 423 MiB and 0.6 s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from engine.compilation.guard import expected_compiles
from engine.compilation.interface import Memory, Weights
from engine.compilation.tracing import TraceableProgram
from engine.models.model import Model
from engine.models.tensors import Arrays, TensorSpec
from engine.scheduling.buckets import Bucket

log = logging.getLogger("brim.engine")


class JaxExecution:
    """One launch: device arrays that may not be ready yet."""

    __slots__ = ("_outputs", "ready")

    def __init__(self, outputs: Mapping[str, jax.Array]) -> None:
        self._outputs = outputs
        self.ready = all(map(_is_ready, outputs.values()))
        if not self.ready:
            for output in outputs.values():
                output.copy_to_host_async()

    def result(self) -> Arrays:
        """Wait for the device, without the GIL, and copy the outputs to the host."""
        return {name: np.asarray(output) for name, output in self._outputs.items()}


def _is_ready(output: Any) -> bool:
    """`is_ready` is not in JAX's documented interface; without it nothing counts as ready."""
    is_ready: Callable[[], bool] | None = getattr(output, "is_ready", None)
    return is_ready is not None and is_ready()


class JaxExecutable:
    """The compiled program of one bucket; weights are passed at each launch."""

    __slots__ = ("_compiled", "_wide", "memory", "self_contained")

    def __init__(
        self, compiled: jax.stages.Compiled, memory: Memory, *, self_contained: bool, wide: bool
    ) -> None:
        """`wide`: it was compiled with JAX's 64-bit types."""
        self._compiled = compiled
        self._wide = wide
        self.memory = memory
        self.self_contained = self_contained

    def launch(self, weights: Weights, inputs: Arrays) -> JaxExecution:
        """Start it on staged arrays of exactly the bucket's shape, and return at once."""
        if self._wide:  # otherwise JAX narrows the inputs; 12 us, so only where it is needed
            with jax.enable_x64(True):
                return JaxExecution(self._compiled(weights.leaves, dict(inputs)))
        return JaxExecution(self._compiled(weights.leaves, dict(inputs)))


class JaxCompiler:
    """Compiles the buckets of one model. Puts its weights on the device once."""

    def __init__(self, model: Model) -> None:
        """Raises `LoadError` for weights that are no arrays."""
        self._inputs = model.signature.device_inputs
        self._program = TraceableProgram(model)
        self._remarked = False
        with self._program.bits(), expected_compiles():
            placed = jax.block_until_ready(jax.device_put(self._program.leaves))
        self.weights = Weights(placed, sum(leaf.nbytes for leaf in placed))

    def compile(self, bucket: Bucket) -> JaxExecutable:
        """Lower and compile one bucket. Safe to call from several threads.

        Raises `LoadError` when `apply` does not return what the model's signature states.
        """
        program = self._program
        traced = program.trace(bucket)
        if program.remark and not self._remarked:
            self._remarked = True
            log.warning("%s", program.remark)
        with program.bits(), expected_compiles():
            lowered = traced.lower()
            compiled = lowered.compile()
        memory = _memory(compiled, self._inputs, bucket)
        # XLA names the targets that call back into Python after that, one for each platform
        self_contained = "callback" not in lowered.as_text()
        return JaxExecutable(compiled, memory, self_contained=self_contained, wide=program.wide)


def _memory(
    compiled: jax.stages.Compiled, inputs: tuple[TensorSpec, ...], bucket: Bucket
) -> Memory:
    analysis: Any = compiled.memory_analysis()
    return Memory(
        inputs=sum(spec.nbytes(bucket.rows, bucket.length) for spec in inputs),
        outputs=int(analysis.output_size_in_bytes),
        temporary=int(analysis.temp_size_in_bytes),
        code=int(analysis.generated_code_size_in_bytes),
    )
