"""What the Makefile runs to make an environment: the choice of a Python, and pip's steps."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from scripts import install

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SUPPORTED: Final = ("3.11", "3.12", "3.13", "3.14")

Stubs = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    """A folder of Pythons that only say what they are; "" cannot even say that."""

    def make(said: Mapping[str, str]) -> Path:
        for name, text in said.items():
            stub = tmp_path / name
            stub.write_text("#!/bin/sh\n" + (f"echo '{text}'" if text else "exit 127") + "\n")
            stub.chmod(0o755)
        return tmp_path

    return make


def find(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", ROOT / "scripts" / "find_python.sh", *arguments],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        pytest.param({f"python{v}": "ok" for v in SUPPORTED}, "python3.14", id="the-newest"),
        pytest.param({"python3.11": "ok", "python3.12": "ok"}, "python3.12", id="of-two"),
        pytest.param({"python3.11": "ok", "python3": "is Python 3.9"}, "python3.11", id="old-3"),
        pytest.param({"python3": "ok"}, "python3", id="under-its-short-name"),
        pytest.param({"python": "ok"}, "python", id="under-its-shortest-name"),
        pytest.param(
            {"python3.13": "", "python3.12": "ok"}, "python3.12", id="a-shim-that-starts-nothing"
        ),
        pytest.param(
            {"python3.12": "is Python 3.12 without venv", "python3.11": "ok"},
            "python3.11",
            id="one-without-venv",
        ),
    ],
)
def test_the_newest_python_that_works_is_chosen(
    stubs: Stubs, said: Mapping[str, str], chosen: str
) -> None:
    folder = stubs(said)
    found = find(folder)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{folder / chosen}\n", "")


def test_python_is_what_the_user_says(stubs: Stubs) -> None:
    folder = stubs({"python3.14": "ok", "mine": "ok"})
    assert find(folder, "mine").stdout == f"{folder / 'mine'}\n"
    assert find(folder, sys.executable).stdout == f"{sys.executable}\n"


@pytest.mark.parametrize(
    ("said", "arguments", "lines"),
    [
        pytest.param({}, (), ["no Python from 3.11 to 3.14 is here"], id="none"),
        pytest.param(
            {
                "python3.13": "",
                "python3.11": "is Python 3.11 without venv",
                "python3": "is Python 3.9",
            },
            (),
            [
                "no Python from 3.11 to 3.14 is here; found:",
                "  python3.13 does not start",
                "  python3.11 is Python 3.11 without venv",
                "  python3 is Python 3.9",
            ],
            id="none-that-works",
        ),
        pytest.param(
            {"mine": "is Python 3.10", "python3.11": "ok"},
            ("mine",),
            [
                "no Python from 3.11 to 3.14 is here under the name mine; found:",
                "  mine is Python 3.10",
            ],
            id="not-the-one-that-was-named",
        ),
    ],
)
def test_without_one_it_says_what_it_found_and_what_to_install(
    stubs: Stubs, said: Mapping[str, str], arguments: tuple[str, ...], lines: list[str]
) -> None:
    found = find(stubs(said), *arguments)
    assert (found.returncode, found.stdout) == (1, "")
    text = found.stderr.splitlines()
    assert text[: len(lines) + 1] == [
        f"brim: {line}" for line in (*lines, "install one, and run make again:")
    ]
    assert "apt install python3 python3-venv" in found.stderr
    assert text[-1].endswith("make PYTHON=/path/to/python3")


def test_make_ends_with_that_text_and_leaves_the_environment_alone(
    stubs: Stubs, tmp_path: Path
) -> None:
    (tmp_path / "venv").mkdir()
    made = subprocess.run(
        ["make", "-C", ROOT, f"VENV={tmp_path / 'venv'}", "PYTHON=mine", "setup"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode != 0
    assert "no Python from 3.11 to 3.14 is here under the name mine" in made.stderr
    assert (tmp_path / "venv").is_dir()


def test_the_supported_versions_are_the_same_everywhere() -> None:
    script = (ROOT / "scripts" / "find_python.sh").read_text(encoding="utf-8")
    (versions,) = re.findall('^versions="(.*?)"', script, re.MULTILINE)
    assert versions.split() == list(reversed(SUPPORTED))
    after = f"3.{int(SUPPORTED[-1].removeprefix('3.')) + 1}"
    assert PROJECT["requires-python"] == f">={SUPPORTED[0]},<{after}"
    prefix = "Programming Language :: Python :: "
    named = [c.removeprefix(prefix) for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert named == list(SUPPORTED)
    span = f"Python {SUPPORTED[0]} to {SUPPORTED[-1]}"
    for file in ("README.md", "docs/design.md"):
        assert span in (ROOT / file).read_text(encoding="utf-8"), file


# --- make serve -----------------------------------------------------------------------------------

STUB: Final = """#!/bin/sh
case "$*" in
    --version) echo "Python 3.14.0" ;;
    "-I - "*) echo ok ;;
    "-m venv "*)
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
        printf '#!/bin/sh\\necho "served: $*"\\n' > "$3/bin/brim" && chmod +x "$3/bin/brim" ;;
    *) PYTHONPATH=stubs exec {python} "$@" ;;
