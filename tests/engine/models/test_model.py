"""A model is checked and split into signature, host processor and program."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.errors import BrimError, ExecutionFailed, InvalidRequest, LoadError
from engine.models.processor import HostProcessor, Prepared, TokenIds
from engine.models.tensors import LENGTH, TensorSpec
from engine.scheduling.buckets import BucketGrid
from engine.testing import PUPPET_SPEC_IN, PUPPET_SPEC_OUT, puppet_model, rows

TEXT = TensorSpec("text", "BYTES")
IDS = TensorSpec("ids", "INT64", (LENGTH,))


def nothing(*_arguments: Any) -> Any:
    raise NotImplementedError


def raises(error: Exception) -> Callable[..., Any]:
    def hook(*_arguments: Any) -> Any:
        raise error

    return hook


# --- the signature -------------------------------------------------------------------------------


def test_the_device_gets_the_clients_tensors_where_there_is_no_hook() -> None:
    signature = puppet_model().signature
    assert signature.device_inputs == (PUPPET_SPEC_IN,)
    assert signature.device_outputs == (PUPPET_SPEC_OUT,)


def test_with_hooks_the_device_has_tensors_of_its_own() -> None:
    signature = puppet_model(
        inputs=(TEXT,),
        preprocess=nothing,
        device_inputs=(IDS,),
        outputs=(TEXT,),
        postprocess=nothing,
        device_outputs=(PUPPET_SPEC_OUT,),
    ).signature
    assert (signature.inputs, signature.outputs) == ((TEXT,), (TEXT,))
    assert signature.device_inputs == (IDS,)
    assert signature.device_outputs == (PUPPET_SPEC_OUT,)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"inputs": ()}, "a model needs inputs", id="no-inputs"),
        pytest.param({"outputs": ()}, "a model needs outputs", id="no-outputs"),
        pytest.param({"preprocess": nothing}, "state its device_inputs", id="preprocess-to-what"),
        pytest.param(
            {"postprocess": nothing}, "state its device_outputs", id="postprocess-of-what"
        ),
        pytest.param({"inputs": (TEXT,)}, "text: BYTES cannot go to a device", id="bytes-in"),
        pytest.param({"outputs": (TEXT,)}, "text: BYTES cannot go to a device", id="bytes-out"),
        pytest.param(
            {"outputs": (TensorSpec("y", "FP32", (2,), low=0),)},
            "y: low and high are for inputs, not for outputs",
            id="range-of-an-output",
        ),
        pytest.param(
            {"inputs": (TensorSpec("n", "INT64", low=2**40),)},
            f"n: no value from low {2**40} to high None has 32 bits; without a 64-bit output",
            id="range-beyond-32-bits",
        ),
        pytest.param(
            {"inputs": PUPPET_SPEC_IN}, "inputs is not a sequence of TensorSpec", id="one-spec"
        ),
        pytest.param(
            {"outputs": ("y",)}, "outputs is not a sequence of TensorSpec", id="a-name-for-a-spec"
        ),
        pytest.param(
            {"inputs": (PUPPET_SPEC_IN, PUPPET_SPEC_IN)},
            r"two of the tensors \['x', 'x'\] have one name",
            id="one-name-twice",
        ),
    ],
)
def test_a_model_that_could_not_be_served_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        puppet_model(**changes)


def test_a_signature_is_dynamic_when_a_row_on_the_device_is() -> None:
    assert puppet_model(inputs=(PUPPET_SPEC_IN, IDS)).signature.dynamic
    assert not puppet_model().signature.dynamic


def test_a_signature_is_plain_data_that_crosses_processes() -> None:
    example = {"x": [[1.0, 2.0]]}
    signature = puppet_model(max_length=8, example=example, platform="torch").signature
    copy = pickle.loads(pickle.dumps(signature))
    assert (copy.max_length, copy.example, copy.platform) == (8, example, "torch")
    assert repr(copy) == repr(signature)  # the NaN of the padding is not equal to itself


def test_arrays_of_an_example_become_lists_which_cross_processes() -> None:
    example: Any = {"x": (np.array([1, 2], np.float32), [np.float32(3), 4])}
    assert puppet_model(example=example).signature.example == {"x": [[1.0, 2.0], [3.0, 4]]}


LENGTHS = TensorSpec("words", "INT32", low=0, high=9)
GRID = BucketGrid((1,), ())


def words(inputs: Any) -> Prepared:
    return Prepared({"words": np.array([len(text.split()) for text in inputs["text"]], np.int32)})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param(
            {"example": {"y": [[1, 2]]}}, "the example has no 'x'; it has rows", id="name"
        ),
        pytest.param(
            {"example": {"x": [[1, 2], [3]]}}, "the example is not valid: .*inhomog", id="uneven"
        ),
        pytest.param(
            {"example": words}, "the example is of type function, not a dict", id="function"
        ),
        pytest.param({"example": {"x": [["a", "b"]]}}, "the example is not valid: ", id="texts"),
        pytest.param(
            {"example": {"x": [1, 2]}}, r"is not valid: x: shape \[2\] does not fit", id="no-rows"
        ),
        pytest.param(
            {"inputs": (LENGTHS,), "example": {"words": [10]}},
            "is not valid: words: value 10 in row 0 is out of range, expected 0 to 9",
            id="range",
        ),
        pytest.param(
            {"preprocess": lambda inputs: {"words": 1}},
            "the example does not pass preprocess: preprocess returned a dict, not a Prepared",
            id="not-a-prepared",
        ),
        pytest.param(
            {"preprocess": lambda inputs: Prepared({"words": np.zeros(1)})},
            "does not pass preprocess: words: dtype float64 is not INT32",
            id="another-dtype",
        ),
        pytest.param(
            {"preprocess": raises(KeyError("vocab.txt"))},
            "does not pass preprocess: KeyError: 'vocab.txt'",
            id="a-bug",
        ),
    ],
)
def test_an_example_that_could_not_be_sent_is_a_mistake(
    changes: dict[str, Any], problem: str
) -> None:
    hooked = {"inputs": (TEXT,), "device_inputs": (LENGTHS,), "example": {"text": ["a b"]}}
    model = puppet_model(**(hooked if "preprocess" in changes else {}) | changes)
    with pytest.raises(LoadError, match=problem):
        model.check(GRID)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"golden": lambda rng: {}}, r"golden takes \(rng\), but .* as golden\(rng, length\)"),
        ({"golden": {"x": [1, 2]}}, "golden is of type dict, not a function"),
        ({"edges": lambda: [{}]}, r"edges takes \(\), but it is called as edges\(length\)"),
        (
            {"preprocess": lambda x, y: x, "device_inputs": (LENGTHS,)},
            r"preprocess takes \(x, y\), but it is called as preprocess\(inputs\)",
        ),
        (
            {"postprocess": lambda: {"y": 1}, "device_outputs": (PUPPET_SPEC_OUT,)},
            r"postprocess takes \(\), but it is called as postprocess\(outputs\)",
        ),
    ],
)
def test_a_function_with_other_parameters_is_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(LoadError, match=problem):
        puppet_model(**changes).check(GRID)


def test_an_example_goes_through_the_hook_as_a_request_does() -> None:
    parts = {"inputs": (TEXT,), "device_inputs": (LENGTHS,), "preprocess": words}
    puppet_model(**parts, example={"text": ["full to the brim", "a"]}).check(GRID)
    with pytest.raises(LoadError, match="words: value 11 in row 1 is out of range"):
        puppet_model(**parts, example={"text": ["a", "a " * 11]}).check(GRID)


# --- the host processor --------------------------------------------------------------------------


def test_a_prepared_request_has_no_parameters_of_its_own() -> None:
    assert Prepared({}).parameters == {}
    assert Prepared({}).tokens == 0


def test_without_hooks_a_processor_changes_nothing() -> None:
    inputs = rows(1)
    assert HostProcessor().prepare(inputs).inputs is inputs
    assert HostProcessor().finish(inputs) is inputs


def test_a_processor_runs_the_hooks_of_its_model() -> None:
    model = puppet_model(
        preprocess=lambda inputs: Prepared({"x": inputs["x"] + 1}, {"cut": True}, tokens=2),
        device_inputs=(PUPPET_SPEC_IN,),
        postprocess=lambda outputs: {"y": outputs["y"] * 10},
        device_outputs=(PUPPET_SPEC_OUT,),
    )
    prepared = model.processor.prepare(rows(1))
    assert prepared.inputs["x"].tolist() == [[2, 0]]
    assert (prepared.parameters, prepared.tokens) == ({"cut": True}, 2)
    assert model.processor.finish({"y": np.ones(1)})["y"].tolist() == [10]
    assert model.processor.preprocess_ids is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(ZeroDivisionError("bug"), ExecutionFailed, id="a-bug"),
        pytest.param(InvalidRequest("x", "no image"), InvalidRequest, id="a-clients-mistake"),
    ],
)
def test_an_error_of_preprocess_is_typed(error: Exception, kind: type[BrimError]) -> None:
    with pytest.raises(kind) as caught:
        HostProcessor(preprocess=raises(error)).prepare(rows(1))
    assert error in (caught.value, caught.value.__cause__)


def test_token_ids_have_a_hook_of_their_own() -> None:
    processor = HostProcessor(
        preprocess=lambda inputs: Prepared({"x": inputs["x"] + 1}),
        preprocess_ids=lambda rows: Prepared({"x": np.array([len(ids) for ids in rows])}),
    )
    assert processor.prepare(TokenIds([[7, 8], []])).inputs["x"].tolist() == [2, 0]
    assert processor.prepare(rows(1)).inputs["x"].tolist() == [[2, 0]]
    with pytest.raises(InvalidRequest, match="input: this model takes no token ids"):
        HostProcessor(preprocess=processor.preprocess).prepare(TokenIds([[1]]))


def test_every_error_of_postprocess_is_a_failed_execution() -> None:
    error = InvalidRequest("y", "not a client's mistake here")
    with pytest.raises(ExecutionFailed, match="the model's postprocess failed") as caught:
        HostProcessor(postprocess=raises(error)).finish(rows(1))
    assert caught.value.__cause__ is error


# --- the program ---------------------------------------------------------------------------------


def test_a_program_keeps_the_function_its_weights_and_its_golden_rows() -> None:
    params = {"w": np.ones(2)}
    program = puppet_model(apply=nothing, params=params, golden=nothing).program
    assert program.apply is nothing
    assert program.params is params
    assert program.golden is nothing
    assert puppet_model().program.golden is None
