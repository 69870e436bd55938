"""Says in plain words what is wrong with a model's weights, its `apply`, or its outputs.

JAX names the mechanism that was hurt (`TracerBoolConversionError`); a message here names what the
model's code does and what to write instead.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import jax
import numpy as np
from jax import errors

from engine.errors import LoadError
from engine.models.model import Apply, check_call
from engine.models.tensors import DTYPES, TensorSpec

_HERE: Final = str(Path(__file__).parent)
_DATATYPES: Final[Mapping[Any, str]] = {dtype: name for name, dtype in DTYPES.items()}
LONGEST: Final = 500
"""Characters of another library's message."""
MOST_NAMES: Final = 8
MANY_BYTES: Final = 1 << 20
"""Of constants: small tables are usual, weights are a mistake."""
_KEPT: Final = "uses a value that an earlier call computed and kept (in a global, an attribute)"
_RETURN: Final = "return all that it computes, and keep nothing"

_TRACING: Final[Sequence[tuple[type[Exception], str, str]]] = (
    # the narrower class before the wider one
    (
        errors.TracerBoolConversionError,
        "decides in Python (if, while, and, or, assert) on a value that it computes",
        "use jnp.where, jax.lax.cond or jax.lax.while_loop",
    ),
    (
        errors.TracerArrayConversionError,
        "gives a value that it computes to NumPy",
        "use jax.numpy instead of numpy",
    ),
    (
        errors.TracerIntegerConversionError,
        "uses a value that it computes as a Python index or size",
        "use jnp.take or jax.lax.dynamic_slice; sizes come from .shape",
    ),
    (
        errors.NonConcreteBooleanIndexError,
        "selects by a mask, and the number of values would depend on them",
        "use jnp.where, which keeps the shape",
    ),
    (
        errors.ConcretizationTypeError,
        "needs a value that it computes as a Python number (int, float, .item(), a size)",
        "keep it an array; sizes come from .shape",
    ),
    (errors.UnexpectedTracerError, _KEPT, _RETURN),
)

_LIBRARIES: Final[Mapping[str, str]] = {
    # the package of the object that stands where arrays should -> what to give instead
    "equinox": (
        "params, static = equinox.partition(module, equinox.is_array), "
        "and in apply equinox.combine(params, static)"
    ),
    "flax.nnx": "graphdef, params = nnx.split(module), and in apply nnx.merge(graphdef, params)",
    "flax.linen": "params = what module.init(...) returned or a checkpoint holds, "
    "and in apply module.apply(params, ...)",
    "orbax": "the restored tree of arrays: of several items the one with the weights, as "
    "checkpointer.restore(path).state or restored['params']",
    "torch": "params = {name: tensor.numpy() for name, tensor in module.state_dict().items()}",
}

_WHOLE: Final = (
    "module.apply takes all that module.init(...) returned, as {'params': ...}: give that as "
    "params and call module.apply(params, ...), or give its 'params' and call "
    "module.apply({'params': params}, ...)"
)
_FLAX: Final[Mapping[str, str]] = {
    # by the name of the exception: Brim runs without flax
    "ApplyScopeInvalidVariablesTypeError": _WHOLE,
    "ScopeCollectionNotFound": _WHOLE,
    "ApplyScopeInvalidVariablesStructureError": "params has the level 'params' already: call "
    "module.apply(params, ...), or give its 'params' alone as params",
}
_TRACER: Final = re.compile(r"\b\w+Tracer\b")
"""JAX's classes of what stands for an array while a model is compiled."""


def datatype(dtype: Any) -> str:
    """The datatype of a dtype, in the words of a spec; JAX's own word if a spec has none."""
    return _DATATYPES.get(dtype, f"{dtype} (no datatype of the protocol)")


def check_leaf(params: Any, path: str, leaf: Any) -> None:
    """Raise `LoadError` for a leaf of the weights' tree that is no array and no number."""
    where = f"params{path}"
    if isinstance(leaf, bool | int | float | complex):
        return
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise LoadError(f"{where} {_not_an_array(params, leaf)}")
    if isinstance(leaf.dtype, np.dtype) and leaf.dtype.kind in "OSUMm":  # JAX has dtypes of its own
        problem = f"is an array of {leaf.dtype}, not of numbers"
        raise LoadError(f"{where} {problem}: keep what is no weight beside apply")


def _not_an_array(params: Any, leaf: Any) -> str:
    if isinstance(leaf, jax.ShapeDtypeStruct) or type(leaf).__name__ == "ArrayMetadata":
        return (
            f"is abstract: it has a shape, {tuple(leaf.shape)}, and no values. "
            "Load or restore the weights into it, and give the result"
        )
    kind, package = type(leaf).__name__, type(leaf).__module__.partition(".")[0]
    function = callable(leaf) and package in ("builtins", "functools", "jax", "jaxlib")
    name = f"is {'a function' if function else f'of type {kind}'}, not an array"
    for thing in (params, leaf):
        for parent in type(thing).__mro__:
            for library, remedy in _LIBRARIES.items():
                if f"{parent.__module__}.".startswith(f"{library}."):
                    return f"{name}: params has an object of {library}. Give {remedy}"
    return f"{name}: weights are arrays and numbers; keep what is no weight beside apply"


