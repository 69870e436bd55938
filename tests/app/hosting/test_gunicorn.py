"""gunicorn: the options it gets, the options it is refused, and its hooks."""

from __future__ import annotations

import os
import runpy
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from app.hosting import gunicorn as hosting
from app.hosting.master import Master
from app.hosting.process import PROCESS, Hosted
from app.settings import load
from app.worker.worker import BrimWorker
from engine.testing import rows, submit
from tests.app.conftest import Served, settings_of

Write = Callable[[str], Path]

ROOT = Path(__file__).parents[3]
PUPPET = '[[models]]\nname = "p"\nfactory = "engine.testing:puppet_model"\nrows = [4]\n'


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worker", "worker_class", "threads", "connections"),
    [("brim", "app.worker.worker.BrimWorker", 99, 16_384), ("gthread", "gthread", 99, 1000)],
)
def test_gunicorns_options_follow_from_the_settings(
    monkeypatch: pytest.MonkeyPatch,
    worker: str,
    worker_class: str,
    threads: int,
    connections: int,
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path == "/dev/shm")
    options = hosting.gunicorn_options(
        settings_of(
            bind="h:1",
            worker=worker,
            workers=3,
            threads=99,
            keepalive_s=75,
            graceful_timeout_s=9,
        )
    )
    assert {key: value for key, value in options.items() if not callable(value)} == {
        "bind": "h:1",
        "worker_class": worker_class,
        "workers": 3,
        "threads": threads,
        "worker_connections": connections,
        "keepalive": 75,
        "graceful_timeout": 9,
        "worker_tmp_dir": "/dev/shm",
        "preload_app": False,
        "control_socket_disable": True,
        "proc_name": "brim",
        "loglevel": "warning",
    }


def test_without_a_memory_file_system_gunicorn_chooses_where_the_heartbeat_file_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert hosting.gunicorn_options(settings_of())["worker_tmp_dir"] is None


def test_gthread_accepts_twice_as_many_connections_as_it_has_threads() -> None:
    assert (
        hosting.gunicorn_options(settings_of(worker="gthread", threads=20_000))[
            "worker_connections"
        ]
        == 40_000
    )


