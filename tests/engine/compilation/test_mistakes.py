"""What a model's author gets wrong: each mistake is named, with what to write instead."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Final

import equinox
import flax.linen
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from engine.compilation.compiler import JaxCompiler
from engine.compilation.tracing import TraceableProgram
from engine.errors import LoadError
from engine.models.model import Model, ModelState
from engine.models.tensors import DTYPES, TensorSpec
from engine.scheduling.buckets import Bucket
from engine.testing import puppet_config, puppet_model

KEPT: Final[list[Any]] = []
TorchTensor: Final = type("Tensor", (), {"__module__": "torch"})
PAIR: Final = (TensorSpec("y", "FP32", (2,)), TensorSpec("z", "FP32"))


class Scale(nnx.Module):
    """`y = scale * x`, with a layer in a list, whose key in the state is a number."""

    def __init__(self) -> None:
        self.layers = nnx.List([nnx.Param(jnp.ones(2))])


DENSE: Final = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}


class Layers(flax.linen.Module):
    """Its layer is below a name, and its averages are a collection of their own."""

    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`y` of `x`."""
        return flax.linen.BatchNorm(use_running_average=True)(flax.linen.Dense(2)(x))  # type: ignore[no-any-return]


def variables_of(module: flax.linen.Module) -> Any:
    return module.init(jax.random.key(0), jnp.ones((1, 2)))


def linen(module: flax.linen.Module, params: Any, *, wrapped: bool = False) -> Model:
    """The model of a module, which is called with its params as they are or as a collection."""

    def apply(params: Any, inputs: Any) -> Any:
        return {"y": module.apply({"params": params} if wrapped else params, inputs["x"])}

    return applied(apply, params)


class MLP(equinox.Module):
    """Has a function among its leaves."""

    weight: jax.Array
    activation: Callable[[jax.Array], jax.Array]


def applied(apply: Callable[..., Any], params: Any = None, **changes: Any) -> Model:
    return puppet_model(apply=apply, params={} if params is None else params, **changes)


def returning(make: Callable[[Any], Any], **changes: Any) -> Model:
    """`apply` returns what `make` makes of the input."""
    return applied(lambda _params, inputs: make(inputs["x"]), **changes)


def yielding(make: Callable[[Any], Any], **changes: Any) -> Model:
    """The output `y` is what `make` makes of the input."""
    return returning(lambda x: {"y": make(x)}, **changes)


def with_params(params: Any) -> Model:
    return applied(lambda params, inputs: {"y": inputs["x"]}, params)


def keeps(x: jax.Array) -> jax.Array:
    KEPT.append(x)
    return KEPT[0] + x


