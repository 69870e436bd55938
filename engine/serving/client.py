"""The engine in this process: every model from `start` to `close`. The composition root."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from engine.compilation.interface import Compiler
from engine.errors import ConfigError
from engine.models.config import ModelConfig
from engine.models.model import Model, ModelState
from engine.models.tensors import Arrays
from engine.runtime.device_group import DeviceGroup
from engine.serving.bring_up import Toolchain
from engine.serving.endpoint import Endpoint
from engine.serving.version import find
from engine.telemetry.events import Observer, Observers
from engine.telemetry.snapshots import EngineSnapshot, EngineStatus


def _load(config: ModelConfig) -> Model:
    # imports JAX: not before the engine's thread runs
    from engine.compilation.guard import expected_compiles
    from engine.models.registry import load

    with expected_compiles():
        return load(config)


def _compiler(model: Model) -> Compiler:
    from engine.compilation.compiler import JaxCompiler

    return JaxCompiler(model)


def _watch_compiles(alarm: Callable[[], None]) -> Callable[[], None]:
    from engine.compilation.guard import watch_compiles

    return watch_compiles(alarm)


class InProcessClient:
    """Serves the configured models on threads of this process. Nothing happens before `start`.

    Models come up one after the other, on one thread, so that compiling one model does not disturb
    the measurement of another's costs.
    """

    def __init__(
        self,
        models: Sequence[ModelConfig],
        observer: Observer | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        load: Callable[[ModelConfig], Model] = _load,
        compiler: Callable[[Model], Compiler] = _compiler,
        watch_compiles: Callable[[Callable[[], None]], Callable[[], None]] = _watch_compiles,
    ) -> None:
        """`clock`, `load`, `compiler` and `watch_compiles` are what a test replaces.

        Raises `ConfigError` for two models of one name.
        """
        names = [config.name for config in models]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError("name", name, "a name that no other model has")
        self._observer = Observers([observer] if observer else [])
        self._clock = clock
        self._watch_compiles = watch_compiles
        self._group = DeviceGroup()
        tools = Toolchain(load, compiler)
        self._endpoints = {
            config.name: Endpoint(config, tools, self._observer, clock, self._group)
            for config in models
        }
        self._thread = threading.Thread(target=self._bring_up, name="brim-engine", daemon=True)
        self._lock = threading.Lock()
        self._startup_finished = threading.Event()
        self._closing = False
        self._unwatch: Callable[[], None] | None = None
        self._compiles_after_ready = 0

    def start(self) -> None:
        """Bring all models up, in the background. Call it once, in the process that serves."""
        self._thread.start()

    def wait_startup_finished(self, timeout_s: float | None = None) -> bool:
        """Wait until every model is READY or FAILED. Returns whether they are."""
        return self._startup_finished.wait(timeout_s)

    def _bring_up(self) -> None:
        try:
            self._unwatch = self._watch_compiles(self._compiled_after_ready)
            for endpoint in self._endpoints.values():
                if self._closing:
                    return
                endpoint.bring_up()
        except BaseException as error:
            for endpoint in self._endpoints.values():
                endpoint.fail(f"the engine's thread died: {error!r}")
            raise
        finally:
            self._observer.startup_finished()
            self._startup_finished.set()
            if self._closing:
                self._stop_watching()

    def _compiled_after_ready(self) -> None:
        states = [endpoint.lifecycle.state for endpoint in self._endpoints.values()]
        if ModelState.READY in states:
            with self._lock:
                self._compiles_after_ready += 1
            self._observer.compiled_after_ready()

    def abandon(self, reason: str) -> None:
        """Mark every model FAILED, in a forked child, where the engine's threads do not exist.

        One of them may have held a lock at the fork, so every lock is replaced, and none taken.
        """
        self._group = DeviceGroup()
        for endpoint in self._endpoints.values():
            endpoint.abandon(reason)

    def drain(self) -> None:
        """Refuse new requests, finish the accepted ones. Returns at once; `ready` becomes false."""
        self._closing = True
        for endpoint in self._endpoints.values():
            endpoint.drain()

    def leave(self, timeout_s: float) -> None:
        """As `close`: without this process there is no engine."""
        self.close(timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Refuse, drain, answer, join: after `timeout_s` seconds at most, every request has an
        outcome. Idempotent.
        """
        self.drain()
        give_up_at = self._clock() + timeout_s
        for endpoint in self._endpoints.values():
            endpoint.close(max(0.0, give_up_at - self._clock()))
        if self._thread.ident is not None:
            self._thread.join(max(0.0, give_up_at - self._clock()))
        self._stop_watching()

    def _stop_watching(self) -> None:
        # called by `close`, and by a start-up that `close` did not wait for
        if self._unwatch is not None:
            self._unwatch()

    @property
    def names(self) -> tuple[str, ...]:
        """The configured models, in the order of the configuration."""
        return tuple(self._endpoints)

    def endpoint(self, name: str, version: str | None = None) -> Endpoint:
        """A configured model. Raises `UnknownModel` or `UnknownVersion`."""
        return find(self._endpoints, name, version)

    def infer(
        self, name: str, inputs: Arrays, timeout_s: float | None = None, priority: int = 0
    ) -> Arrays:
        """Run one request and wait: client tensors in and out, rows first."""
        endpoint = self.endpoint(name)
        request = endpoint.prepare(endpoint.admit(), inputs, timeout_s, priority)
        return endpoint.submit(request).result()

    def watch(self) -> None:
        """Nothing to watch: the engine's threads make results ready."""

    def coalesce(self) -> AbstractContextManager[None]:
        """Requests that one thread submits inside are dispatched together, at the end."""
        return self._group.coalesce()

    def snapshot(self) -> EngineSnapshot:
        """The state and statistics of every model at this moment."""
        models = tuple(endpoint.snapshot() for endpoint in self._endpoints.values())
        return EngineSnapshot(models, self._compiles_after_ready)

    def status(self) -> EngineStatus:
        """Whether every model serves at this moment, and how soon."""
        return EngineStatus(tuple(endpoint.status() for endpoint in self._endpoints.values()))

    @property
    def ready(self) -> bool:
        """Whether traffic may come: every required model serves, and at least one."""
        return self.status().ready
