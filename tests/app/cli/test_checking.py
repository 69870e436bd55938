"""`brim check`: what it finds in a config and in a model's code before they are served."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import jax
import pytest
from click.testing import CliRunner, Result

from app.cli.checking import BEYOND, CALLED, READ
from app.cli.main import main

Write = Callable[[str], Path]

ROOT: Final = Path(__file__).parents[3]
PUPPET: Final = '[[models]]\nname = "p"\nfactory = "engine.testing:puppet_model"\nrows = [1, 2]\n'
IDS: Final = '[[models]]\nname = "i"\nfactory = "checked_models:ids"\nrows = [1, 2]\n'
MEMORY: Final = (
    "weights {} MB, once; inputs and outputs of a batch at most {} MB; "
    "XLA's memory: known after compilation"
)
PUPPET_MEMORY: Final = MEMORY.format("0.0", "0.000")
DIGITS_MEMORY: Final = MEMORY.format("0.2", "0.010")

MODULE: Final = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from brim import LENGTH, Model, TensorSpec

X = TensorSpec("x", "FP32", (4,))
IDS = TensorSpec("ids", "INT64", (LENGTH,), low=0, high=9)
Y = TensorSpec("y", "FP32", (4,))

def model(apply, inputs=(X,), outputs=(Y,), params=2.0, **more):
    return Model(apply=apply, params=params, inputs=inputs, outputs=outputs, **more)

def good():
    assert jax.devices()[0].platform == "cpu"
    return model(lambda p, x: {"y": x["x"] * p}, params=jnp.ones(4))

def closing():
    table = jnp.ones((1024, 1024))
    return model(lambda p, x: {"y": x["x"] * table.sum()})

def ids():
    return model(lambda p, x: {"y": jnp.zeros((x["ids"].shape[0], 4))}, inputs=(IDS,))

def renamed():
    return model(lambda p, x: {"z": x["x"]})

def typed():
    return model(lambda p, x: {"y": x["x"].astype(jnp.int32)})

def shaped():
    return model(lambda p, x: {"y": x["x"][:, :1]})

def batchless():
    return model(lambda p, x: {"y": x["x"][0]})

def leaves():
    sys.exit("no licence")

def gone():
    open("/nowhere/weights")

def wrong_golden():
    return model(lambda p, x: {"y": x["x"]}, golden=lambda rng, length: {"x": [1, 2]})

def short_golden():
    return model(lambda p, x: {"y": x["x"]}, golden=lambda rng: {"x": [1, 2, 3, 4]})

def failing_golden():
    return model(lambda p, x: {"y": x["x"]}, golden=lambda rng, length: {"x": range(length)})

def no_host():
    return model(lambda p, x: {"y": x["x"]}, host="nope:host")

def wrong_example():
    return model(lambda p, x: {"y": x["x"]}, example={"x": [[1, 2]]})
"""


@pytest.fixture(autouse=True)
def one_device() -> None:
    """What uses JAX first in a process decides on the devices; a check must not, in these tests."""
    jax.devices()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a config beside the module `checked_models`."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "checked_models.py").write_text(MODULE)

    def text(content: str) -> Path:
        file = tmp_path / "brim.toml"
        file.write_text(content)
        return file

    yield text
    sys.modules.pop("checked_models", None)


def brim(*args: str | Path, **environment: str) -> Result:
    return CliRunner(env={"COLUMNS": "250", **environment}).invoke(main, [*map(str, args)])


def config(function: str, more: str = "") -> str:
    return f'[[models]]\nname = "m"\nfactory = "checked_models:{function}"\n{more}'


