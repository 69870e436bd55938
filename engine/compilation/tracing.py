"""A model's program made ready to be traced: its weights as a flat list, its outputs checked.

`brim check` traces for shapes alone, the compiler to compile; both find the same mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import jax
import numpy as np

from engine.compilation import mistakes
from engine.compilation.guard import expected_compiles
from engine.errors import LoadError
from engine.models.model import Model
from engine.models.tensors import value_range
from engine.scheduling.buckets import Bucket

NARROW: Final[Mapping[str, np.dtype[Any]]] = {
    "int64": np.dtype(np.int32),
    "uint64": np.dtype(np.uint32),
    "float64": np.dtype(np.float32),
    "complex128": np.dtype(np.complex64),
}


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Inside, JAX finds no other device, if nothing has used it before."""
    config: Any = jax.config  # its settings are made while JAX is imported
    before = config.jax_platforms
    config.update("jax_platforms", "cpu")
    try:
        with expected_compiles():
            yield
    finally:
        config.update("jax_platforms", before)


class TraceableProgram:
    """`apply`, and the leaves of its weights in the dtypes that the device computes in."""

    def __init__(self, model: Model) -> None:
        """Raises `LoadError` for weights that are no arrays, and an `apply` that cannot be called
        with weights and inputs.
        """
        self._signature = model.signature
        self.wide = bool(model.signature.wide)
        self._program = model.program
        self.remark = ""  # what is no mistake but costs much, known when a bucket is traced
        mistakes.check_parameters(self._program.apply)
        params = self._program.params
        # without None, which JAX takes as an empty tree
        paths, self._tree = jax.tree_util.tree_flatten_with_path(params)
        self.leaves = [self._narrowed(jax.tree_util.keystr(path), leaf) for path, leaf in paths]
        with self.bits():
            self.shapes = [
                jax.ShapeDtypeStruct(np.shape(leaf), jax.numpy.result_type(leaf))
                for leaf in self.leaves
            ]

    def bits(self) -> AbstractContextManager[None]:
        """JAX computes in 64 bits inside for a model that promises a 64-bit output, and in 32 bits
        for any other one, whatever the process has set.
        """
        context: AbstractContextManager[None] = jax.enable_x64(self.wide)
        return context

    def _narrowed(self, path: str, leaf: Any) -> Any:
        """The leaf, with 64-bit numbers in 32 bits unless an output of their kind has 64."""
        mistakes.check_leaf(self._program.params, path, leaf)
        values = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        narrow = NARROW.get(str(values.dtype))
        if narrow is None or values.dtype.kind.replace("c", "f") in self._signature.wide:
            return values
        values = np.asarray(values)
        if values.dtype.kind in "iu" and values.size:
            low, high = value_range(narrow)
            if not low <= values.min() <= values.max() <= high:
                problem = f"params{path} holds {values.dtype} that do not fit into {narrow}"
                raise LoadError(f"{problem}; without a 64-bit output a model computes in 32 bits")
        return values.astype(narrow)

    def _inputs(self, bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a bucket's inputs."""
        return {
            spec.name: jax.ShapeDtypeStruct(
                spec.batch_shape(bucket.rows, bucket.length), spec.device_dtype
            )
            for spec in self._signature.device_inputs
        }

    def trace(self, bucket: Bucket) -> jax.stages.Traced:
        """The traced program of a bucket; nothing is computed or compiled. Raises `LoadError` if
        `apply` fails or does not return what the signature states.
        """

        def apply(leaves: list[Any], inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            params = jax.tree.unflatten(self._tree, leaves)
            try:
                outputs: object = self._program.apply(params, inputs)
            except Exception as error:
                raise mistakes.explain(error, params, inputs) from error
            return self._checked(bucket, outputs)

        try:
            with self.bits(), expected_compiles():
                traced = jax.jit(apply).trace(self.shapes, self._inputs(bucket))
        except LoadError as error:
            raise self._because(error) from error.__cause__
        # where one is a traced value, JAX moves them to a place that it does not document
        moved = getattr(traced, "_consts", ())
        constants = mistakes.check_constants([*traced.jaxpr.consts, *moved])
        self.remark = mistakes.closed_over(constants) or self._doubled(traced)
        return traced

    def _doubled(self, traced: jax.stages.Traced) -> str:
        """What is worth saying where only JAX's defaults made floats of 64 bits, or ""."""
        if not self.wide or "f" in self._signature.wide:
            return ""
        return mistakes.doubled(str(traced.jaxpr), self._wide_outputs())

    def _wide_outputs(self) -> str:
        specs = self._signature.device_outputs
        wide = [spec for spec in specs if spec.dtype.kind in self._signature.wide]
        return ", ".join(f"{spec.name!r} {spec.datatype}" for spec in wide)

    def _checked(self, bucket: Bucket, outputs: object) -> dict[str, jax.Array]:
        """The outputs in the order of the signature."""
        specs = self._signature.device_outputs
        named = mistakes.check_named(outputs, specs)
        for spec in specs:
            shape = spec.batch_shape(bucket.rows, bucket.length)
            mistakes.check_output(spec, named[spec.name], bucket, shape)
        return {spec.name: named[spec.name] for spec in specs}

    def _because(self, error: LoadError) -> LoadError:
        """In 64 bits JAX's defaults are others, which a model's author may not expect."""
        names = self._wide_outputs()
        if not names:
            return error
        added = f"JAX computes this model in 64 bits, because the spec states {names}"
        return LoadError(f"{error}; {added}")
