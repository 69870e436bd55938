"""The only place that lowers and compiles: a program and a bucket become an executable.

One executable per bucket, compiled ahead of time. A compiled executable refuses every other shape,
so nothing can compile on the request path. Weights are arguments, not constants: closed over, eight
buckets of a 128 MiB model took 2,043 MiB and 12.9 s to build; as arguments 423 MiB and 0.6 s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from engine.compilation.guard import expected_compiles
from engine.compilation.interface import Memory, Weights
from engine.errors import LoadError
from engine.models.model import Model
from engine.models.tensors import Arrays, TensorSpec
from engine.scheduling.buckets import Bucket


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

    __slots__ = ("_compiled", "memory", "self_contained")

    def __init__(
        self, compiled: jax.stages.Compiled, memory: Memory, *, self_contained: bool
    ) -> None:
        self._compiled = compiled
        self.memory = memory
        self.self_contained = self_contained

    def launch(self, weights: Weights, inputs: Arrays) -> JaxExecution:
        """Start it on staged arrays of exactly the bucket's shape, and return at once."""
        return JaxExecution(self._compiled(weights.leaves, dict(inputs)))


class JaxCompiler:
    """Compiles the buckets of one model. Puts its weights on the device once."""

    def __init__(self, model: Model) -> None:
        self._signature = model.signature
        self._apply = model.program.apply
        leaves, tree = jax.tree.flatten(model.program.params)
        self._tree: Any = tree  # JAX publishes no type for it
        placed = jax.block_until_ready(jax.device_put(leaves))
        self.weights = Weights(placed, sum(leaf.nbytes for leaf in placed))
        self._shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in placed]

    def compile(self, bucket: Bucket) -> JaxExecutable:
        """Lower and compile one bucket. Safe to call from several threads.

        Raises `LoadError` when `apply` does not return what the model's signature states.
        """
        signature, tree = self._signature, self._tree
        inputs = {
            spec.name: jax.ShapeDtypeStruct(
                spec.batch_shape(bucket.rows, bucket.length), spec.device_dtype
            )
            for spec in signature.device_inputs
        }

        def apply(leaves: list[Any], inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            outputs = self._apply(jax.tree.unflatten(tree, leaves), inputs)
            return _named(signature.device_outputs, bucket, outputs)

        with expected_compiles():
            lowered = jax.jit(apply).lower(self._shapes, inputs)
            compiled = lowered.compile()
        memory = _memory(compiled, signature.device_inputs, bucket)
        # XLA names the targets that call back into Python after that, one for each platform
        self_contained = "callback" not in lowered.as_text()
        return JaxExecutable(compiled, memory, self_contained=self_contained)


def _named(specs: tuple[TensorSpec, ...], bucket: Bucket, outputs: object) -> dict[str, jax.Array]:
    """The outputs in the order of the signature, checked while tracing."""
    if not isinstance(outputs, Mapping):
        raise LoadError(f"apply gave a {type(outputs).__name__}, not a dict of named outputs")
    for spec in specs:
        if spec.name not in outputs:
            raise LoadError(f"apply gave {sorted(outputs)}, but the spec states {spec.name!r}")
        got = outputs[spec.name]
        shape = spec.batch_shape(bucket.rows, bucket.length)
        if got.shape != shape or got.dtype != spec.device_dtype:
            raise LoadError(
                f"output {spec.name!r} of bucket {bucket} is {got.dtype}{list(got.shape)}, "
                f"but the spec states {spec.device_dtype}{list(shape)}"
            )
    return {spec.name: outputs[spec.name] for spec in specs}


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
