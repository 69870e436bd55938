"""The command: what is printed, what is refused, and what is never started."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app import hosting
from app.cli import main
from app.services import VERSION
from app.settings import Settings

Write = Callable[[str], Path]

ROOT = Path(__file__).parents[2]
PUPPET = '[[models]]\nname = "p"\nfactory = "engine.testing:puppet_model"\nrows = [1, 2]\n'
WRONG = "[server]\nthread = 1\n" + PUPPET
DIGITS_MEMORY = (
    "weights 0.2 MB, once for all buckets; inputs and outputs of 32 0.010 MB, 2 at once; "
    "XLA's own after compiling"
)


def brim(*args: str | Path, **environment: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", **environment}).invoke(main, [*map(str, args)])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What would have been served; nothing is."""
    settings: list[Settings] = []
    monkeypatch.setattr(hosting.Server, "run", lambda self: settings.append(self._settings))
    return settings


def test_version_is_that_of_the_package() -> None:
    assert brim("--version").output == f"brim, version {VERSION}\n"


@pytest.mark.parametrize("args", [["-h"], ["serve", "-h"], ["check", "--help"]])
def test_help_is_there_on_every_level(args: list[str]) -> None:
    result = brim(*args)
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


# --- check ----------------------------------------------------------------------------------------


def test_check_prints_the_plan_of_every_model(write: Write) -> None:
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
    plan = [
        re.split("  +", line.strip(), maxsplit=1)
        for line in result.output.splitlines()
        if line.strip()
    ][1:]
    assert [[part.strip() for part in line] for line in plan] == [
        ["p"],
        ["model", "factory engine.testing:puppet_model"],
        ["buckets", "2: rows [1, 2]"],
        ["memory", "known once the factory has run"],
        ["held", "at most 10 ms, for clients that are about to return"],
        ["in flight", "2 batches, weight 2.5"],
        ["queue", "1024 rows, 30000 ms"],
        ["required", "yes"],
        ["d"],
        ["model", "convolutional classifier of 8x8 digits"],
        ["buckets", "6: rows [1, 2, 4, 8, 16, 32]"],
        ["memory", DIGITS_MEMORY],
        ["held", "at most 0.5 ms, for clients that are about to return"],
        ["in flight", "2 batches, weight 1"],
        ["queue", "1024 rows, 30000 ms"],
        ["required", "no: ready without it"],
    ]


def test_check_prints_lengths_where_there_are_some(write: Write) -> None:
    assert (
        "4: rows [1, 2] x lengths [16, 32]"
        in brim("check", write(f"{PUPPET}lengths = [16, 32]\n")).output
    )


def test_check_says_which_model_will_fail_although_it_need_not_work(write: Write) -> None:
    file = write(
        f'{PUPPET}[[models]]\nname = "d"\nfamily = "digits"\npath = "[/gone]"\nrequired = false\n'
    )
    result = brim("check", file)
    assert result.exit_code == 0
    (line,) = [line for line in result.output.splitlines() if "will fail" in line]
    assert "path: got '[/gone]', expected an existing file or directory; " in line
    assert line.rstrip().endswith("is not there; it is not required")


def test_check_of_the_demo_is_valid() -> None:
    assert "is valid: 2 models" in brim("check", ROOT / "configs/demo.toml").output


def test_a_path_is_printed_as_it_is_whatever_it_is_called(tmp_path: Path) -> None:
    odd = tmp_path / "[bold]" / "[/]" / "x.toml"
    odd.parent.mkdir(parents=True)
    odd.write_text(PUPPET)
    assert f"{odd} is valid" in brim("check", odd).output


# --- serve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "environment", "bind"),
    [
        ([], {}, ("file", 1, 4)),
        ([], {"BRIM_BIND": "env:2", "BRIM_THREADS": "5"}, ("env", 2, 5)),
        (["--bind", "flag:3", "--threads", "6"], {}, ("flag", 3, 6)),
        (["--bind", "flag:3"], {"BRIM_BIND": "env:2", "BRIM_THREADS": "5"}, ("flag", 3, 5)),
    ],
    ids=["file", "environment", "flags", "each wins where it speaks"],
)
def test_serve_takes_flags_before_environment_before_file(
    write: Write,
    started: list[Settings],
    flags: list[str],
    environment: dict[str, str],
    bind: tuple[str, int, int],
) -> None:
    file = write(f'[server]\nbind = "file:1"\nthreads = 4\n{PUPPET}')
    result = brim("serve", file, *flags, **environment)
    assert (result.exit_code, result.output) == (0, "")
    (settings,) = started
    assert (settings.host, settings.port, settings.threads) == bind


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_wrong_config_is_one_line_and_exit_status_2(
    write: Write, started: list[Settings], command: str
) -> None:
    file = write(WRONG)
    result = brim(command, file)
    assert (result.exit_code, result.stdout, started) == (2, "", [])
    assert result.stderr == (
        f"brim: {file}: server.thread: got 1, expected a known key, one of bind, worker, threads, "
        "max_body_bytes, keepalive_s, graceful_timeout_s, log_level; did you mean threads?\n"
    )


@pytest.mark.parametrize(
    ("flags", "environment", "line"),
    [
        (["--bind", "nope"], {}, "--bind: got 'nope', expected HOST:PORT, as in 127.0.0.1:8000"),
        (
            ["--threads", "0"],
            {},
            "--threads: got 0, expected a whole number from 2 to 100000; one is kept for probes",
        ),
        (
            [],
            {"BRIM_BIND": "nope"},
            "BRIM_BIND: got 'nope', expected HOST:PORT, as in 127.0.0.1:8000",
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
def test_a_wrong_config_starts_no_thread_and_never_imports_jax(write: Write, command: str) -> None:
    script = (
        "import sys, threading\n"
        "from app.cli import main\n"
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


def test_check_of_a_good_config_does_not_import_jax_either() -> None:
    script = (
        "import sys\n"
        "from app.cli import main\n"
        "main(['check', 'configs/demo.toml'], standalone_mode=False)\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
