"""The `brim` command: what it prints, what it refuses, and what it does not start."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.main import main, program
from app.hosting import gunicorn as hosting
from app.http.services import VERSION
from app.settings import Settings

Write = Callable[[str], Path]

ROOT = Path(__file__).parents[3]
PUPPET = '[[models]]\nname = "p"\nfactory = "engine.testing:puppet_model"\nrows = [1, 2]\n'
WRONG = "[server]\nthread = 1\n" + PUPPET


def brim(*args: str | Path, **environment: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", **environment}).invoke(
        main, [*map(str, args)], prog_name="brim"
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Records the settings instead of serving."""
    settings: list[Settings] = []
    monkeypatch.setattr(hosting.Server, "run", lambda self: settings.append(self._master.settings))
    return settings


def test_version_is_that_of_the_package() -> None:
    assert brim("--version").output == f"brim, version {VERSION}\n"


@pytest.mark.parametrize("args", [["-h"], ["serve", "-h"], ["check", "--help"]])
def test_every_level_has_help(args: list[str]) -> None:
    result = brim(*args)
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_the_help_begins_with_what_to_do_first_in_the_order_of_use() -> None:
    text = brim("--help").output
    steps = ("[[models]]", "brim check brim.toml", "brim serve brim.toml", "/docs", "Commands:")
    steps += tuple(f"\n  {name} " for name in ("check", "serve", "bench", "simulate", "tune"))
    positions = [text.index(step) for step in steps]
    assert positions == sorted(positions)


@pytest.mark.parametrize("command", ["serve", "check"])
def test_without_a_config_the_error_shows_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = brim(command)
    assert result.exit_code == 2
    _, _, example = result.stderr.partition("for example\n\n")
    assert tomllib.loads(example)["models"][0]["family"] == "bert-embedding"


@pytest.mark.parametrize("file", ["brim.toml", "configs/demo.toml"])
def test_without_a_config_the_error_names_one_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert brim("serve").stderr.endswith(f"    brim serve {file}\n")


def test_other_commands_say_what_they_lack_themselves() -> None:
    assert "Missing argument 'URL'" in brim("bench").stderr


@pytest.mark.parametrize(
    ("called", "on_path", "name"),
    [
        ("bin/brim", True, "brim"),
        ("bin/brim", False, "bin/brim"),
        ("somewhere/brim.py", True, f"{sys.executable} -m brim"),
        ("-c", True, f"{sys.executable} -m brim"),
    ],
    ids=["on the path", "by its path", "as a module", "by a line of Python"],
)
def test_texts_name_the_command_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, on_path: bool, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "bin" / "brim"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent) if on_path else "")
    monkeypatch.setattr(sys, "argv", [called])
    assert program() == name


# --- serve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "environment", "bind"),
    [
        ([], {}, ("file:1", 4)),
        ([], {"BRIM_BIND": "env:2", "BRIM_THREADS": "5"}, ("env:2", 5)),
        (["--bind", "flag:3", "--threads", "6"], {}, ("flag:3", 6)),
        (["--bind", "flag:3"], {"BRIM_BIND": "env:2", "BRIM_THREADS": "5"}, ("flag:3", 5)),
    ],
    ids=["file", "environment", "flags", "each overrides what it sets"],
)
def test_serve_takes_flags_before_environment_before_file(
    write: Write,
    started: list[Settings],
    flags: list[str],
    environment: dict[str, str],
    bind: tuple[str, int],
) -> None:
    file = write(f'[server]\nbind = "file:1"\nthreads = 4\n{PUPPET}')
    result = brim("serve", file, *flags, **environment)
    assert (result.exit_code, result.output) == (0, "")
    (settings,) = started
    assert (settings.bind, settings.threads) == bind


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_wrong_config_is_one_line_and_exit_status_2(
    write: Write, started: list[Settings], command: str
) -> None:
    file = write(WRONG)
    result = brim(command, file)
    assert (result.exit_code, result.stdout, started) == (2, "", [])
    assert result.stderr == (
        f"brim: {file}: server.thread: got 1, expected a known key, one of bind, worker, workers, "
        "threads, keepalive_s, graceful_timeout_s, log_level, cors_origins; "
        "did you mean threads?\n"
    )


@pytest.mark.parametrize(
    ("flags", "environment", "line"),
    [
        (
            ["--bind", "nope"],
            {},
            "--bind: got 'nope', expected HOST:PORT or unix:PATH, as in 127.0.0.1:8000",
        ),
        (
            ["--threads", "0"],
            {},
            "--threads: got 0, expected a whole number from 2 to 100000; one is kept for probes",
        ),
        (
            [],
            {"BRIM_BIND": "nope"},
            "BRIM_BIND: got 'nope', expected HOST:PORT or unix:PATH, as in 127.0.0.1:8000",
        ),
    ],
    ids=["bind", "threads", "environment"],
)
def test_a_wrong_flag_or_variable_is_one_line_and_exit_status_2(
    write: Write,
    started: list[Settings],
    flags: list[str],
    environment: dict[str, str],
    line: str,
) -> None:
    result = brim("serve", write(PUPPET), *flags, **environment)
    assert (result.exit_code, result.stdout, started) == (2, "", [])
    assert result.stderr == f"brim: {line}\n"


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_missing_file_is_one_line_and_exit_status_2(command: str) -> None:
    result = brim(command, "gone.toml")
    assert result.exit_code == 2
    assert result.stderr == (
        "brim: got 'gone.toml', expected a readable file: No such file or directory\n"
    )


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_wrong_config_starts_no_thread_and_does_not_import_jax(
    write: Write, command: str
) -> None:
    script = (
        "import sys, threading\n"
        "from app.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    print(end.code, 'jax' in sys.modules, threading.active_count())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, command, str(write(WRONG))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "2 False 1\n"
    assert ended.stderr.startswith("brim: ")
    assert ended.stderr.count("\n") == 1
