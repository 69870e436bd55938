"""The public face: what users import, and that no directory of theirs can hide Brim from itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

import brim

ROOT: Final = Path(__file__).parents[1]

FACTORY: Final = """
from brim import Model, TensorSpec

def create(factor=2.0):
    x = TensorSpec("x", "FP32", (4,))  # [rows, 4]
    def apply(params, inputs):
        return {"x": inputs["x"] * params}
    return Model(apply=apply, params=factor, inputs=(x,), outputs=(x,))
"""

CONFIG: Final = """
[[models]]
name = "mine"
factory = "my_model:create"
"""

Directory = Callable[..., Path]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Makes a user's directory with a config, a factory, and packages that fail when imported."""

    def make(*packages: str, config: str = CONFIG) -> Path:
        (tmp_path / "brim.toml").write_text(config, encoding="utf-8")
        (tmp_path / "my_model.py").write_text(FACTORY, encoding="utf-8")
        for name in packages:
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
        return tmp_path

    return make


def run(directory: Path, *command: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Python, started in the user's directory; `path` comes before Brim on the path."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": f"{path}:{ROOT}", "BRIM_CONFIG": "brim.toml"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_module_shows_a_factory_that_is_one() -> None:
    code = "".join(line.strip() for line in FACTORY.splitlines())
    assert code in "".join(line.strip() for line in str(brim.__doc__).splitlines())


def test_every_public_name_is_there() -> None:
    assert all(hasattr(brim, name) for name in brim.__all__)


@pytest.mark.parametrize("pattern", ["examples/**/*.py", "examples/**/*.md", "*.md", "docs/*.md"])
def test_what_is_shown_to_users_imports_brim_alone(pattern: str) -> None:
    trained = "from engine.models.families.digit_classifier import"  # the module of a family
    for path in ROOT.glob(pattern):
        text = path.read_text(encoding="utf-8").replace(trained, "")
        assert not re.findall(r"(?:from|import) (?:engine|app)\b", text), path


def test_importing_brim_imports_neither_the_app_nor_jax() -> None:
    done = run(ROOT, "-c", "import brim, sys; print({'app', 'jax', 'flask'} & sys.modules.keys())")
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        # -P keeps the working directory off the path, as a script in the environment's bin does
        pytest.param(["-P", "-c", "from brim import main; main()"], id="script"),
        pytest.param(["-c", "from brim import main; main()"], id="directory-on-the-path"),
        pytest.param(["-m", "brim"], id="python-m"),
    ],
)
@pytest.mark.parametrize("path", ["", "."], ids=["", "in-PYTHONPATH"])
def test_the_command_works_in_a_directory_with_an_app_and_an_engine_of_its_own(
    directory: Directory, command: list[str], path: str
) -> None:
    done = run(directory("app", "engine"), *command, "check", "brim.toml", path=path)
    assert done.returncode == 0, done.stderr
    assert "factory my_model:create" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["-m", "gunicorn"], id="python-m"),
        pytest.param(["-P", "-m", "gunicorn"], id="script"),
    ],
)
@pytest.mark.parametrize("path", ["", "."], ids=["", "in-PYTHONPATH"])
def test_gunicorn_finds_brims_own_app_there(
    directory: Directory, command: list[str], path: str
) -> None:
    config = ["-c", str(ROOT / "configs" / "gunicorn.py")]
    done = run(
        directory("app", "engine"), *command, *config, "--print-config", "app.wsgi:app", path=path
    )
    assert "app.worker.worker.BrimWorker" in done.stdout, done.stderr


def test_the_check_says_plainly_that_a_factory_is_in_a_hidden_package(
    directory: Directory,
) -> None:
    config = CONFIG.replace("my_model", "app.my_model")
    theirs = directory("app", config=config)
    done = run(theirs, "-m", "brim", "serve", "brim.toml")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    hides = f"Brim's own {ROOT / 'app'} hides {theirs / 'app'}: rename your app"
    assert hides in done.stderr


@pytest.mark.parametrize("name", ["engine", "app"])
def test_a_package_that_was_imported_before_brim_is_named_with_brims_own(
    directory: Directory, name: str
) -> None:
    theirs = directory()
    (theirs / name).mkdir()
    (theirs / name / "__init__.py").touch()
    done = run(theirs, "-c", f"import {name}\nimport brim\nbrim.main()")
    said = f"{theirs / name} was imported as '{name}' and hides Brim's own package {ROOT / name}"
    assert done.returncode == 1
    assert said in done.stderr


def test_a_program_that_has_an_app_of_its_own_can_import_it_beside_brim(
    directory: Directory,
) -> None:
    theirs = directory()
    (theirs / "app").mkdir()
    (theirs / "app" / "__init__.py").write_text("from brim import Model\n")
    done = run(theirs, "-c", "import brim, app; print(app.__file__, app.Model is brim.Model)")
    assert done.stdout == f"{theirs / 'app' / '__init__.py'} True\n", done.stderr