WHOLE: Final = (
    r"module\.apply takes all that module\.init\(\.\.\.\) returned, as \{'params': \.\.\.\}: "
    r"give that as params and call module\.apply\(params, \.\.\.\), or give its 'params' and call "
    r"module\.apply\(\{'params': params\}, \.\.\.\)"
)
MISTAKES = [
    # the weights
    pytest.param(
        with_params(MLP(jnp.ones(2), jax.nn.relu)),
        r"params\.activation is a function, not an array: params has an object of equinox\. "
        r"Give params, static = equinox\.partition\(module, equinox\.is_array\), and in apply "
        r"equinox\.combine\(params, static\)",
        id="an-equinox-module",
    ),
    pytest.param(
        with_params(flax.linen.Dense(2)),
        r"params is of type Dense, not an array: params has an object of flax\.linen\. "
        r"Give params = what module\.init\(\.\.\.\) returned",
        id="a-linen-module",
    ),
    pytest.param(
        with_params(nnx.split(nnx.eval_shape(Scale))[1]),
        r"params\['layers'\]\[0\]\.value is abstract: it has a shape, \(2,\), and no values\. Load",
        id="an-abstract-state",
    ),
    pytest.param(
        with_params(ocp.args.Composite(state={"w": np.ones(2)})),
        r"params is of type \w+, not an array: params has an object of orbax",
        id="several-items-of-a-checkpoint",
    ),
    pytest.param(
        with_params({"w": TorchTensor()}),
        r"params\['w'\] is of type Tensor, not an array: .* torch\. .*\.state_dict\(\)",
        id="a-tensor-of-torch",
    ),
    pytest.param(
        with_params({"w": np.ones(2), "name": "mlp"}),
        r"params\['name'\] is of type str, not an array: weights are arrays and numbers; keep",
        id="a-string",
    ),
    pytest.param(
        with_params({"w": np.array(["a"])}),
        r"params\['w'\] is an array of <U1, not of numbers",
        id="an-array-of-strings",
    ),
    pytest.param(
        with_params({"w": np.array([2**40])}),
        r"params\['w'\] holds int64 that do not fit into int32; without a 64-bit output",
        id="weights-beyond-32-bits",
    ),
    # the function
    pytest.param(
        applied(lambda inputs: inputs),
        r"apply takes \(inputs\), but it is called as apply\(params, inputs\)",
        id="one-argument",
    ),
    pytest.param(
        applied(lambda params, x, mask: x),
        r"apply takes \(params, x, mask\), but it is called as apply\(params, inputs\)",
        id="an-argument-per-input",
    ),
    pytest.param(applied(3), "apply is of type int, not a function", id="a-number"),  # type: ignore[arg-type]
    pytest.param(
        applied(lambda _params, inputs: {"y": inputs["image"]}),
        r"apply failed at test_mistakes\.py:\d+: KeyError: 'image' \(inputs: x FP32 \[4, 2\]\)",
        id="an-input-of-another-name",
    ),
    pytest.param(
        applied(
            lambda params, inputs: {"y": flax.linen.Dense(2).apply(params, inputs["x"])},
            {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)},
        ),
        r"apply failed at .*: ApplyScopeInvalid.*; params: \{'bias', 'kernel'\}",
        id="a-level-too-few",
    ),
    pytest.param(
        linen(flax.linen.Dense(2), DENSE),
        rf"params: \{{'bias', 'kernel'\}}; {WHOLE}",
        id="the-params-of-a-layer",
    ),
    pytest.param(
        linen(Layers(), variables_of(Layers())["params"]),
        rf"ScopeCollectionNotFound: .*; params: \{{.*\}}; {WHOLE}",
        id="the-params-of-layers",
    ),
    pytest.param(
        linen(Layers(), {"params": variables_of(Layers())["params"]}),
        rf"ScopeCollectionNotFound: .*; params: \{{'params'\}}; {WHOLE}",
        id="without-a-collection",
    ),
    pytest.param(
        linen(Layers(), variables_of(Layers()), wrapped=True),
        r"params: \{'batch_stats', 'params'\}; params has the level 'params' already: "
        r"call module\.apply\(params, \.\.\.\)",
        id="a-level-too-many",
    ),
    pytest.param(
        applied(lambda params, inputs: {"y": inputs["z"] @ params}, np.ones((2, 3), np.float32)),
        r"KeyError: 'z' \(inputs: x FP32 \[4, 2\]\); params: an array, FP32 \[2, 3\]",
        id="params-of-one-array",
    ),
    pytest.param(
        applied(lambda params, inputs: {"y": inputs["z"]}, [np.ones(3)]),
        r"\); params: a list",
        id="params-of-a-list",
    ),
    pytest.param(
        applied(lambda params, inputs: {"y": inputs["x"].weights}, {}),
        r"AttributeError: array has no attribute weights",
        id="an-attribute-that-arrays-lack",
    ),
    pytest.param(
        yielding(lambda x: x if x.sum() > 0 else -x),
        r"apply decides in Python .* on a value that it computes at test_mistakes\.py:\d+: while "
        r"it is compiled there are shapes and no values; use jnp\.where",
        id="if",
    ),
    pytest.param(
        yielding(np.asarray),
        r"apply gives a value that it computes to NumPy at .*; use jax\.numpy",
        id="numpy",
    ),
    pytest.param(
        yielding(lambda x: [0, 1][x[0, 0].astype(int)]),
        "apply uses a value that it computes as a Python index or size",
        id="index",
    ),
    pytest.param(
        yielding(lambda x: float(x[0, 0])),
        r"apply needs a value that it computes as a Python number",
        id="float",
    ),
    pytest.param(
        yielding(lambda x: x[x > 0]),
        "apply selects by a mask, and the number of values would depend on them",
        id="mask",
    ),
    # its outputs
    pytest.param(
        returning(lambda x: x),
        r"apply returned one array, not a dict of named outputs: return \{'y': \.\.\.\}",
        id="a-bare-array",
    ),
    pytest.param(
        returning(lambda x: (x, x[:, 0]), outputs=PAIR),
        r"apply returned a tuple, not a dict .*: return \{'y': \.\.\., 'z': \.\.\.\}",
        id="a-tuple",
    ),
    pytest.param(returning(lambda x: None), "apply returned nothing, not a dict", id="nothing"),
    pytest.param(
        returning(lambda x: {"y": x}, outputs=PAIR),
        r"apply returned 'y', without the output 'z' of the spec",
        id="one-output-of-two",
    ),
    pytest.param(
        yielding(lambda x: 1.0), "output 'y' is of type float, not an array", id="not-an-array"
    ),
    pytest.param(
        yielding(lambda x: x.astype(jnp.bfloat16)),
        r"is BF16 \[4, 2\], but the spec states FP32 \[4, 2\]: cast it with "
        r"\.astype\(jnp\.float32\), or state BF16",
        id="bfloat16",
    ),
    pytest.param(
        yielding(lambda x: x.astype(jnp.complex64)),
        r"is complex64 \(no datatype of the protocol\) \[4, 2\]",
        id="complex",
    ),
    pytest.param(
        yielding(lambda x: x[:, :1], outputs=(TensorSpec("y", "FP32"),)),
        r"is FP32 \[4, 1\], but the spec states FP32 \[4\]: take \[\.\.\., 0\] of it, or state the "
        r"shape \(1,\)",
        id="an-axis-of-one",
    ),
    pytest.param(
        yielding(lambda x: x.astype(jnp.int32), outputs=(TensorSpec("y", "INT64", (2,)),)),
        r"is INT32 \[4, 2\], but the spec states INT64 \[4, 2\]: cast it with "
        r"\.astype\(jnp\.int64\), or state INT32; JAX computes this model in 64 bits, because the "
        "spec states 'y' INT64",
        id="int32-for-int64",
    ),
]


