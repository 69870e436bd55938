"""The first steps of four kinds of users, from an empty home: scripts of `tests/first_steps/`, and
what each prints, beside it. `…` in that text stands for anything in a line; alone, for any lines.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.server import BIN, PATIENCE_S, ROOT, Server, free_port

pytestmark = pytest.mark.e2e

STEPS: Final = ROOT / "tests" / "first_steps"
ADDRESS: Final = "127.0.0.1:8000"
"""Where the scripts find a server: the address of the demo."""
OF_THE_DEMO: Final = "client_developer"
"""The script that talks to a server which runs already."""


def run(script: Path, folder: Path, home: Path, address: str) -> str:
    """Run a script in a folder that looks like a checkout; return all that it printed."""
    text = script.read_text(encoding="utf-8").replace(ADDRESS, address)
    copy = home.parent / script.name
    copy.write_text(text, encoding="utf-8")
    home.mkdir()
    with subprocess.Popen(
        ["bash", copy],
        cwd=folder,
        env={
            "BRIM_BIND": address,
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            with suppress(ProcessLookupError):  # else a server of it is left
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, printed
    return printed.replace(address, ADDRESS).replace(str(home), "~")


def pattern(shown: list[str]) -> str:
    """Of the text beside a script, which may leave out parts of lines, and lines."""
    return "".join(
        "(?:.*\\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + "\\n"
        for line in shown
    )


def same(printed: list[str], shown: list[str]) -> bool:
    text = "".join(f"{line}\n" for line in printed)
    return re.fullmatch(pattern(shown), text) is not None


def difference(printed: list[str], shown: list[str]) -> str:
    """What differs; a printed line that fits a shown one is taken for it."""
    fits = [
        next((each for each in shown if each != "…" and same([line], [each])), line)
        for line in printed
    ]
    return "\n".join(difflib.unified_diff(shown, fits, "shown", "printed", lineterm=""))


@pytest.mark.parametrize("script", sorted(STEPS.glob("*.sh")), ids=lambda script: script.stem)
def test_the_first_steps_work_from_an_empty_home_and_print_what_is_shown(
    script: Path, checkout: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = f"127.0.0.1:{free_port()}"
    if script.stem == OF_THE_DEMO:
        demo: Server = request.getfixturevalue("demo_server")
        address = f"127.0.0.1:{demo.port}"
    folder = ROOT if script.stem == "contributor" else checkout
    printed = [
        line.rstrip() for line in run(script, folder, tmp_path / "home", address).splitlines()
    ]
    shown = script.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    assert same(printed, shown), difference(printed, shown)


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        (["in 3 s"], ["in 3 s"], True),
        (["in 3 s"], ["in 4 s"], False),
        (["in … s"], ["in 4 s"], True),
        (["(…) s"], ["(4) s"], True),
        (["in … s"], ["in 4 s or more"], False),
        (["a", "b"], ["a"], False),
        (["a"], ["a", "b"], False),
        (["a", "…", "d"], ["a", "b", "c", "d"], True),
        (["a", "…", "d"], ["a", "d"], True),
        (["a", "…", "d"], ["a", "b"], False),
    ],
)
def test_what_is_printed_is_compared_but_for_what_may_be_anything(
    shown: list[str], printed: list[str], fits: bool
) -> None:
    assert same(printed, shown) is fits
