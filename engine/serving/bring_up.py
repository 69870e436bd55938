"""Makes a `LoadedVersion` of a configuration: load, compile, verify, measure."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from engine.compilation.interface import Compiler, Executable
from engine.models.config import ModelConfig
from engine.models.model import Model, ModelState
from engine.runtime.device_group import DeviceGroup, Replica
from engine.scheduling.buckets import Bucket
from engine.serving.lifecycle import Lifecycle
from engine.serving.version import FIRST_VERSION, LoadedVersion, ModelInterface
from engine.telemetry.events import Observer
from engine.telemetry.snapshots import MemoryUse
from engine.warmup.verifier import Verifier


@dataclass(frozen=True, slots=True)
class Toolchain:
    """How a model is loaded and compiled; tests replace it."""

    load: Callable[[ModelConfig], Model]
    compiler: Callable[[Model], Compiler]


class BringUp:
    """Brings one version up, on the engine's start-up thread."""

    def __init__(
        self,
        config: ModelConfig,
        lifecycle: Lifecycle,
        tools: Toolchain,
        group: DeviceGroup,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._grid = config.grid
        self._lifecycle = lifecycle
        self._tools = tools
        self._group = group
        self._observer = observer
        self._clock = clock
        self.memory: MemoryUse | None = None  # known when all buckets are compiled

    def run(self) -> LoadedVersion:
        """Raises `Stopped`, or whatever made the model fail."""
        lifecycle = self._lifecycle
        lifecycle.started()
        model = self._tools.load(self._config)
        lifecycle.raise_if_stopped()
        model.check(self._grid)
        lifecycle.become(ModelState.COMPILING)
        compiler = self._tools.compiler(model)
        executables = self._compile(compiler)
        self.memory = MemoryUse(
            compiler.weights.nbytes,
            tuple((b.rows, b.length, executables[b].memory) for b in self._grid.buckets),
        )
        replica = Replica(self._group, model.signature, compiler.weights, executables)
        lifecycle.become(ModelState.WARMING)
        verifier = Verifier(
            model.signature,
            model.program,
            self._grid,
            lambda bucket, staged: replica.launch(bucket, staged).result(),
            self._config.tolerance,
            self._clock,
        )
        costs = verifier.run(self._verified)
        interface = ModelInterface(FIRST_VERSION, model.signature, model.processor, model.host)
        return LoadedVersion(interface, replica, costs)

    def _compile(self, compiler: Compiler) -> dict[Bucket, Executable]:
        """All buckets, several at once; XLA compiles without the GIL."""
        executables: dict[Bucket, Executable] = {}
        started = self._clock()
        with ThreadPoolExecutor(self._config.compile_threads, "brim-compile") as pool:
            futures = {pool.submit(compiler.compile, b): b for b in self._grid.buckets}
            try:
                for future in as_completed(futures):
                    bucket = futures[future]
                    executables[bucket] = future.result()
                    self._lifecycle.compiled_one()
                    self._observer.compiled(self._config.name, bucket, self._clock() - started)
                    self._lifecycle.raise_if_stopped()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return executables

    def _verified(self, bucket: Bucket, seconds: float) -> None:
        self._lifecycle.verified_one()
        self._observer.verified(self._config.name, bucket, seconds)
        self._lifecycle.raise_if_stopped()