def test_check_prints_a_summary_of_every_model(write: Write) -> None:
    file = write(
        f"""{PUPPET}
        weight = 2.5
        [[models]]
        name = "d"
        family = "digits"
        path = "{ROOT}/examples/digits/digits.safetensors"
        required = false
        max_wait_ms = 0.5
        """
    )
    result = brim("check", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (
        f"{file} is valid: 2 models on http://127.0.0.1:8000, worker brim, 16 threads"
        in result.output
    )
    summary = [
        re.split("  +", line.strip(), maxsplit=1)
        for line in result.output.splitlines()
        if line.strip()
    ][1:]
    assert [[part.strip() for part in line] for line in summary] == [
        ["p"],
        ["model", "factory engine.testing:puppet_model"],
        ["buckets", "2: rows [1, 2]"],
        ["memory", PUPPET_MEMORY],
        ["in flight", "at most 2 batches; weight 2.5"],
        ["queue", "1024 rows; at most 2048 in a request"],
        ["max wait", "10 ms for more requests while the device is free"],
        ["timeout", "30000 ms from arrival to response"],
        ["required", "yes"],
        ["checked", CALLED + BEYOND],
        ["d"],
        ["model", "convolutional classifier of 8x8 digits"],
        ["buckets", "6: rows [1, 2, 4, 8, 16, 32]"],
        ["memory", DIGITS_MEMORY],
        ["in flight", "at most 2 batches; weight 1"],
        ["queue", "1024 rows; at most 2048 in a request"],
        ["max wait", "0.5 ms for more requests while the device is free"],
        ["timeout", "30000 ms from arrival to response"],
        ["required", "no: the server can be ready without it"],
        ["checked", READ + BEYOND],
    ]


def test_check_prints_the_lengths(write: Write) -> None:
    assert (
        "4: rows [1, 2] x lengths [16, 32]"
        in brim("check", write(f"{IDS}lengths = [16, 32]\n")).output
    )


def test_check_says_which_optional_model_will_fail(write: Write) -> None:
    file = write(
        f'{PUPPET}[[models]]\nname = "d"\nfamily = "digits"\npath = "[/gone]"\nrequired = false\n'
    )
    result = brim("check", file)
    assert result.exit_code == 0
    (line,) = [line for line in result.output.splitlines() if "  will fail" in line]
    assert "path: got '[/gone]', expected an existing file or directory; " in line
    assert line.rstrip().endswith("is not there; the model is not required")


@pytest.mark.parametrize(
    ("required", "optional", "headline"),
    [
        (0, 1, "is valid: 2 models (1 optional one will fail) on "),
        (0, 2, "is valid: 3 models (2 optional ones will fail) on "),
        (1, 0, "has a model that will fail: 2 models on "),
        (2, 0, "has 2 models that will fail: 3 models on "),
        (1, 2, "has a model that will fail: 4 models (2 optional ones will fail, too) on "),
    ],
)
def test_the_headline_says_how_many_models_will_fail(
    write: Write, required: int, optional: int, headline: str
) -> None:
    tables = [
        f'[[models]]\nname = "m{number}"\nfactory = "checked_models:renamed"\n'
        f"required = {str(number < required).lower()}\n"
        for number in range(required + optional)
    ]
    result = brim("check", write("".join([PUPPET, *tables])))
    assert f"brim.toml {headline}" in result.stdout
    assert result.exit_code == bool(required)


def test_check_of_the_demo_is_valid() -> None:
    assert "is valid: 2 models" in brim("check", ROOT / "configs/demo.toml").output


def test_a_path_is_printed_unchanged(tmp_path: Path) -> None:
    odd = tmp_path / "[bold]" / "[/]" / "x.toml"
    odd.parent.mkdir(parents=True)
    odd.write_text(PUPPET)
    assert f"{odd} is valid" in brim("check", odd).output


# --- a factory's model ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "more", "problem"),
    [
        pytest.param("no", "", "LoadError: checked_models has no function 'no'", id="function"),
        pytest.param(
            "ids",
            "",
            "LoadError: input 'ids' has the shape (-1,), where -1 is LENGTH, a dynamic axis: the "
            "config needs lengths, as lengths = [32, 128]; if it is meant as the batch axis, leave "
            "it out: ()",
            id="no-lengths",
        ),
        pytest.param(
            "good",
            "lengths = [8]",
            "LoadError: the config gives lengths = [8], but no input has a dynamic axis: x (4,). "
            "Write LENGTH where the lengths belong",
            id="lengths-of-nothing",
        ),
        pytest.param(
            "renamed",
            "",
            "LoadError: apply returned 'z', without the output 'y' of the spec: return {'y': ...}",
            id="output-name",
        ),
        pytest.param(
            "typed",
            "rows = [4]",
            "LoadError: output 'y' of bucket 4 is INT32 [4, 4], but the spec states FP32 [4, 4]: "
            "cast it with .astype(jnp.float32), or state INT32",
            id="output-type",
        ),
        pytest.param(
            "shaped",
            "rows = [2]",
            "LoadError: output 'y' of bucket 2 is FP32 [2, 1], but the spec states FP32 [2, 4]",
            id="output-shape",
        ),
        pytest.param(
            "batchless",
            "rows = [2]",
            "LoadError: output 'y' of bucket 2 is FP32 [4], but the spec states FP32 [2, 4]: "
            "the first axis must be the rows",
            id="no-batch-axis",
        ),
        pytest.param("leaves", "", "SystemExit: no licence", id="it-exits"),
        pytest.param("gone", "", "FileNotFoundError: [Errno 2] No such file", id="it-raises"),
        pytest.param(
            "good",
            "options = { size = 1 }",
            "LoadError: checked_models:good takes (), but options has 'size'",
            id="options",
        ),
        pytest.param(
            "wrong_golden",
            "",
            "WarmupError: golden gave a row that is not valid: x: shape [1, 2] does not fit, "
            "expected [-1, 4]",
            id="golden",
        ),
        pytest.param(
            "short_golden",
            "",
            "LoadError: golden takes (rng), but it is called as golden(rng, length)",
            id="golden-arity",
        ),
        pytest.param(
            "failing_golden",
            "",
            "WarmupError: golden failed: TypeError: 'NoneType' object cannot be",
            id="golden-raises",
        ),
        pytest.param(
            "no_host",
            "",
            "LoadError: host 'nope:host' cannot be imported: ModuleNotFoundError: No module named "
            "'nope'",
            id="host",
        ),
        pytest.param(
            "wrong_example",
            "",
            "LoadError: the example is not valid: x: shape [1, 2] does not fit, "
            "expected [-1, 4]; it has rows for each input, by name",
            id="example",
        ),
    ],
)
def test_a_mistake_in_a_models_code_is_found_without_a_device(
    write: Write, function: str, more: str, problem: str
) -> None:
    result = brim("check", write(config(function, more)))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"brim: model 'm' will fail: {problem}")
    assert "brim.toml has a model that will fail: 1 model on" in result.stdout


