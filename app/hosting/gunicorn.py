"""gunicorn's side of hosting: its options, its hooks, and gunicorn embedded for `brim serve`.

`app.hosting.master` is what the master does. A worker builds the app, which connects to the
engine's process; SIGTERM starts its drain (`post_worker_init`); when it has sent its responses,
`worker_exit` closes the connection.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import gunicorn.app.base
from flask import Flask

from app.hosting.master import Master, memory_folder
from app.hosting.process import PROCESS, build, settings_of_environment
from app.hosting.workers import choose
from app.settings import MAX_CONNECTIONS, Settings
from engine.api import can_share_memory

log = logging.getLogger("brim.app")


def options_of_environment() -> dict[str, Any]:
    """The options for the configuration that `BRIM_CONFIG` names, for gunicorn's own command.
    gunicorn calls it again on SIGHUP, and it reads the file again. Raises `ConfigError`.
    """
    if PROCESS.master is None:
        PROCESS.master = Master(settings_of_environment)
    else:
        PROCESS.master.reread()
    return master_options(PROCESS.master)


def master_options(master: Master) -> dict[str, Any]:
    """The options with the master's hooks."""
    return gunicorn_options(master.settings) | {
        "on_starting": master.on_starting,
        "when_ready": master.when_ready,
        "pre_fork": master.pre_fork,
        "child_exit": master.child_exit,
        "on_reload": master.on_reload,
        "on_exit": master.on_exit,
    }


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """The gunicorn settings for a configuration; `configs/gunicorn.py` gives the reasons."""
    shared = can_share_memory()
    brim = settings.worker == "brim" and shared
    return {
        "bind": settings.bind,
        "worker_class": "app.worker.worker.BrimWorker" if brim else "gthread",
        "workers": choose(settings).workers if shared else 1,
        "threads": settings.threads,
        "worker_connections": MAX_CONNECTIONS if brim else max(1000, 2 * settings.threads),
        "keepalive": settings.keepalive_s,
        "graceful_timeout": settings.graceful_timeout_s,
        # the heartbeat is a file: on a disk it may block, and a container's root may be read-only
        "worker_tmp_dir": memory_folder(),
        "preload_app": False,
        "control_socket_disable": True,
        "proc_name": "brim",
        "loglevel": "warning",
        "post_fork": post_fork,
        "post_worker_init": post_worker_init,
        "worker_exit": worker_exit,
    }


def post_fork(_server: Any, worker: Any) -> None:
    """In the worker: take its slot, and close what belongs to the master."""
    PROCESS.slot = worker.slot
    if PROCESS.master is not None and PROCESS.master.engine is not None:
        PROCESS.master.engine.retire()


def post_worker_init(_worker: Any) -> None:
    """In the worker: let SIGTERM start the drain before gunicorn's handler stops accepting."""
    gunicorns = signal.getsignal(signal.SIGTERM)

    def drain_then_stop(number: int, frame: FrameType | None) -> None:
        if PROCESS.hosted is not None:
            # on a thread: when the signal arrives, the main thread may hold one of the locks
            leave = PROCESS.hosted.leave
            try:
                threading.Thread(target=leave, name="brim-leave", daemon=True).start()
            except RuntimeError as error:  # `worker_exit` ends the engine, after the answers
                log.warning("no thread for the drain: %s", error)
        if callable(gunicorns):
            gunicorns(number, frame)

    signal.signal(signal.SIGTERM, drain_then_stop)


def worker_exit(_server: Any, worker: Any) -> None:
    """In the worker, after its last response: close the engine and join its threads."""
    if PROCESS.master is not None:
        PROCESS.master.worker_exit(worker)
    if PROCESS.hosted is not None:
        PROCESS.hosted.close()


class Server(gunicorn.app.base.BaseApplication):  # type: ignore[misc]
    """gunicorn, embedded: what `brim serve` runs."""

    def __init__(self, read: Callable[[], Settings]) -> None:
        """`read` reads the configuration, at the start and on SIGHUP. Raises what it raises."""
        self._master = PROCESS.master = Master(read)
        self._loaded = False
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn for its settings, at the start and on SIGHUP."""
        if self._loaded:
            self._master.reread()
        self._loaded = True
        for key, value in master_options(self._master).items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        """Called by gunicorn in the worker for the app."""
        return build(self._master.settings)


def serve_forever(read: Callable[[], Settings]) -> None:
    """Serve until SIGTERM or SIGINT. Raises what `read` raises the first time."""
    Server(read).run()
