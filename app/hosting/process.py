"""The process that serves: builds the app, starts the engine after the fork, and stops both."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from dataclasses import dataclass
from typing import Final

from flask import Flask
from prometheus_client import CollectorRegistry, disable_created_metrics
from rich.console import Console
from rich.logging import RichHandler
from typing_extensions import override

from app.hosting.terminal import StartupDisplay
from app.http.factory import create_app
from app.http.services import DisconnectWatcher
from app.settings import Settings, exit_with, load
from app.telemetry.exporter import HttpExporter
from engine.api import ConfigError, InProcessClient, Observer, Observers

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a Python thread may keep the GIL while another waits for it. At the default of 5 ms, one
busy thread makes the hand-off between a request and the engine take 10 ms; at 0.5 ms, 1.2 ms."""

DRAIN_SHARE: Final = 0.8
"""The part of `graceful_timeout_s` that the engine may take to drain. The rest is for sending the
last responses, before gunicorn closes the connections."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """What `build` started. Both methods are idempotent."""

    engine: InProcessClient
    disconnects: DisconnectWatcher
    drain_s: float

    def stop_engine(self) -> None:
        """Refuse new requests, drain the queue, answer what was accepted, join the threads."""
        self.engine.close(self.drain_s)

    def close(self) -> None:
        """Stop the engine, then the watcher for clients that disconnect."""
        self.stop_engine()
        self.disconnects.close()


@dataclass(slots=True)
class Process:
    """What this process hosts. gunicorn's hooks are given nothing else that leads to it."""

    hosted: Hosted | None = None


PROCESS: Final = Process()


def build(settings: Settings) -> Flask:
    """Make the app and start its engine in the background. Call it once per process."""
    console = Console(stderr=True, highlight=False)
    _configure_logging(settings, console)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    disable_created_metrics()  # they would double the number of series
    metrics = HttpExporter(CollectorRegistry(auto_describe=True))
    display = StartupDisplay(settings, console)
    observers = Observers([display, GarbageCollectorPause()])
    engine = InProcessClient(settings.models, observers)
    disconnects = DisconnectWatcher()
    app = create_app(settings, engine, metrics, disconnects)
    PROCESS.hosted = Hosted(engine, disconnects, DRAIN_SHARE * settings.graceful_timeout_s)
    # threads do not survive a fork: a child process must report that it cannot serve
    os.register_at_fork(
        after_in_child=lambda: engine.abandon("forked after the start; turn preload_app off")
    )
    atexit.register(PROCESS.hosted.close)
    display.attach(engine)
    engine.start()
    return app


def settings_or_exit() -> Settings:
    """`BRIM_CONFIG` names the file; `BRIM_BIND`, `BRIM_WORKER` and `BRIM_THREADS` override it.

    If they are wrong, one line and exit status 2.
    """
    file = os.environ.get("BRIM_CONFIG")
    try:
        if not file:
            raise ConfigError("BRIM_CONFIG", file, "the path of a config file")
        return load(file, os.environ)
    except ConfigError as error:
        exit_with(error)


class GarbageCollectorPause(Observer):
    """Turns Python's garbage collector off until start-up is over, then freezes what exists.

    JAX's tracing makes millions of objects that stay alive. With the collector on, full collections
    over them took 150 ms, and a health probe waited that long. Frozen objects are never scanned
    again, so collections while serving stay short.
    """

    def __init__(self) -> None:
        gc.disable()

    @override
    def startup_finished(self) -> None:
        gc.freeze()
        gc.enable()


def _configure_logging(settings: Settings, console: Console) -> None:
    """Plain lines for a log collector; in a terminal, lines above the progress bars."""
    handler: logging.Handler = logging.StreamHandler()
    layout = "%(asctime)s %(levelname)s %(name)s %(threadName)s: %(message)s"
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False)
        layout = "%(message)s"  # the handler adds time and level
    handler.setFormatter(logging.Formatter(layout))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # at INFO, JAX reports every kind of device that it does not find
    logging.getLogger("jax").setLevel(max(logging.WARNING, logging.root.level))