esac
"""
"""A Python whose environments have itself, a `brim` that only says so, and the pip of `stubs`."""

INSTALLS: Final = """
import sys
wanted = sys.argv[-1]
print("Collecting", wanted)
if wanted in "{fails}".split():
    raise SystemExit("no such package")
print("Installing collected packages: one, two")
"""

FIRST: Final = """brim: make .venv with {python}, Python 3.14.0
brim: install what serves into .venv, about a minute
brim:   unpack 2 packages
brim:   done in 0 s
brim: install the demo's sentence encoder
brim:   unpack 2 packages
brim:   done in 0 s
brim: installed. The command is .venv/bin/brim, or brim after: source .venv/bin/activate
"""
SERVED: Final = """.venv/bin/brim serve configs/demo.toml
served: serve configs/demo.toml
"""


@pytest.fixture
def make_serve(tmp_path: Path) -> Callable[[str], str]:
    """`make serve` where pip fails for these packages; returns what it prints, seconds as 0."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "stubs").mkdir()
    stub = tmp_path / "stubs" / "python3.14"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)

    def run(fails: str) -> str:
        (tmp_path / "stubs" / "pip.py").write_text(INSTALLS.format(fails=fails))
        made = subprocess.run(
            ["make", "serve"],
            cwd=tmp_path,
            env={"PATH": f"{stub.parent}:/usr/bin:/bin", "LANG": "C"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        text = made.stdout.replace(str(stub), "{python}")
        return re.sub(r"in \d+ s$", "in 0 s", text, flags=re.MULTILINE)

    return run


def test_make_serve_shows_each_step_and_installs_once(make_serve: Callable[[str], str]) -> None:
    assert make_serve("") == FIRST + SERVED
    assert make_serve("") == SERVED


def test_without_the_demos_weights_the_rest_is_served(make_serve: Callable[[str], str]) -> None:
    (weights,) = re.findall(r"DEMO_WEIGHTS := (\S+)", (ROOT / "Makefile").read_text())
    printed = make_serve(weights)
    assert f"brim: cannot install {weights}; the demo will serve the digits only\n" in printed
    assert printed.endswith(SERVED)


def test_an_installation_that_failed_is_made_again(make_serve: Callable[[str], str]) -> None:
    failed = make_serve(".")
    assert "brim: pip has ended with status 1; above is what it printed\n" in failed
    assert "served" not in failed
    assert make_serve("") == FIRST + SERVED


# --- pip's steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("  Downloading jaxlib-0.10.2-cp311-x.whl (85.2 MB)", "download jaxlib 0.10.2, 85 MB"),
        ("Using cached numpy-2.4.6-cp311-x.whl (16.6 MB)", "download numpy 2.4.6, 17 MB"),
        ("Downloading https://h/a/scipy-1.17.1-x.whl (35.0 MB)", "download scipy 1.17.1, 35 MB"),
        ("Installing collected packages: a, b, c", "unpack 3 packages"),
        ("Installing collected packages: a", "unpack 1 package"),
        ("  Downloading jax-0.10.2-py3-none-any.whl.metadata (13 kB)", None),
        ("  Downloading click-8.5.1-py3-none-any.whl (110 kB)", None),
        ("Requirement already satisfied: pip in here", None),
    ],
)
def test_a_line_of_pip_is_a_step_or_nothing(line: str, said: str | None) -> None:
    assert list(install.steps([line])) == ([] if said is None else [said])


def test_small_packages_are_counted_together() -> None:
    lines = [f"Collecting p{number}" for number in range(2 * install.EVERY + 1)]
    assert list(install.steps(lines)) == ["15 packages looked up", "30 packages looked up"]


def run_pip(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """`install.py`, with this in the place of pip."""
    (tmp_path / "pip.py").write_text(script)
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "install.py", "x"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_pip_printed_comes_out_if_it_fails_with_its_status(tmp_path: Path) -> None:
    ended = run_pip(tmp_path, "print('Collecting x'); print('ERROR: no x'); raise SystemExit(3)")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.splitlines() == [
        "Collecting x",
        "ERROR: no x",
        "brim: pip has ended with status 3; above is what it printed",
    ]


def test_a_good_end_is_said_with_its_seconds(tmp_path: Path) -> None:
    ended = run_pip(tmp_path, "print('Installing collected packages: x')")
    assert ended.returncode == 0
    assert re.fullmatch(r"brim:   unpack 1 package\nbrim:   done in \d+ s\n", ended.stderr)