@pytest.mark.parametrize(("model", "said"), MISTAKES)
def test_a_mistake_is_named_with_its_remedy(model: Model, said: str) -> None:
    """The check and the compiler find the same."""
    with pytest.raises(LoadError, match=said):
        TraceableProgram(model).trace(Bucket(4))
    with pytest.raises(LoadError, match=said):
        JaxCompiler(model).compile(Bucket(4))


def test_a_value_kept_from_one_bucket_is_named_in_the_next() -> None:
    KEPT.clear()
    compiler = JaxCompiler(yielding(keeps))
    compiler.compile(Bucket(1))
    with pytest.raises(LoadError, match="apply uses a value that an earlier call computed and kep"):
        compiler.compile(Bucket(1, 2))
    KEPT.clear()


@pytest.mark.parametrize(("model", "said"), MISTAKES[:1] + MISTAKES[-1:])
def test_a_mistake_fails_its_model_with_the_same_words(
    model: Model, said: str, serving: Any
) -> None:
    with serving(puppet_config(rows=(4,)), load=lambda _config: model) as client:
        snapshot = client.endpoint("puppet").snapshot()
        assert snapshot.state is ModelState.FAILED
        assert re.match(f"LoadError: .*{said}", snapshot.reason or "")


# --- what is right --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({}, id="none"),
        pytest.param({"a": None, "b": 2, "c": 0.5, "d": True}, id="numbers-and-none"),
        pytest.param([np.float64(2), np.ones(2)], id="64-bit-floats"),
        pytest.param([np.array([2**31 - 1, -(2**31)]), np.array([], np.uint64)], id="64-bit-ints"),
        pytest.param(jnp.ones(2, jnp.bfloat16), id="bfloat16"),
        pytest.param(np.ones(2, ml_dtypes.bfloat16), id="bfloat16-of-numpy"),
        pytest.param(jax.random.key(0), id="a-random-key"),
        pytest.param(nnx.split(Scale())[1], id="an-nnx-state"),
        pytest.param(Scale(), id="an-nnx-module"),
        pytest.param(equinox.filter(MLP(jnp.ones(2), jax.nn.relu), equinox.is_array), id="equinox"),
    ],
)
def test_weights_of_these_kinds_are_right(params: Any) -> None:
    model = with_params(params)
    TraceableProgram(model).trace(Bucket(2))
    compiler = JaxCompiler(model)
    answer = compiler.compile(Bucket(2)).launch(
        compiler.weights, {"x": np.ones((2, 2), np.float32)}
    )
    assert answer.result()["y"].tolist() == [[1, 1], [1, 1]]
    assert not {str(leaf.dtype) for leaf in compiler.weights.leaves} & {"int64", "float64"}


