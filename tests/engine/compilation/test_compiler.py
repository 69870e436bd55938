"""Compiling for real: weights are passed at launch, and other shapes are refused."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from engine.compilation.compiler import JaxCompiler, JaxExecution
from engine.compilation.guard import watch_compiles
from engine.compilation.interface import Weights
from engine.errors import ExecutionFailed, LoadError
from engine.models.model import Model, ModelState
from engine.models.tensors import LENGTH, Array, TensorSpec
from engine.scheduling.buckets import Bucket
from engine.testing import puppet_config, puppet_model, rows, submit
from tests.engine.compilation.matrix import SIZE, WEIGHTS_BYTES, matrix_model


def on_the_device() -> int:
    """Bytes of all arrays that JAX keeps alive."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_the_weights_are_on_the_device_once_whatever_the_number_of_buckets(count: int) -> None:
    before = on_the_device()
    compiler = JaxCompiler(matrix_model())
    executables = [compiler.compile(Bucket(rows)) for rows in range(1, count + 1)]
    for bucket_rows, executable in enumerate(executables, start=1):
        executable.launch(
            compiler.weights, {"x": np.ones((bucket_rows, SIZE), np.float32)}
        ).result()
    assert on_the_device() - before == compiler.weights.nbytes == WEIGHTS_BYTES


def test_the_weights_are_arguments_of_every_executable_and_constants_of_none() -> None:
    compiler = JaxCompiler(matrix_model())
    for bucket in (Bucket(1), Bucket(8)):
        executable = compiler.compile(bucket)
        analysis: Any = executable._compiled.memory_analysis()
        assert analysis.argument_size_in_bytes == WEIGHTS_BYTES + executable.memory.inputs
        program = executable._compiled.as_text()
        weights = f"f32[{SIZE},{SIZE}]"
        assert f"= {weights}{{1,0}} parameter(" in program
        assert f"= {weights}{{1,0}} constant(" not in program


def test_the_memory_of_an_executable_is_that_of_its_bucket() -> None:
    compiler = JaxCompiler(matrix_model())
    small, large = (compiler.compile(Bucket(rows)).memory for rows in (1, 8))
    assert (small.inputs, small.outputs) == (SIZE * 4, SIZE * 4)
    assert (large.inputs, large.outputs) == (8 * SIZE * 4, 8 * SIZE * 4)
    # a temporary of the weights' size would be a second copy of them in every batch
    assert 0 <= large.temporary < WEIGHTS_BYTES
    assert large.code >= 0


