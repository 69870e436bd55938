"""gunicorn's side of hosting: its options, its hooks, and gunicorn embedded for `brim serve`.

In order: the master checks the options (`on_starting`) and forks one worker; the worker builds the
app, which starts the engine after the fork, because JAX does not survive one; SIGTERM starts the
drain (`post_worker_init`); when the worker has sent its responses, `worker_exit` closes the engine.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import gunicorn.app.base
from flask import Flask

from app.hosting.process import PROCESS, build
from app.settings import MAX_CONNECTIONS, Settings, exit_with
from engine.api import ConfigError


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """The gunicorn settings for one Brim process; `configs/gunicorn.py` gives the reasons."""
    brim = settings.worker == "brim"
    return {
        "bind": f"{settings.host}:{settings.port}",
        "worker_class": "app.worker.worker.BrimWorker" if brim else "gthread",
        "workers": 1,
        "threads": settings.threads,
        "worker_connections": MAX_CONNECTIONS if brim else max(1000, 2 * settings.threads),
        "keepalive": settings.keepalive_s,
        "graceful_timeout": settings.graceful_timeout_s,
        # the heartbeat is a file: on a disk it may block, and a container's root may be read-only
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108
        "preload_app": False,
        "control_socket_disable": True,
        "loglevel": "warning",
        "on_starting": on_starting,
        "post_worker_init": post_worker_init,
        "worker_exit": worker_exit,
    }


def on_starting(server: Any) -> None:
    """In the master: refuse several workers, and an app that is loaded before the fork."""
    if (workers := server.cfg.workers) != 1:
        allowed = "1: each worker would hold the weights once more"
        exit_with(ConfigError("workers", workers, allowed))
    if server.cfg.preload_app:
        exit_with(ConfigError("preload_app", True, "False: JAX does not survive a fork"))


def post_worker_init(_worker: Any) -> None:
    """In the worker: let SIGTERM start the drain before gunicorn's handler stops accepting."""
    gunicorns = signal.getsignal(signal.SIGTERM)

    def drain_then_stop(number: int, frame: FrameType | None) -> None:
        if PROCESS.hosted is not None:
            # on a thread: when the signal arrives, the main thread may hold one of the locks
            stop = PROCESS.hosted.stop_engine
            threading.Thread(target=stop, name="brim-stop", daemon=True).start()
        if callable(gunicorns):
            gunicorns(number, frame)

    signal.signal(signal.SIGTERM, drain_then_stop)


def worker_exit(_server: Any, _worker: Any) -> None:
    """In the worker, after its last response: close the engine and join its threads."""
    if PROCESS.hosted is not None:
        PROCESS.hosted.close()


class Server(gunicorn.app.base.BaseApplication):  # type: ignore[misc]
    """gunicorn, embedded: what `brim serve` runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn for its settings."""
        for key, value in gunicorn_options(self._settings).items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        """Called by gunicorn in the worker for the app."""
        return build(self._settings)
