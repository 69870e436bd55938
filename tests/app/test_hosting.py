"""Hosting: what gunicorn is told, what it may not be told, and a life from build to exit."""

from __future__ import annotations

import gc
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app import hosting
from app.services import VERSION
from app.worker.worker import BrimWorker
from engine.testing import rows
from tests.app.conftest import PATIENCE_S, Served, settings_of

Write = Callable[[str], Path]

ROOT = Path(__file__).parents[2]
PUPPET = '[[models]]\nname = "p"\nfactory = "engine.testing:puppet_model"\nrows = [4]\n'


# --- what gunicorn is told ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worker", "worker_class", "threads", "connections"),
    [("brim", "app.worker.worker.BrimWorker", 99, 16_384), ("gthread", "gthread", 99, 1000)],
)
def test_gunicorn_is_told_what_the_settings_say(
    monkeypatch: pytest.MonkeyPatch,
    worker: str,
    worker_class: str,
    threads: int,
    connections: int,
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path == "/dev/shm")
    options = hosting.gunicorn_options(
        settings_of(
            host="h", port=1, worker=worker, threads=99, keepalive_s=75, graceful_timeout_s=9
        )
    )
    assert {key: value for key, value in options.items() if not callable(value)} == {
        "bind": "h:1",
        "worker_class": worker_class,
        "workers": 1,
        "threads": threads,
        "worker_connections": connections,
        "keepalive": 75,
        "graceful_timeout": 9,
        "worker_tmp_dir": "/dev/shm",
        "preload_app": False,
        "control_socket_disable": True,
        "loglevel": "warning",
    }


def test_where_there_is_no_memory_file_system_gunicorn_chooses_the_heartbeats_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert hosting.gunicorn_options(settings_of())["worker_tmp_dir"] is None


def test_connections_that_idle_do_not_use_up_what_the_threads_need() -> None:
    assert (
        hosting.gunicorn_options(settings_of(worker="gthread", threads=20_000))[
            "worker_connections"
        ]
        == 40_000
    )


def test_gunicorn_knows_every_option_that_it_is_told() -> None:
    server = hosting.Server(settings_of(threads=8, port=1))
    assert server.cfg.threads == 8
    assert server.cfg.address == [("127.0.0.1", 1)]
    assert server.cfg.worker_class is BrimWorker
    assert server.cfg.on_starting is hosting.on_starting


