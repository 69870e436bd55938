"""Hosting under gunicorn: the one place where threads start, signals are taken and logs configured.

Life under gunicorn, in order: the master checks the config and forks one worker; the worker builds
the app (`build`), which starts the engine *after* the fork, since JAX does not survive one; SIGTERM
starts the drain (`post_worker_init`); when the worker has answered what it had, the engine is
closed (`worker_exit`).
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import gunicorn.app.base
from flask import Flask
from prometheus_client import CollectorRegistry, disable_created_metrics
from rich.console import Console
from rich.logging import RichHandler

from app import settings as settings_module
from app.factory import create_app
from app.hangup import HangupWatcher
from app.metrics import Metrics
from app.settings import CONNECTIONS, Settings
from app.terminal import Terminal
from engine.engine import Engine
from engine.errors import ConfigError
from engine.observer import Observer, Observers

log = logging.getLogger("brim.app")

SWITCH_INTERVAL_S = 0.0005
"""How long a Python thread may keep the GIL when another wants it. At the default of 5 ms one busy
thread pushes the hand-off between a request and the batcher to 10 ms; here to 1.2 ms."""

CONFIG_EXIT = 2
"""The exit status for a wrong configuration."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """What runs in this process."""

    app: Flask
    engine: Engine
    hangups: HangupWatcher
    settings: Settings

    def stop_engine(self) -> None:
        """Refuse, drain, answer, join, in time for the answers to leave before gunicorn's own
        patience ends and it cuts the connections. Idempotent.
        """
        self.engine.close(0.8 * self.settings.graceful_timeout_s)

    def close(self) -> None:
        """Stop the engine, then what watched for it. Idempotent."""
        self.stop_engine()
        self.hangups.close()


_hosted: Hosted | None = None


def build(settings: Settings) -> Flask:
    """Make everything and start the engine in the background. Once per process."""
    global _hosted
    console = Console(stderr=True, highlight=False)
    _configure_logging(settings, console)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    disable_created_metrics()  # they double the number of series and nobody asks for them
    metrics = Metrics(settings.models, CollectorRegistry(auto_describe=True))
    terminal = Terminal(settings, console)
    engine = Engine(settings.models, Observers([metrics, terminal, _Garbage()]))
    hangups = HangupWatcher()
    app = create_app(settings, engine, metrics, hangups)
    _hosted = Hosted(app, engine, hangups, settings)
    # a fork takes none of the threads along: the child must say that it cannot serve
    os.register_at_fork(
        after_in_child=lambda: engine.abandon("forked after the start; turn preload_app off")
    )
    atexit.register(_hosted.close)
    terminal.attach(engine)
    engine.start()
    return app


class _Garbage(Observer):
    """Keeps Python's garbage collector out of the start-up, and what JAX made there out of its way.

    Tracing makes millions of objects that live: with the collector on, a full collection held the
    interpreter for 150 ms now and then, so that a probe waited that long. Frozen at the end, they
    are never looked at again, and collections while serving stay short.
    """

    def __init__(self) -> None:
        gc.disable()

    def settled(self) -> None:
        """Start-up is over: what is there stays."""
        gc.freeze()
        gc.enable()


def _configure_logging(settings: Settings, console: Console) -> None:
    """Plain lines for a log collector; in a terminal, lines above the progress bar."""
    handler: logging.Handler = logging.StreamHandler()
    layout = "%(asctime)s %(levelname)s %(name)s %(threadName)s: %(message)s"
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False)
        layout = "%(message)s"  # the handler itself says when and how bad
    handler.setFormatter(logging.Formatter(layout))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # JAX reports at INFO every kind of device that it looks for and does not find
    logging.getLogger("jax").setLevel(max(logging.WARNING, logging.root.level))


def build_from_environment() -> Flask:
    """`build` for `app.wsgi`, with the config that `BRIM_CONFIG` names."""
    return build(settings_or_exit())


def settings_or_exit() -> Settings:
    """The settings of the environment, or exit status 2 and one line that says what is wrong."""
    try:
        return settings_module.from_environment()
    except ConfigError as error:
        refuse(error)


def refuse(error: ConfigError) -> NoReturn:
    """Say what is wrong with the configuration, and end the process."""
    print(f"brim: {error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(CONFIG_EXIT)


# --- gunicorn -------------------------------------------------------------------------------------


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """Gunicorn's settings for one Brim process; `configs/gunicorn.py` says why."""
    ours = settings.worker == "brim"
    return {
        "bind": f"{settings.host}:{settings.port}",
        "worker_class": "app.worker.worker.BrimWorker" if ours else "gthread",
        "workers": 1,
        "threads": settings.threads,
        "worker_connections": CONNECTIONS if ours else max(1000, 2 * settings.threads),
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
    """Refuse, in the master, what cannot work: several workers, or an engine before the fork."""
    if server.cfg.workers != 1:
        refuse(
            ConfigError(
                "workers", server.cfg.workers, "1: each worker would hold the weights once more"
            )
        )
    if server.cfg.preload_app:
        refuse(ConfigError("preload_app", True, "False: JAX does not survive a fork"))


def post_worker_init(_worker: Any) -> None:
    """Let SIGTERM begin the drain before gunicorn's own handler stops accepting."""
    theirs = signal.getsignal(signal.SIGTERM)

    def drain_then_stop(number: int, frame: FrameType | None) -> None:
        if _hosted is not None:
            # on a thread: a signal may arrive while the main thread holds one of the locks
            stop = threading.Thread(target=_hosted.stop_engine, name="brim-stop", daemon=True)
            stop.start()
        if callable(theirs):
            theirs(number, frame)

    signal.signal(signal.SIGTERM, drain_then_stop)


def worker_exit(_server: Any, _worker: Any) -> None:
    """The worker has answered what it had; settle the rest and end the threads."""
    if _hosted is not None:
        _hosted.close()


class Server(gunicorn.app.base.BaseApplication):  # type: ignore[misc]
    """gunicorn, embedded: what `brim serve` runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Gunicorn asks for its settings."""
        for key, value in gunicorn_options(self._settings).items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        """Gunicorn asks for the app, in the worker."""
        return build(self._settings)
