"""The serving process: from the environment to the app, its log lines, and its end."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.hosting.engine_process import GarbageCollectorPause
from app.hosting.process import PROCESS, settings_or_exit
from app.settings import CONFIG_EXIT
from tests.app.conftest import PATIENCE_S

Write = Callable[[str], Path]

ROOT = Path(__file__).parents[3]
PUPPET = '[[models]]\nname = "p"\nfactory = "engine.testing:puppet_model"\nrows = [4]\n'


@pytest.mark.parametrize("config", [None, "", "gone.toml"], ids=["unset", "empty", "missing"])
def test_without_a_config_the_process_ends_with_one_line(
    config: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PROCESS, "master", None)
    monkeypatch.delenv("BRIM_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("BRIM_CONFIG", config)
    with pytest.raises(SystemExit) as ended:
        settings_or_exit()
    assert ended.value.code == CONFIG_EXIT == 2
    printed = capsys.readouterr().err
    assert printed.startswith("brim: ")
    assert printed.count("\n") == 1


START = """
import functools, logging, os, sys
from app.hosting import engine_process, process
from engine.testing import PuppetCompiler
engine_process.InProcessClient = functools.partial(
    engine_process.InProcessClient,
    compiler=PuppetCompiler(),
    watch_compiles=lambda alarm: lambda: None,
)
from app.wsgi import app
engine = app.extensions["brim"].engine
assert engine.wait_startup_finished(30)
def say(where):
    stats = engine.endpoint("p").snapshot()
    code = app.test_client().get("/readyz").status_code
    os.write(1, f"{where}: {stats.state.value} {stats.reason} {code}\\n".encode())
say("before")
"""
FORK = """
if os.fork() == 0:
    say("child")
    os._exit(0)
os.wait()
say("parent")
"""


def run(config: Path, *scripts: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "".join(scripts)],
        cwd=ROOT,
        env={"BRIM_CONFIG": str(config), "PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_process_forked_after_the_start_reports_that_it_cannot_serve(write: Write) -> None:
    ended = run(write(PUPPET), START, FORK)
    assert ended.stdout.splitlines() == [
        "before: ready None 200",
        "child: failed forked after the start; turn preload_app off 503",
        "parent: ready None 200",
    ]
    assert ended.returncode == 0, ended.stderr


def test_without_a_terminal_there_are_plain_log_lines_and_the_process_ends_by_itself(
    write: Write,
) -> None:
    check = "assert sys.getswitchinterval() == process.SWITCH_INTERVAL_S\n"
    ended = run(write(PUPPET), START, check)
    assert ended.returncode == 0, ended.stderr
    lines = [line.split(" ", 2)[2] for line in ended.stderr.splitlines()]
    states = ("compiling", "warming", "ready")
    said = [line.partition("; try: curl -s http://127.0.0.1:8000/v2/models/p")[0] for line in lines]
    assert said[:3] == [f"INFO brim.app brim-engine: model p is {state}" for state in states]
    assert said[3] == "INFO brim.app brim-engine: Brim is ready on http://127.0.0.1:8000"
    assert lines[-1] == "INFO brim.app MainThread: model p is closed"


def test_in_a_terminal_log_lines_are_printed_above_the_progress_bars(write: Write) -> None:
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}
    ended = run(
        write(PUPPET),
        START,
        "logging.getLogger('brim.app').warning('[not markup]')\n",
        **terminal,
    )
    assert ended.returncode == 0, ended.stderr
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", ended.stderr)
    assert plain.index("2/2") < plain.index("Brim is ready on http://127.0.0.1:8000")
    assert re.search(r"WARNING +\[not markup\]", plain)


def test_the_log_level_comes_from_the_config(write: Write) -> None:
    quiet = write(f'[server]\nlog_level = "error"\n{PUPPET}')
    assert run(quiet, START).stderr == ""


def test_the_garbage_collector_is_off_during_start_up() -> None:
    was_enabled, was_frozen = gc.isenabled(), gc.get_freeze_count()
    try:
        pause = GarbageCollectorPause()
        assert not gc.isenabled()
        pause.startup_finished()
        assert gc.isenabled()
        assert gc.get_freeze_count() > was_frozen
    finally:
        gc.unfreeze()
        (gc.enable if was_enabled else gc.disable)()