def check_parameters(apply: Apply) -> None:
    """Raise `LoadError` unless `apply` can be called with params and inputs."""
    call = "it is called as apply(params, inputs): inputs is a dict of arrays by name"
    check_call("apply", apply, call, ({}, {}))


def explain(error: Exception, params: Any, inputs: Mapping[str, Any]) -> LoadError:
    """What an exception of `apply` means."""
    place = _place(error.__traceback__)
    for kind, what, remedy in _TRACING:
        if isinstance(error, kind):
            unknown = "while it is compiled there are shapes and no values"
            return LoadError(f"apply {what}{place}: {unknown}; {remedy}")
    text = _TRACER.sub("array", " ".join(str(error).split()))
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    given = ", ".join(f"{name} {_described(array)}" for name, array in inputs.items())
    said = f"apply failed{place}: {type(error).__name__}: {text} (inputs: {given})"
    return LoadError(f"{said}; params: {_outline(params)}{_remedy_of_flax(error)}")


def _remedy_of_flax(error: Exception) -> str:
    kind = type(error)
    remedy = _FLAX.get(kind.__name__) if kind.__module__ == "flax.errors" else None
    return f"; {remedy}" if remedy else ""


def _outline(params: Any) -> str:
    """The names at the top of the weights: enough to see a level too many or too few."""
    if isinstance(params, jax.core.Tracer):
        return f"an array, {_described(params)}"
    if not isinstance(params, Mapping):
        return f"a {type(params).__name__}"
    names = [repr(name) for name in params]
    return "{" + ", ".join(names[:MOST_NAMES] + ["..."] * (len(names) > MOST_NAMES)) + "}"


def check_constants(constants: Sequence[Any]) -> int:
    """The bytes of the arrays that `apply` closes over. Raises `LoadError` for a traced value among
    them.
    """
    if any(isinstance(constant, jax.core.Tracer) for constant in constants):
        raise LoadError(f"apply {_KEPT}; {_RETURN}")
    return sum(int(getattr(constant, "nbytes", 0)) for constant in constants)


def closed_over(nbytes: int) -> str:
    """What arrays of so many bytes that `apply` closes over are worth saying, or ""."""
    if nbytes < MANY_BYTES:
        return ""
    return (
        f"apply closes over {nbytes / 1e6:.1f} MB of arrays, which are copied into every bucket's "
        "executable: give them as params"
    )


def doubled(program: str, wide: str) -> str:
    """What arrays of FP64 in a traced program are worth saying where no spec asks for them; ""
    without any. `wide` are the outputs that the 64 bits are for.
    """
    if not re.search(r"f64\[\d", program):
        return ""
    return (
        f"apply computes partly in FP64, because the spec states {wide} and JAX's defaults have 64 "
        "bits then: cast with .astype(jnp.float32), or state INT32"
    )


def _place(trace: TracebackType | None) -> str:
    """The line of the model's own code that an exception came from."""
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if "site-packages" not in frame.filename and not frame.filename.startswith((_HERE, "<"))
    ]
    # the name alone: clients read the reason too, and the paths of this machine are not for them
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def check_output(spec: TensorSpec, got: Any, bucket: object, shape: tuple[int, ...]) -> None:
    """Raise `LoadError` unless an output is what its spec states."""
    name = f"output {spec.name!r}"
    if not hasattr(got, "shape") or not hasattr(got, "dtype"):
        raise LoadError(f"{name} is of type {type(got).__name__}, not an array")
    if got.shape == shape and got.dtype == spec.device_dtype:
        return
    stated = datatype(spec.device_dtype)
    found = f"{name} of bucket {bucket} is {_described(got)}, but the spec states"
    raise LoadError(f"{found} {stated} {list(shape)}{_remedy(spec, got, shape)}")


def _remedy(spec: TensorSpec, got: Any, shape: tuple[int, ...]) -> str:
    if got.shape == shape:
        cast = f"cast it with .astype(jnp.{spec.device_dtype})"
        return f": {cast}, or state {datatype(got.dtype)}"
    if got.shape == shape[1:]:
        return ": the first axis must be the rows"
    if got.shape == (*shape, 1):
        return f": take [..., 0] of it, or state the shape {(*spec.shape, 1)}"
    return ""


def check_named(outputs: object, specs: Sequence[TensorSpec]) -> Mapping[str, Any]:
    """The outputs, if they are a dict with all that the specs name; otherwise a `LoadError`."""
    stated = ", ".join(f"{spec.name!r}: ..." for spec in specs)
    if not isinstance(outputs, Mapping):
        returned = {type(None): "nothing", list: "a list", tuple: "a tuple"}.get(type(outputs))
        array = "one array" if hasattr(outputs, "dtype") else f"a {type(outputs).__name__}"
        problem = f"apply returned {returned or array}, not a dict of named outputs"
        raise LoadError(f"{problem}: return {{{stated}}}")
    for spec in specs:
        if spec.name not in outputs:
            names = ", ".join(map(repr, outputs)) or "no outputs"
            problem = f"apply returned {names}, without the output {spec.name!r} of the spec"
            raise LoadError(f"{problem}: return {{{stated}}}")
    return outputs


def _described(array: Any) -> str:
    return f"{datatype(array.dtype)} {list(array.shape)}"