@pytest.mark.parametrize("calls_back", [True, False])
def test_a_program_that_calls_back_into_python_is_not_self_contained(calls_back: bool) -> None:
    def double(x: jax.Array) -> jax.Array:
        if calls_back:
            return jax.pure_callback(lambda y: 2 * y, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return 2 * x

    model = Model(
        apply=lambda _params, inputs: {"y": double(inputs["x"])},
        params={},
        inputs=(TensorSpec("x", "FP32", (1,)),),
        outputs=(TensorSpec("y", "FP32", (1,)),),
    )
    assert JaxCompiler(model).compile(Bucket(1)).self_contained is not calls_back


def test_the_executables_of_several_threads_are_those_of_their_own_buckets() -> None:
    compiler = JaxCompiler(matrix_model())
    compiled: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: compiled.update({n: compiler.compile(Bucket(n))}))
        for n in (1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, executable in compiled.items():
        answer = executable.launch(
            compiler.weights, {"x": np.full((n, SIZE), n, np.float32)}
        ).result()
        np.testing.assert_array_equal(answer["y"], np.full((n, SIZE), n * SIZE, np.float32))
    assert sorted(compiled) == [1, 2, 3]


# --- weights at launch ----------------------------------------------------------------------------


def test_one_executable_launched_with_two_weights_gives_two_answers() -> None:
    compiler = JaxCompiler(matrix_model())
    executable = compiler.compile(Bucket(1))
    doubled = Weights([np.full((SIZE, SIZE), 2, np.float32)], 0)
    inputs = {"x": np.ones((1, SIZE), np.float32)}
    for weights, answer in (
        (compiler.weights, SIZE),
        (doubled, 2 * SIZE),
        (compiler.weights, SIZE),
    ):
        outputs = executable.launch(weights, inputs).result()
        assert outputs["y"].tolist() == [[answer] * SIZE]


def test_other_weights_of_the_same_shapes_compile_nothing() -> None:
    compiler = JaxCompiler(matrix_model())
    executable = compiler.compile(Bucket(1))
    compiled: list[str] = []
    unwatch = watch_compiles(lambda: compiled.append("compiled"))
    weights = Weights([np.zeros((SIZE, SIZE), np.float32)], 0)
    executable.launch(weights, {"x": np.ones((1, SIZE), np.float32)}).result()
    unwatch()
    assert compiled == []


def linear(params: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """`y = x @ w + b` for params with the entries `w` and `b`."""
    return {"y": inputs["x"] @ params["w"][...] + params["b"][...]}


def linear_model(params: Any) -> Model:
    spec = TensorSpec("x", "FP32", (2,))
    return Model(apply=linear, params=params, inputs=(spec,), outputs=(replace(spec, name="y"),))


WEIGHT, BIAS = np.array([[1, 2], [3, 4]], np.float32), np.array([10, 20], np.float32)


def test_the_state_of_an_nnx_module_becomes_a_flat_list_of_leaves() -> None:
    state = nnx.State({"w": nnx.Param(jnp.asarray(WEIGHT)), "b": nnx.Param(jnp.asarray(BIAS))})
    compiler = JaxCompiler(linear_model(state))
    leaves = compiler.weights.leaves
    assert type(leaves) is list
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert compiler.weights.nbytes == WEIGHT.nbytes + BIAS.nbytes
    executable = compiler.compile(Bucket(1))
    takes, _named = executable._compiled.in_tree.children()[0].children()
    assert takes == jax.tree.structure([0, 0])
    answer = executable.launch(compiler.weights, {"x": np.ones((1, 2), np.float32)}).result()
    assert answer["y"].tolist() == [[14, 26]]


@jax.tree_util.register_pytree_node_class
class CountedParams(dict[str, Any]):
    """Counts how often its tree is flattened, in all instances."""

    flattened = 0

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        CountedParams.flattened += 1
        return tuple(self.values()), tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], leaves: tuple[Any, ...]) -> CountedParams:
        return cls(zip(names, leaves, strict=True))


def test_the_tree_of_the_params_is_flattened_once_at_load_and_at_no_launch() -> None:
    CountedParams.flattened = 0
    compiler = JaxCompiler(linear_model(CountedParams(w=WEIGHT, b=BIAS)))
    assert CountedParams.flattened == 1
    executables = [compiler.compile(Bucket(rows)) for rows in (1, 2)]
    for bucket_rows, executable in enumerate(executables, start=1):
        executable.launch(compiler.weights, {"x": np.ones((bucket_rows, 2), np.float32)}).result()
    assert CountedParams.flattened == 1


# --- has it ended? -------------------------------------------------------------------------------


def test_a_result_that_is_there_is_ready() -> None:
    execution = JaxExecution({"y": jax.block_until_ready(jnp.ones(3))})
    assert execution.ready
    np.testing.assert_array_equal(execution.result()["y"], np.ones(3, np.float32))


class Output:
    """One output of an execution; `ready` is None where JAX cannot be asked."""

    def __init__(self, ready: bool | None) -> None:
        self.copying = False
        if ready is not None:
            self.is_ready = lambda: ready

    def copy_to_host_async(self) -> None:
        self.copying = True


@pytest.mark.parametrize(
    ("outputs", "ready"),
    [
        pytest.param([True, True], True, id="all-there"),
        pytest.param([True, False], False, id="one-is-not"),
        pytest.param([True, None], False, id="unknown"),
    ],
)
def test_what_is_not_ready_is_copied_to_the_host_when_it_is(
    outputs: list[bool | None], ready: bool
) -> None:
    made = {str(n): Output(each) for n, each in enumerate(outputs)}
    assert JaxExecution(made).ready is ready  # type: ignore[arg-type]
    assert [output.copying for output in made.values()] == [not ready] * len(outputs)


# --- what an executable refuses -----------------------------------------------------------------