@pytest.mark.parametrize(
    "apply",
    [
        pytest.param(jax.jit(lambda params, inputs: {"y": inputs["x"]}), id="jit"),
        pytest.param(functools.partial(lambda n, params, x: {"y": x["x"]}, 3), id="partial"),
        pytest.param(lambda *arguments: {"y": arguments[1]["x"]}, id="any-arguments"),
        pytest.param(lambda params, inputs, train=False: {"y": inputs["x"]}, id="defaults"),
    ],
)
def test_functions_of_these_kinds_are_right(apply: Callable[..., Any]) -> None:
    TraceableProgram(applied(apply)).trace(Bucket(2))


@pytest.mark.parametrize(("size", "said"), [(2**18, True), (2**17, False)], ids=["large", "small"])
def test_large_arrays_that_apply_closes_over_are_remarked_once(
    size: int, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They are constants of every executable; as params they exist once."""
    table = jnp.ones(size)
    compiler = JaxCompiler(yielding(lambda x: x * table.sum()))
    for rows in (1, 2):
        compiler.compile(Bucket(rows))
    assert caplog.text.count("apply closes over 1.0 MB of arrays") == int(said)


def scaled(datatype: str, scale: Any) -> Model:
    """A label, and scores by way of another scale."""

    def apply(_params: Any, inputs: Any) -> dict[str, Any]:
        scores = (inputs["x"] * scale).astype(jnp.float32)
        return {"label": scores.argmax(axis=1).astype(DTYPES[datatype]), "scores": scores}

    return applied(
        apply, outputs=(TensorSpec("label", datatype), TensorSpec("scores", "FP32", (2,)))
    )


@pytest.mark.parametrize(
    ("datatype", "scale", "said"),
    [
        pytest.param("INT64", np.sqrt(2), True, id="a-float-of-numpy"),
        pytest.param("INT64", 2.0, False, id="a-float-of-python"),
        pytest.param("INT32", np.sqrt(2), False, id="without-a-64-bit-output"),
    ],
)
def test_floats_of_64_bits_that_nothing_asks_for_are_remarked(
    datatype: str, scale: Any, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    JaxCompiler(scaled(datatype, scale)).compile(Bucket(2))
    remark = "apply computes partly in FP64, because the spec states 'label' INT64"
    assert caplog.text.count(remark) == int(said)
