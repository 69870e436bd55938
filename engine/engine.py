"""The engine: every model of one process, from `start` to `close`.

May touch: everything in `engine/`. This is where the parts are put together; the web side knows
this class, the errors and the frozen values that come out of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from engine.batcher import SharedDevice
from engine.config import ModelConfig
from engine.errors import BrimError, ConfigError, UnknownModel
from engine.model import Model
from engine.observer import Observer, Observers
from engine.served_model import BucketCompiler, ServedModel
from engine.spec import Arrays
from engine.state import ModelState
from engine.stats import ModelStats
from engine.ticket import Ticket


def _load(config: ModelConfig) -> Model:
    # imports JAX: not before the engine's thread runs
    from engine.executable import expected_compiles
    from engine.models import load

    with expected_compiles():
        return load(config)


def _compiler(model: Model) -> BucketCompiler:
    from engine.executable import Compiler

    return Compiler(model)


def _watch_compiles(alarm: Callable[[], None]) -> Callable[[], None]:
    from engine.executable import watch_compiles

    return watch_compiles(alarm)


class Engine:
    """Serves the configured models. Nothing happens before `start`.

    Models come up one after the other, on one thread of the engine's own, so that no model's
    compilation disturbs the measurement of another's costs.
    """

    def __init__(
        self,
        models: Sequence[ModelConfig],
        observer: Observer | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        load: Callable[[ModelConfig], Model] = _load,
        compiler: Callable[[Model], BucketCompiler] = _compiler,
        watch_compiles: Callable[[Callable[[], None]], Callable[[], None]] = _watch_compiles,
    ) -> None:
        """`clock`, `load`, `compiler` and `watch_compiles` are what a test replaces."""
        names = [config.name for config in models]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError("name", name, "a name that no other model has")
        self._observer = Observers([observer] if observer else [])
        self._clock = clock
        self._watch_compiles = watch_compiles
        self._device = SharedDevice()
        self._models = {
            config.name: ServedModel(config, load, compiler, self._observer, clock, self._device)
            for config in models
        }
        self._thread = threading.Thread(target=self._bring_up, name="brim-engine", daemon=True)
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._closing = False
        self._unwatch: Callable[[], None] | None = None
        self.compiles_after_ready = 0

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring all models up, in the background. Call it once, in the process that serves."""
        self._thread.start()

    def wait_settled(self, timeout_s: float | None = None) -> bool:
        """Wait until every model is READY or FAILED; is it so?"""
        return self._settled.wait(timeout_s)

    def _bring_up(self) -> None:
        try:
            self._unwatch = self._watch_compiles(self._compiled_after_ready)
            for model in self._models.values():
                if self._closing:
                    return
                model.bring_up()
        except BaseException as error:
            for model in self._models.values():
                model.fail(f"the engine's thread died: {error!r}")
            raise
        finally:
            self._observer.settled()
            self._settled.set()
            if self._closing:
                self._stop_watching()

    def _compiled_after_ready(self) -> None:
        if any(model.state is ModelState.READY for model in self._models.values()):
            with self._lock:
                self.compiles_after_ready += 1
            self._observer.compiled_after_ready()

    def abandon(self, reason: str) -> None:
        """Mark every model FAILED, in a forked child: the threads stayed behind."""
        for model in self._models.values():
            model.abandon(reason)

    def drain(self) -> None:
        """Refuse what comes, finish what is there. Returns at once; `ready` is false from here."""
        self._closing = True
        for model in self._models.values():
            model.drain()

    def close(self, timeout_s: float = 30.0) -> None:
        """Refuse, drain, answer, join: after `timeout_s` seconds at most, everybody has an outcome.

        Idempotent.
        """
        self.drain()
        give_up_at = self._clock() + timeout_s
        for model in self._models.values():
            model.close(max(0.0, give_up_at - self._clock()))
        if self._thread.ident is not None:
            self._thread.join(max(0.0, give_up_at - self._clock()))
        self._stop_watching()

    def _stop_watching(self) -> None:
        # by whoever comes last, the closer or a start-up that the closer did not wait for
        if self._unwatch is not None:
            self._unwatch()

    # --- serving ---------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The configured models, in the order of the config."""
        return tuple(self._models)

    def config(self, name: str) -> ModelConfig:
        """How a model is configured. Raises `UnknownModel`."""
        return self._served(name).config

    def model(self, name: str) -> Model:
        """A model that serves. Raises `UnknownModel`, or why it does not serve."""
        return self._served(name).model

    def admit(self, name: str) -> Model:
        """As `model`, for a request that is about to come: a refusal is counted."""
        return self._served(name).admit()

    def count_refusal(self, name: str, error: BrimError) -> None:
        """A request was turned away before it came here; the engine counts all of them."""
        self._served(name).count_refusal(0, error)

    def submit(
        self, name: str, inputs: Arrays, timeout_s: float | None = None, priority: int = 0
    ) -> Ticket:
        """Queue one request; see `ServedModel.submit`."""
        return self._served(name).submit(inputs, timeout_s, priority)

    def result(self, name: str, ticket: Ticket) -> Arrays:
        """Wait for a ticket; see `ServedModel.result`."""
        return self._served(name).result(ticket)

    @contextmanager
    def turn(self, hold_s: float) -> Iterator[None]:
        """For a thread that is about to submit some requests: those that follow each other within
        `hold_s` seconds are batched together instead of one by one, and batches that are short are
        run by this thread at the end. From one thread only.
        """
        self._device.begin_turn(self._clock(), hold_s)
        try:
            yield
        finally:
            self._device.end_turn()

    def infer(self, name: str, inputs: Arrays, timeout_s: float | None = None) -> Arrays:
        """`submit` and `result` in one."""
        served = self._served(name)
        return served.result(served.submit(inputs, timeout_s))

    def stats(self, name: str) -> ModelStats:
        """A frozen picture of one model. Raises `UnknownModel`."""
        return self._served(name).stats()

    @property
    def ready(self) -> bool:
        """May traffic come? There is a model, and every required one serves."""
        stats = [model.stats() for model in self._models.values()]
        required = [s for s in stats if s.required]
        return any(s.serving for s in stats) and all(s.serving for s in required)

    def _served(self, name: str) -> ServedModel:
        try:
            return self._models[name]
        except KeyError:
            raise UnknownModel(name, self.names) from None