@pytest.mark.parametrize(
    "staged",
    [
        pytest.param(np.zeros((2, 2), np.float32), id="fewer-rows"),
        pytest.param(np.zeros((5, 2), np.float32), id="more-rows"),
        pytest.param(np.zeros((4, 3), np.float32), id="wider-rows"),
        pytest.param(np.zeros((4, 2), np.int32), id="integers"),
    ],
)
def test_a_compiled_executable_refuses_what_it_was_not_compiled_for(staged: np.ndarray) -> None:
    compiler = JaxCompiler(puppet_model())
    executable = compiler.compile(Bucket(4))
    with pytest.raises(TypeError, match="Argument types differ"):
        executable.launch(compiler.weights, {"x": staged})


def returns(outputs: Callable[[Any], Mapping[str, Any]]) -> Model:
    """The puppet model with another `apply`."""
    return puppet_model(apply=lambda _params, inputs: outputs(inputs["x"]))


BROKEN_SIGNATURES = [
    pytest.param(
        returns(lambda x: {"z": x}),
        "apply returned 'z', without the output 'y' of the spec: return {'y': ...}",
        id="a-missing-output",
    ),
    pytest.param(
        puppet_model(apply=lambda _params, inputs: inputs["x"]),
        "apply returned one array, not a dict of named outputs: return {'y': ...}",
        id="an-output-without-its-name",
    ),
    pytest.param(
        returns(lambda x: {"y": x[:, :1]}),
        r"output 'y' of bucket 4 is FP32 \[4, 1\], but the spec states FP32 \[4, 2\]",
        id="another-shape",
    ),
    pytest.param(
        returns(lambda x: {"y": x[0]}),
        r"output 'y' of bucket 4 is FP32 \[2\], but the spec states FP32 \[4, 2\]: the first axis ",
        id="no-rows-axis",
    ),
    pytest.param(
        returns(lambda x: {"y": x.astype(jnp.int32)}),
        r"output 'y' of bucket 4 is INT32 \[4, 2\], but the spec states FP32 \[4, 2\]: cast it",
        id="another-dtype",
    ),
]