def test_the_config_file_for_gunicorn_says_the_same_as_brim_serve(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIM_CONFIG", str(write(PUPPET)))
    monkeypatch.setenv("BRIM_BIND", "env:7")
    said = runpy.run_path(str(ROOT / "configs/gunicorn.py"))
    options = hosting.gunicorn_options(hosting.settings_or_exit())
    assert options.items() <= said.items()
    assert said["bind"] == "env:7"


@pytest.mark.parametrize("config", [None, "", "gone.toml"], ids=["unset", "empty", "not there"])
def test_without_a_config_the_process_ends_with_one_line(
    config: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BRIM_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("BRIM_CONFIG", config)
    with pytest.raises(SystemExit) as ended:
        hosting.build_from_environment()
    assert ended.value.code == hosting.CONFIG_EXIT == 2
    said = capsys.readouterr().err
    assert said.startswith("brim: ")
    assert said.count("\n") == 1


# --- what it may not be told ----------------------------------------------------------------------


def master(workers: int = 1, preload_app: bool = False) -> Any:
    return SimpleNamespace(cfg=SimpleNamespace(workers=workers, preload_app=preload_app))


def test_one_worker_that_starts_after_the_fork_is_fine() -> None:
    hosting.on_starting(master())


@pytest.mark.parametrize(
    ("server", "line"),
    [
        (
            master(workers=2),
            "brim: workers: got 2, expected 1: each worker would hold the weights once more\n",
        ),
        (
            master(preload_app=True),
            "brim: preload_app: got True, expected False: JAX does not survive a fork\n",
        ),
    ],
    ids=["two workers", "preload"],
)
def test_what_cannot_work_is_refused_in_the_master(
    server: Any, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        hosting.on_starting(server)
    assert ended.value.code == 2
    assert capsys.readouterr().err == line


# --- signals and the end --------------------------------------------------------------------------


@pytest.fixture
def hosted(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """An app that stands where `build` would have put it; SIGTERM is restored afterwards."""
    whole = hosting.Hosted(served.app, served.engine, served.hangups, settings_of())
    monkeypatch.setattr(hosting, "_hosted", whole)
    before = signal.getsignal(signal.SIGTERM)
    yield served
    signal.signal(signal.SIGTERM, before)


def test_sigterm_drains_and_then_does_what_gunicorn_does(hosted: Served) -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    hosting.post_worker_init(None)
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    states = [state.value for _, state, _ in hosted.observer.wait_for("state_changed", 5)]
    assert states[3:] == ["draining", "closed"]
    assert hosted.client.get("/readyz").status_code == 503
    assert hosted.client.get("/healthz").status_code == 200


def test_sigterm_is_heard_where_gunicorn_has_no_handler(hosted: Served) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hosting.post_worker_init(None)
    signal.raise_signal(signal.SIGTERM)
    hosted.observer.wait_for("state_changed", 5)


def test_sigterm_before_there_is_an_engine_only_does_what_gunicorn_does(
    monkeypatch: pytest.MonkeyPatch, hosted: Served
) -> None:
    monkeypatch.setattr(hosting, "_hosted", None)
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    hosting.post_worker_init(None)
    signal.raise_signal(signal.SIGTERM)
    hosting.worker_exit(None, None)
    assert heard == [signal.SIGTERM]
    assert hosted.engine.ready


def test_when_the_worker_exits_everything_ends_and_may_end_again(hosted: Served) -> None:
    ticket = hosted.engine.submit("puppet", rows(1.0))
    hosting.worker_exit(None, None)
    hosting.worker_exit(None, None)
    assert ticket.result()["y"].tolist() == [[3.0, -1.0]]
    left = {thread.name for thread in threading.enumerate() if thread.name.startswith("brim-")}
    assert left == set()
    assert hosted.client.get("/readyz").get_json()["models"]["puppet"]["state"] == "closed"


# --- a whole life, in a process of its own --------------------------------------------------------

LIFE = """
import functools, os, sys, threading
from app import hosting
from engine.testing import PuppetCompiler
hosting.Engine = functools.partial(
    hosting.Engine, compiler=PuppetCompiler(), watch_compiles=lambda alarm: lambda: None
)
from app.wsgi import app
engine = app.extensions["brim"].engine
assert engine.wait_settled(30)
def say(who):
    stats = engine.stats("p")
    code = app.test_client().get("/readyz").status_code
    os.write(1, f"{who}: {stats.state.value} {stats.reason} {code}\\n".encode())
say("before")
"""
FORK = """
if os.fork() == 0:
    say("child")
    os._exit(0)
os.wait()
say("parent")
"""


def live(config: Path, *scripts: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "".join(scripts)],
        cwd=ROOT,
        env={"BRIM_CONFIG": str(config), "PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_process_that_was_forked_after_the_start_says_that_it_cannot_serve(write: Write) -> None:
    ended = live(write(PUPPET), LIFE, FORK)
    assert ended.stdout.splitlines() == [
        "before: ready None 200",
        "child: failed forked after the start; turn preload_app off 503",
        "parent: ready None 200",
    ]
    assert ended.returncode == 0, ended.stderr


def test_a_life_without_a_terminal_is_told_in_plain_log_lines_and_ends_by_itself(
    write: Write,
) -> None:
    ended = live(
        write(PUPPET), LIFE, "assert sys.getswitchinterval() == hosting.SWITCH_INTERVAL_S\n"
    )
    assert ended.returncode == 0, ended.stderr
    said = [line.split(" ", 2)[2] for line in ended.stderr.splitlines()]
    states = ("compiling", "warming", "ready")
    assert said[:3] == [f"INFO brim.app brim-engine: model p is {state}" for state in states]
    assert said[3].startswith("INFO brim.app brim-engine: listening on http://127.0.0.1:8000; try:")
    assert said[-1] == "INFO brim.app MainThread: model p is closed"


def test_a_life_in_a_terminal_is_shown_and_logged_above_the_progress(write: Write) -> None:
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}
    ended = live(
        write(PUPPET),
        LIFE,
        "hosting.log.warning('[to be read as it is]')\n",
        **terminal,
    )
    assert ended.returncode == 0, ended.stderr
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", ended.stderr)
    assert plain.index("2/2") < plain.index(f"Brim {VERSION} is ready on http://127.0.0.1:8000")
    assert re.search(r"WARNING +\[to be read as it is\]", plain)


def test_the_log_level_is_the_configs(write: Write) -> None:
    quiet = write(f'[server]\nlog_level = "error"\n{PUPPET}')
    assert live(quiet, LIFE).stderr == ""


def test_the_garbage_collector_stays_out_of_the_start_up() -> None:
    was_enabled, was_frozen = gc.isenabled(), gc.get_freeze_count()
    try:
        garbage = hosting._Garbage()
        assert not gc.isenabled()
        garbage.settled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > was_frozen
    finally:
        gc.unfreeze()
        (gc.enable if was_enabled else gc.disable)()
