"""Compiling for real: weights as arguments, shapes that are refused, and the watch on compiles."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engine.buckets import Bucket
from engine.errors import LoadError
from engine.executable import Compiler, Execution, expected_compiles, watch_compiles
from engine.model import Model
from engine.spec import LENGTH, TensorSpec
from engine.state import ModelState
from engine.testing import RecordingObserver, puppet_config, puppet_model, rows

SIZE = 256
WEIGHTS_BYTES = SIZE * SIZE * 4


def matrix_model() -> Model:
    """`y = x @ w` with a `w` of 256 KiB."""
    return Model(
        apply=lambda params, inputs: {"y": inputs["x"] @ params["w"]},
        params={"w": np.ones((SIZE, SIZE), np.float32)},
        inputs=(TensorSpec("x", "FP32", (SIZE,)),),
        outputs=(TensorSpec("y", "FP32", (SIZE,)),),
    )


def on_the_device() -> int:
    """Bytes of all arrays that JAX keeps alive."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_the_weights_are_on_the_device_once_whatever_the_number_of_buckets(count: int) -> None:
    before = on_the_device()
    compiler = Compiler(matrix_model())
    executables = [compiler.compile(Bucket(rows)) for rows in range(1, count + 1)]
    for bucket_rows, executable in enumerate(executables, start=1):
        executable.launch({"x": np.ones((bucket_rows, SIZE), np.float32)}).result()
    assert on_the_device() - before == compiler.weights_bytes == WEIGHTS_BYTES


def test_the_weights_are_arguments_of_every_executable_and_constants_of_none() -> None:
    compiler = Compiler(matrix_model())
    for bucket in (Bucket(1), Bucket(8)):
        executable = compiler.compile(bucket)
        analysis: Any = executable._compiled.memory_analysis()
        assert analysis.argument_size_in_bytes == WEIGHTS_BYTES + executable.memory.inputs
        program = executable._compiled.as_text()
        weights = f"f32[{SIZE},{SIZE}]"
        assert f"= {weights}{{1,0}} parameter(" in program
        assert f"= {weights}{{1,0}} constant(" not in program


def test_the_account_of_memory_is_that_of_the_bucket() -> None:
    compiler = Compiler(matrix_model())
    small, large = (compiler.compile(Bucket(rows)).memory for rows in (1, 8))
    assert (small.inputs, small.outputs) == (SIZE * 4, SIZE * 4)
    assert (large.inputs, large.outputs) == (8 * SIZE * 4, 8 * SIZE * 4)
    # a temporary of the weights' size would be a second copy of them in every batch
    assert 0 <= large.temporary < WEIGHTS_BYTES
    assert large.code >= 0


def test_a_program_that_calls_python_says_so() -> None:
    def apply(params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        x = inputs["x"]
        return {"y": jax.pure_callback(np.abs, jax.ShapeDtypeStruct(x.shape, x.dtype), x)}

    model = matrix_model()
    assert not Compiler(model).compile(Bucket(1)).calls_python
    assert Compiler(replace(model, apply=apply)).compile(Bucket(1)).calls_python


def test_the_executables_of_several_threads_are_those_of_their_own_buckets() -> None:
    compiler = Compiler(matrix_model())
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
        answer = executable.launch({"x": np.full((n, SIZE), n, np.float32)}).result()
        np.testing.assert_array_equal(answer["y"], np.full((n, SIZE), n * SIZE, np.float32))
    assert sorted(compiled) == [1, 2, 3]


# --- is it over? --------------------------------------------------------------------------------


def test_a_result_that_is_there_is_known_to_be() -> None:
    execution = Execution({"y": jax.block_until_ready(jnp.ones(3))})
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
    ("outputs", "over"),
    [
        pytest.param([True, True], True, id="all-there"),
        pytest.param([True, False], False, id="one-is-not"),
        pytest.param([True, None], False, id="unknown"),
    ],
)
def test_what_is_not_there_is_copied_to_the_host_when_it_is(
    outputs: list[bool | None], over: bool
) -> None:
    made = {str(n): Output(ready) for n, ready in enumerate(outputs)}
    assert Execution(made).ready is over  # type: ignore[arg-type]
    assert [output.copying for output in made.values()] == [not over] * len(outputs)


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
    executable = Compiler(puppet_model()).compile(Bucket(4))
    with pytest.raises(TypeError, match="Argument types differ"):
        executable.launch({"x": staged})


def returns(outputs: Callable[[Any], Mapping[str, Any]]) -> Model:
    """The puppet model with another `apply`."""
    return puppet_model(apply=lambda _params, inputs: outputs(inputs["x"]))