@pytest.mark.parametrize("missing", ["memfd_create", "eventfd"])
def test_without_shared_memory_one_process_serves_under_gthread(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delattr(os, missing)
    options = hosting.gunicorn_options(settings_of(worker="brim", workers=4))
    assert (options["workers"], options["worker_class"]) == (1, "gthread")


@pytest.fixture(autouse=True)
def no_master(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test makes the master of this process is forgotten after it."""
    monkeypatch.setattr(PROCESS, "master", None)


def test_gunicorn_knows_every_option() -> None:
    server = hosting.Server(lambda: settings_of(threads=8, bind="127.0.0.1:1", workers=5))
    assert server.cfg.threads == 8
    assert server.cfg.workers == 5
    assert server.cfg.address == [("127.0.0.1", 1)]
    assert server.cfg.worker_class is BrimWorker
    assert server.cfg.when_ready == hosting.PROCESS.master.when_ready


def test_the_config_file_for_gunicorn_has_the_options_of_brim_serve(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIM_CONFIG", str(write(PUPPET)))
    monkeypatch.setenv("BRIM_BIND", "env:7")
    loaded = runpy.run_path(str(ROOT / "configs/gunicorn.py"))
    master = PROCESS.master
    assert master is not None
    assert hosting.master_options(master).items() <= loaded.items()
    assert loaded["bind"] == "env:7"


# --- the address ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listeners", "url"),
    [
        (["http://0.0.0.0:81"], "http://127.0.0.1:81"),
        (["https://[::1]:81", "http://127.0.0.1:82"], "https://[::1]:81"),
        (["unix:/run/brim.sock"], "unix:/run/brim.sock"),
    ],
    ids=["everywhere", "several", "a file"],
)
def test_the_url_is_that_of_gunicorns_first_socket(listeners: list[str], url: str) -> None:
    assert Master(settings_of)._url(SimpleNamespace(LISTENERS=listeners)) == url


@pytest.mark.parametrize(
    ("bind", "tls", "url"),
    [
        ("0.0.0.0:81", False, "http://127.0.0.1:81"),
        ("[::1]:81", True, "https://[::1]:81"),
        ("unix:/run/brim.sock", False, "unix:/run/brim.sock"),
    ],
)
def test_where_each_worker_has_its_own_socket_the_url_is_that_of_the_options(
    bind: str, tls: bool, url: str
) -> None:
    cfg = Config()
    cfg.set("bind", bind)
    cfg.set("certfile", "certificate.pem" if tls else None)
    server = SimpleNamespace(LISTENERS=[], cfg=cfg)
    assert Master(settings_of)._url(server) == url


# --- reading the file again -----------------------------------------------------------------------


def test_on_sighup_the_file_is_read_again(write: Write) -> None:
    path = write(PUPPET)
    server = hosting.Server(lambda: load(path))
    write(f"[server]\nkeepalive_s = 5\n{PUPPET}")
    server.reload()
    assert server.cfg.keepalive == 5


def test_a_mistake_in_the_file_changes_nothing_on_sighup(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(f"[server]\nkeepalive_s = 5\n{PUPPET}")
    server = hosting.Server(lambda: load(path))
    write(f"[server]\nkeepalive_s = -1\n{PUPPET}")
    server.reload()
    assert server.cfg.keepalive == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert "server.keepalive_s: got -1" in line
    assert line.endswith("; the configuration before it stays")


# --- refused options ------------------------------------------------------------------------------


def arbiter(workers: int = 1, preload_app: bool = False) -> Any:
    return SimpleNamespace(cfg=SimpleNamespace(workers=workers, preload_app=preload_app))


def test_several_workers_that_start_after_the_fork_are_fine() -> None:
    Master(settings_of).on_starting(arbiter(workers=8))


def test_an_app_that_is_loaded_before_the_fork_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        Master(settings_of).on_starting(arbiter(preload_app=True))
    assert ended.value.code == 2
    expected = "False: each worker has its own connection to the engine"
    assert capsys.readouterr().err == f"brim: preload_app: got True, expected {expected}\n"


def test_several_workers_are_refused_where_the_engine_has_to_be_in_one_of_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(SystemExit) as ended:
        Master(settings_of).on_starting(arbiter(workers=2))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("brim: workers: got 2, expected 1: ")


# --- slots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "slot"), [((), 0), ((0,), 1), ((1,), 0), ((0, 2), 1), ((2, 0, 1), 3)]
)
def test_a_worker_gets_the_lowest_free_slot(taken: tuple[int, ...], slot: int) -> None:
    workers = {number: SimpleNamespace(slot=number) for number in taken}
    worker = SimpleNamespace()
    server = SimpleNamespace(WORKERS=workers, cfg=SimpleNamespace(reuse_port=False))
    Master(settings_of).pre_fork(server, worker)
    assert worker.slot == slot


@pytest.mark.parametrize(("reuse_port", "balanced"), [(False, True), (True, False)])
def test_connections_are_balanced_where_another_worker_can_accept_them(
    reuse_port: bool, balanced: bool
) -> None:
    master, worker = Master(settings_of), SimpleNamespace()
    server = SimpleNamespace(WORKERS={}, cfg=SimpleNamespace(reuse_port=reuse_port))
    master.pre_fork(server, worker)
    assert hasattr(worker, "connection_counts") == balanced


# --- signals and exit -----------------------------------------------------------------------------


@pytest.fixture
def hosted(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """An app registered in the way `build` does it; SIGTERM's handler is restored afterwards."""
    monkeypatch.setattr(PROCESS, "hosted", Hosted(served.engine, served.disconnects, drain_s=24.0))
    before = signal.getsignal(signal.SIGTERM)
    yield served
    signal.signal(signal.SIGTERM, before)


def test_sigterm_drains_and_then_calls_gunicorns_handler(hosted: Served) -> None:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    hosting.post_worker_init(None)
    signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM]
    states = [state.value for _, state, _ in hosted.observer.wait_for("state_changed", 5)]
    assert states[3:] == ["draining", "closed"]
    assert hosted.client.get("/readyz").status_code == 503
    assert hosted.client.get("/healthz").status_code == 200


def test_sigterm_drains_where_gunicorn_has_no_handler(hosted: Served) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hosting.post_worker_init(None)
    signal.raise_signal(signal.SIGTERM)
    hosted.observer.wait_for("state_changed", 5)


def test_sigterm_stops_the_worker_where_the_system_starts_no_thread(
    monkeypatch: pytest.MonkeyPatch, hosted: Served
) -> None:
    def fails(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    hosting.post_worker_init(None)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM]
    assert hosted.engine.ready  # until `worker_exit`


def test_sigterm_before_there_is_an_engine_only_calls_gunicorns_handler(
    monkeypatch: pytest.MonkeyPatch, hosted: Served
) -> None:
    monkeypatch.setattr(PROCESS, "hosted", None)
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    hosting.post_worker_init(None)
    signal.raise_signal(signal.SIGTERM)
    hosting.worker_exit(None, None)
    assert received == [signal.SIGTERM]
    assert hosted.engine.ready


def test_worker_exit_closes_everything_and_may_be_called_again(hosted: Served) -> None:
    pending = submit(hosted.engine, "puppet", rows(1.0))
    hosting.worker_exit(None, None)
    hosting.worker_exit(None, None)
    assert pending.result()["y"].tolist() == [[3.0, -1.0]]
    left = {thread.name for thread in threading.enumerate() if thread.name.startswith("brim-")}
    assert left == set()
    assert hosted.client.get("/readyz").get_json()["models"]["puppet"]["state"] == "closed"
