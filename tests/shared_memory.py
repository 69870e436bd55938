"""An engine with puppets and a client of it, joined by shared memory, both in this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from app.hosting.engine_process import HookThreads
from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.models.tensors import Arrays
from engine.serving.client import InProcessClient
from engine.telemetry.events import Observer, Observers
from engine.testing import PuppetCompiler, RecordingObserver, puppet_config, puppet_model, rows
from engine.transport.client.result import RemoteResult
from engine.transport.client.shared_memory_client import SharedMemoryClient
from engine.transport.protocol.messages import listen
from engine.transport.protocol.status import StatusPage
from engine.transport.server.engine_server import EngineServer

PATIENCE_S = 30.0


class Rig:
    """An engine's server on a thread, and clients of it; the first one is `client`."""

    def __init__(
        self,
        *models: ModelConfig,
        load: Callable[[ModelConfig], Model] = lambda _config: puppet_model(),
        compiler: PuppetCompiler | None = None,
        observer: Observer | None = None,
        connect: bool = True,
        wait: bool = True,
        **options: Any,
    ) -> None:
        self.models = models or (puppet_config(),)
        self.compiler = compiler or PuppetCompiler()
        self.observer = RecordingObserver()
        self._extra = observer or Observer()
        self._load = load
        self._options = {"watch_compiles": lambda _alarm: lambda: None} | options
        self.page = StatusPage.create()
        self.listener = listen()
        self.clients: list[SharedMemoryClient] = []
        self.start_engine()
        if connect:
            self.connect(wait=wait)

    def start_engine(self) -> None:
        """Start an engine, in place of one that has ended."""

        def make(server: Observer) -> InProcessClient:
            return InProcessClient(
                self.models,
                Observers([self.observer, self._extra, server]),
                load=self._load,
                compiler=self.compiler,
                **self._options,
            )

        self.threads = HookThreads(threads=2)
        self.server = EngineServer(
            make, self.listener.dup(), self.page, self.threads, drain_s=PATIENCE_S
        )
        self.thread = threading.Thread(target=self.server.run, name="brim-server", daemon=True)
        self.thread.start()

    def connect(self, *, wait: bool = True) -> SharedMemoryClient:
        """Connect one more client."""
        client = SharedMemoryClient(self.models, self.listener.getsockname(), self.page)
        self.clients.append(client)
        client.start()
        if wait:
            self.until(lambda: client.ready)
        return client

    @property
    def client(self) -> SharedMemoryClient:
        """The first client."""
        return self.clients[0]

    @property
    def engine(self) -> InProcessClient:
        """The engine itself."""
        return self.server.client

    @property
    def settled(self) -> bool:
        """Whether the client knows that every model is READY or FAILED."""
        return all(model.state.startup_finished for model in self.client.status().models)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds; fail otherwise."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up_at
            time.sleep(0.002)

    def submit(
        self,
        *values: float,
        model: str = "puppet",
        inputs: Arrays | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        client: SharedMemoryClient | None = None,
    ) -> RemoteResult:
        """Submit one row `[v, -v]` per value, or these inputs."""
        endpoint = (client or self.client).endpoint(model)
        arrays = rows(*values) if inputs is None else inputs
        request = endpoint.prepare(endpoint.admit(), arrays, timeout_s, priority)
        return endpoint.submit(request)

    def ask(self, *values: float, **options: Any) -> dict[str, Any]:
        """Submit, wait, release: the outputs as lists."""
        result = self.submit(*values, **options)
        try:
            return {name: array.tolist() for name, array in result.result().items()}
        finally:
            result.release()

    def hold(self) -> None:
        """Let the device wait for the test; what warm-up counted is forgotten."""
        self.compiler.hold()

    def release(self) -> None:
        """Let everything run from now on."""
        self.compiler.free()

    def free_bytes(self, client: SharedMemoryClient | None = None) -> int:
        """Free bytes of the slab of a client that is connected."""
        link = (client or self.client)._link
        assert link is not None
        return link.slab.free_bytes

    def stop_engine(self) -> None:
        """End the engine as a killed process does: its connections close, nothing is answered."""
        before = self.page.read()
        self.server.stop()
        self.until(lambda: self.engine._closing)
        for channel in list(self.server._offers.channels):
            channel.messages.sock.shutdown(socket.SHUT_RDWR)
        self.until(lambda: not self.server._offers.channels)
        self.release()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        if before is not None:
            self.page.write(before)

    def close(self) -> None:
        """End everything."""
        with ExitStack() as steps:  # each is taken, whatever another one raises
            steps.callback(self.listener.close)
            steps.callback(self.thread.join, PATIENCE_S)
            steps.callback(self.server.stop)
            for client in self.clients:
                steps.callback(client.close, PATIENCE_S)
            steps.callback(self.release)
        assert not self.thread.is_alive()