@pytest.mark.parametrize(("model", "said"), BROKEN_SIGNATURES)
def test_an_apply_that_breaks_its_signature_does_not_compile(model: Model, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        JaxCompiler(model).compile(Bucket(4))


@pytest.mark.parametrize(("model", "said"), BROKEN_SIGNATURES)
def test_an_apply_that_breaks_its_signature_fails_its_model_and_says_how(
    model: Model, said: str, serving: Any
) -> None:
    with serving(puppet_config(rows=(4,)), load=lambda _config: model) as client:
        snapshot = client.endpoint("puppet").snapshot()
        assert snapshot.state is ModelState.FAILED
        assert re.search(said, snapshot.reason or "")
        assert not client.ready


def test_outputs_that_the_spec_does_not_name_are_dropped() -> None:
    compiler = JaxCompiler(returns(lambda x: {"extra": x, "y": x}))
    executable = compiler.compile(Bucket(1))
    assert list(executable.launch(compiler.weights, rows(3)).result()) == ["y"]


def test_a_dynamic_output_follows_the_length_of_its_bucket() -> None:
    model = Model(
        apply=lambda _params, inputs: {"y": inputs["x"] * 2},
        params={},
        inputs=(TensorSpec("x", "INT64", (LENGTH,)),),
        outputs=(TensorSpec("y", "INT64", (LENGTH,)),),
    )
    compiler = JaxCompiler(model)
    executable = compiler.compile(Bucket(2, 3))
    answer = executable.launch(
        compiler.weights, {"x": np.arange(6, dtype=np.int64).reshape(2, 3)}
    ).result()
    assert answer["y"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert executable.memory.inputs == 2 * 3 * 8


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_callback_of_a_program_raises_stays_in_the_log(
    serving: Any, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    unlucky = 13.0

    def called_back(y: Array) -> Array:
        if (np.asarray(y) == unlucky).any():
            raise error("/srv/secret.py")
        return np.asarray(2 * y)

    def apply(_params: Any, inputs: Any) -> dict[str, jax.Array]:
        x = inputs["x"]
        return {"y": jax.pure_callback(called_back, jax.ShapeDtypeStruct(x.shape, x.dtype), x)}

    model = puppet_model(apply=apply)
    with serving(puppet_config(rows=(4,)), load=lambda _config: model) as client:
        pending = submit(client, "puppet", rows(unlucky))
        with pytest.raises(ExecutionFailed) as raised:
            pending.result()
        said = str(raised.value)
        form = r"a batch of model 'puppet' failed on the device \(failure [0-9a-f]{8}\)"
        assert re.fullmatch(form, said)
        assert said.rsplit(maxsplit=1)[-1][:8] in caplog.text
        assert error.__name__ in caplog.text
        assert submit(client, "puppet", rows(1.0)).result()["y"].tolist() == [[2.0, -2.0]]


# --- 64 bits --------------------------------------------------------------------------------------


def doubling(datatype_in: str, datatype_out: str, function: Callable[[Any], Any]) -> Model:
    return Model(
        apply=lambda _params, inputs: {"y": function(inputs["x"])},
        params={"unused": np.ones(2)},
        inputs=(TensorSpec("x", datatype_in, (2,)),),
        outputs=(TensorSpec("y", datatype_out, (2,)),),
    )


LARGE = 2**31 - 2


@pytest.mark.parametrize(
    ("model", "value", "row"),
    [
        pytest.param(doubling("INT64", "INT64", lambda x: 2 * x), LARGE, [2 * LARGE] * 2, id="x2"),
        pytest.param(
            doubling("INT64", "INT64", lambda x: jnp.cumsum(x, axis=1)),
            LARGE,
            [LARGE, 2 * LARGE],
            id="sum",
        ),
        pytest.param(
            doubling("INT64", "INT64", lambda x: x), 2**62 + 1, [2**62 + 1] * 2, id="as-it-is"
        ),
        pytest.param(
            doubling("INT32", "INT64", lambda x: 2 * x.astype(jnp.int64)),
            LARGE,
            [2 * LARGE] * 2,
            id="cast-by-the-model",
        ),
        pytest.param(
            doubling("UINT64", "UINT64", lambda x: 3 * x), 2**62, [3 * 2**62] * 2, id="unsigned"
        ),
        pytest.param(
            doubling("FP64", "FP64", lambda x: x + 1), 2.0**53 - 1, [2.0**53] * 2, id="float"
        ),
    ],
)
def test_a_64_bit_output_is_computed_in_64_bits(
    model: Model, value: float, row: list[float], serving: Any
) -> None:
    """In 32 bits 2 * (2**31 - 2) is -4, and JAX says nothing."""
    dtype = model.signature.inputs[0].dtype
    with serving(puppet_config(rows=(1, 2)), load=lambda _config: model) as client:
        assert client.ready, client.endpoint("puppet").snapshot().reason
        got = client.infer("puppet", {"x": np.full((3, 2), value, dtype)})["y"]
    assert got.tolist() == [row] * 3
    assert got.dtype == model.signature.outputs[0].dtype


@pytest.mark.parametrize("globally", [False, True], ids=["jax-in-32-bits", "jax-in-64-bits"])
def test_a_model_without_a_64_bit_output_computes_in_32_bits_whatever_the_process_has_set(
    globally: bool, serving: Any
) -> None:
    model = doubling("INT64", "FP32", lambda x: x * jnp.ones(2))
    with jax.enable_x64(globally):
        compiler = JaxCompiler(model)
        executable = compiler.compile(Bucket(1))
    assert [leaf.dtype for leaf in compiler.weights.leaves] == [np.float32]
    answer = executable.launch(compiler.weights, {"x": np.full((1, 2), 7, np.int32)}).result()
    assert answer["y"].tolist() == [[7, 7]]
    assert model.signature.inputs[0].limits == (-(2**31), 2**31 - 1)


def test_weights_of_another_kind_than_the_64_bit_output_stay_in_32_bits() -> None:
    model = Model(
        apply=lambda params, inputs: {
            "label": (inputs["x"] @ params["w"]).argmax(axis=1),
            "scores": inputs["x"] @ params["w"],
        },
        params={"w": np.ones((2, 3)), "count": np.array([2**40])},
        inputs=(TensorSpec("x", "FP32", (2,)),),
        outputs=(TensorSpec("label", "INT64"), TensorSpec("scores", "FP32", (3,))),
    )
    compiler = JaxCompiler(model)
    dtypes = {str(leaf.dtype) for leaf in compiler.weights.leaves}
    assert dtypes == {"float32", "int64"}
    compiler.compile(Bucket(1))