def test_a_mistake_in_a_model_that_is_not_required_is_no_failure(write: Write) -> None:
    result = brim("check", write(config("renamed", "required = false")))
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.search("will fail +LoadError: .* 'y' of the spec.*; the model is not", result.output)


def test_a_good_model_is_loaded_on_the_cpu_and_its_weights_are_known(write: Write) -> None:
    result = brim("check", write(config("good")))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "weights 0.0 MB, once; inputs and outputs of a batch at most 0.001 MB" in result.output
    assert CALLED + BEYOND in result.output


def test_weights_that_are_constants_are_remarked(write: Write) -> None:
    result = brim("check", write(config("closing")))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "checked_models:closing; apply closes over 4.2 MB of arrays, which are" in result.output


@pytest.mark.parametrize("platform", ["nonexistent", "cuda"])
def test_a_factory_is_checked_where_there_is_no_device(write: Write, platform: str) -> None:
    """In a process of its own, where JAX has not looked for devices yet."""
    done = subprocess.run(
        [sys.executable, "-m", "brim", "check", str(write(config("good")))],
        cwd=ROOT,
        env={"JAX_PLATFORMS": platform, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_check_of_a_good_config_does_not_import_jax_either() -> None:
    script = (
        "import sys\n"
        "from app.cli.main import main\n"
        "main(['check', 'configs/demo.toml'], standalone_mode=False)\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
