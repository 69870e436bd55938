"""The process that serves HTTP: builds the app, connects to the engine, and ends both."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from dataclasses import dataclass
from typing import Final, Protocol

from flask import Flask
from prometheus_client import CollectorRegistry, disable_created_metrics
from rich.console import Console
from typing_extensions import override

from app.hosting.engine_process import DRAIN_SHARE, SWITCH_INTERVAL_S, make_engine
from app.hosting.logs import configure_logging
from app.hosting.master import Master
from app.hosting.supervisor import say
from app.http.factory import create_app
from app.http.services import DisconnectWatcher
from app.settings import Settings, exit_with, load
from app.telemetry.exporter import HttpExporter, share_values
from engine import api
from engine.api import ConfigError, EngineClient, Observer

GARBAGE: Final = 10_000
"""New objects that may wait for a collection; Python's default is 700."""

FORKED: Final = "forked after the start; turn preload_app off"


class Engine(EngineClient, Protocol):
    """An engine client, and what its owner may do."""

    def start(self) -> None:
        """Begin, in the background."""

    def leave(self, timeout_s: float) -> None:
        """Answer what is accepted within `timeout_s` seconds, and then end; an engine that serves
        other processes is not ended. Waits for that.
        """

    def close(self, timeout_s: float) -> None:
        """Refuse new requests, answer the accepted ones, end. Idempotent."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """What `build` started. Both methods are idempotent."""

    engine: Engine
    disconnects: DisconnectWatcher
    drain_s: float

    def leave(self) -> None:
        """Answer what was accepted, then end the engine or the connection to it."""
        self.engine.leave(self.drain_s)

    def close(self) -> None:
        """End the engine or the connection to it, and the watcher for clients that disconnect."""
        self.engine.close(self.drain_s)
        self.disconnects.close()


@dataclass(slots=True)
class Process:
    """What this process is. gunicorn's hooks are given nothing else that leads to it.

    `master` is there in gunicorn's master and, by the fork, in its workers; `slot` in a worker.
    """

    master: Master | None = None
    slot: int = 0
    hosted: Hosted | None = None


PROCESS: Final = Process()


class EndsWorker(Observer):
    """Ends this process, if the engine in it cannot serve any more: gunicorn starts another."""

    @override
    def broken(self, model: str, reason: str) -> None:
        say(f"this process ends: model {model}: {reason}")
        os.kill(os.getpid(), signal.SIGTERM)


def build(settings: Settings) -> Flask:
    """Make the app, and connect it to the engine's process, or start an engine in this process if
    there is none. Call it once per process.
    """
    master = PROCESS.master
    disable_created_metrics()  # they would double the number of series
    shared: str | None = None
    engine: Engine
    if master is not None and master.engine is not None:
        configure_logging(settings.log_level, Console(stderr=True, highlight=False))
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        shared = master.folder
        share_values(shared, PROCESS.slot)
        engine = api.shared_memory_client(
            settings.models, master.engine.address, master.engine.page
        )
    else:
        engine = make_engine(settings, EndsWorker())
        # threads do not survive a fork: a child process must report that it cannot serve
        os.register_at_fork(after_in_child=lambda: engine.abandon(FORKED))
    metrics = HttpExporter(CollectorRegistry(auto_describe=True), shared)
    disconnects = DisconnectWatcher()
    app = create_app(settings, engine, metrics, disconnects)
    PROCESS.hosted = Hosted(engine, disconnects, DRAIN_SHARE * settings.graceful_timeout_s)
    atexit.register(PROCESS.hosted.close)
    engine.start()
    if shared is not None:
        rest_the_garbage_collector()
    return app


def rest_the_garbage_collector() -> None:
    """Never scan again what an HTTP process has loaded, and scan the rest less often.

    A request makes some hundred objects that are freed without the collector, and waits for its
    answer among thousands of others: at Python's defaults every seventh request paid for a
    collection, 34 us of 233 each, and the p99 of 64 clients was 48 ms and not 25.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, *gc.get_threshold()[1:])


def settings_or_exit() -> Settings:
    """The settings that gunicorn's master has read; without one, those that `BRIM_CONFIG` names,
    with `BRIM_BIND`, `BRIM_WORKER`, `BRIM_WORKERS` and `BRIM_THREADS`.

    If they are wrong, one line and exit status 2.
    """
    if PROCESS.master is not None:
        return PROCESS.master.settings
    try:
        return settings_of_environment()
    except ConfigError as error:
        exit_with(error)


def settings_of_environment() -> Settings:
    """The settings that `BRIM_CONFIG` names. Raises `ConfigError`."""
    file = os.environ.get("BRIM_CONFIG")
    if not file:
        raise ConfigError("BRIM_CONFIG", file, "the path of a config file")
    return load(file, os.environ)