BROKEN_PROMISES = [
    pytest.param(
        returns(lambda x: {"z": x}),
        r"apply gave \['z'\], but the spec promises 'y'",
        id="a-missing-output",
    ),
    pytest.param(
        puppet_model(apply=lambda _params, inputs: inputs["x"]),
        "apply gave a .*Tracer, not a dict of named outputs",
        id="an-output-without-its-name",
    ),
    pytest.param(
        returns(lambda x: {"y": x[:, :1]}),
        r"output 'y' of bucket 4 is float32\[4, 1\], but the spec promises float32\[4, 2\]",
        id="another-shape",
    ),
    pytest.param(
        returns(lambda x: {"y": x[0]}),
        r"output 'y' of bucket 4 is float32\[2\], but the spec promises float32\[4, 2\]",
        id="no-rows-axis",
    ),
    pytest.param(
        returns(lambda x: {"y": x.astype(jnp.int32)}),
        r"output 'y' of bucket 4 is int32\[4, 2\], but the spec promises float32\[4, 2\]",
        id="another-dtype",
    ),
]


@pytest.mark.parametrize(("model", "said"), BROKEN_PROMISES)
def test_an_apply_that_breaks_its_promise_does_not_compile(model: Model, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        Compiler(model).compile(Bucket(4))


@pytest.mark.parametrize(("model", "said"), BROKEN_PROMISES)
def test_an_apply_that_breaks_its_promise_fails_its_model_and_says_how(
    model: Model, said: str, serving: Any
) -> None:
    with serving(puppet_config(rows=(4,)), load=lambda _config: model) as engine:
        stats = engine.stats("puppet")
        assert stats.state is ModelState.FAILED
        assert re.search(said, stats.reason or "")
        assert not engine.ready


def test_outputs_that_the_spec_does_not_name_are_dropped() -> None:
    executable = Compiler(returns(lambda x: {"extra": x, "y": x})).compile(Bucket(1))
    assert list(executable.launch(rows(3)).result()) == ["y"]


def test_a_dynamic_output_follows_the_length_of_its_bucket() -> None:
    model = Model(
        apply=lambda _params, inputs: {"y": inputs["x"] * 2},
        params={},
        inputs=(TensorSpec("x", "INT64", (LENGTH,)),),
        outputs=(TensorSpec("y", "INT64", (LENGTH,)),),
    )
    executable = Compiler(model).compile(Bucket(2, 3))
    answer = executable.launch({"x": np.arange(6, dtype=np.int32).reshape(2, 3)}).result()
    assert answer["y"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert executable.memory.inputs == 2 * 3 * 4


# --- the watch on compiles ----------------------------------------------------------------------


def compile_something() -> None:
    """A function that JAX has never seen."""
    jax.jit(lambda x: x + 1)(np.ones(3, np.float32))


def in_a_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Grows with every compile that nobody expected."""
    alarms: list[str] = []
    unwatch = watch_compiles(lambda: alarms.append("compiled"))
    yield alarms
    unwatch()


def test_a_compile_is_heard_in_whatever_thread_it_happens(heard: list[str]) -> None:
    compile_something()
    assert len(heard) == 1
    in_a_thread(compile_something)
    assert len(heard) == 2


def test_what_is_expected_is_not_heard(heard: list[str]) -> None:
    with expected_compiles():
        compile_something()
        with expected_compiles():
            compile_something()
        compile_something()
    assert heard == []
    compile_something()
    assert len(heard) == 1


def test_the_compiler_s_own_compiles_are_expected(heard: list[str]) -> None:
    Compiler(matrix_model()).compile(Bucket(3))
    assert heard == []


def test_one_thread_s_expectation_does_not_cover_another_s(heard: list[str]) -> None:
    with expected_compiles():
        in_a_thread(compile_something)
    assert len(heard) == 1


def test_an_expectation_ends_with_the_error_that_leaves_it(heard: list[str]) -> None:
    with pytest.raises(LoadError), expected_compiles():
        raise LoadError("while tracing")
    compile_something()
    assert len(heard) == 1


def test_two_watches_both_hear_and_one_that_has_ended_does_not(heard: list[str]) -> None:
    others: list[str] = []
    unwatch = watch_compiles(lambda: others.append("compiled"))
    compile_something()
    unwatch()
    unwatch()  # twice is once
    compile_something()
    assert len(heard) == 2
    assert len(others) == 1


def test_running_a_compiled_function_again_is_no_compile(heard: list[str]) -> None:
    executable = Compiler(puppet_model()).compile(Bucket(2))
    for _ in range(2):
        executable.launch(rows(1, 2)).result()
    assert heard == []


def test_the_engine_counts_what_compiles_after_ready_and_says_so(serving: Any) -> None:
    observer = RecordingObserver()
    config = puppet_config()
    with serving(config, observer=observer, load=lambda _config: puppet_model()) as engine:
        assert engine.stats("puppet").state is ModelState.READY
        assert engine.compiles_after_ready == 0
        in_a_thread(compile_something)
        assert engine.compiles_after_ready == 1
        assert observer.named("compiled_after_ready") == [()]
    compile_something()
    assert engine.compiles_after_ready == 1, "closed: no longer its business"
