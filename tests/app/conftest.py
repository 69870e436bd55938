"""An app with puppets behind it: no JAX, no gunicorn, closed when the test ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from werkzeug.test import TestResponse

from app.http.codecs.messages import Verdict
from app.http.errors import error_type
from app.http.factory import create_app
from app.http.responses.deferred import Deferred
from app.http.responses.operation import BINARY, HEADER_LENGTH, JSON, Operation
from app.http.responses.prepared import PreparedResponse
from app.http.services import DisconnectWatcher, Services
from app.settings import Limits, Settings
from app.telemetry.exporter import HttpExporter
from engine.api import EngineClient
from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.serving.client import InProcessClient
from engine.testing import (
    PuppetCompiler,
    PuppetExecutable,
    RecordingObserver,
    puppet_config,
    puppet_model,
)
from tests.shared_memory import Rig

PATIENCE_S = 30.0
"""How long a test waits for a thread before it fails instead of hanging."""

PUPPET = puppet_config(rows=(4,))
"""One bucket, so that a test knows which executable its rows go to."""


def settings_of(*models: ModelConfig, **changes: Any) -> Settings:
    """Settings without a file."""
    fields: dict[str, Any] = {
        "file": "brim.toml",
        "models": models or (PUPPET,),
        "bind": "127.0.0.1:8000",
        "worker": "brim",
        "workers": 1,
        "threads": 16,
        "keepalive_s": 75,
        "graceful_timeout_s": 30,
        "log_level": "info",
        "limits": Limits(max_body_bytes=1 << 20),
    }
    return Settings(**(fields | changes))


def body(*values: float, **more: Any) -> dict[str, Any]:
    """An infer request of one row `[v, -v]` per value."""
    data = [part for v in values for part in (v, -v)]
    tensor = {"name": "x", "shape": [len(values), 2], "datatype": "FP32", "data": data}
    return {"inputs": [tensor], **more}


def answer(*values: float) -> list[float]:
    """The flat `y` that the puppet answers to `body(*values)`."""
    return [part for v in values for part in (2 * v + 1, 1 - 2 * v)]


@dataclass(frozen=True)
class Served:
    """A running app, and everything a test leads it by."""

    app: Flask
    engine: InProcessClient
    compiler: PuppetCompiler
    observer: RecordingObserver
    registry: CollectorRegistry
    disconnects: DisconnectWatcher
    pool: ThreadPoolExecutor
    alarms: list[Callable[[], None]]

    @property
    def client(self) -> FlaskClient:
        """A client of its own for every use: one may be waiting on another thread."""
        return self.app.test_client()

    @property
    def services(self) -> Services:
        found: Services = self.app.extensions["brim"]
        return found

    def infer(self, *values: float, **more: Any) -> TestResponse:
        """Ask the puppet for `values`."""
        return self.client.post("/v2/models/puppet/infer", json=body(*values), **more)

    def infer_later(self, *values: float, **more: Any) -> Future[TestResponse]:
        """The same, on a thread."""
        return self.pool.submit(self.infer, *values, **more)

    @property
    def device(self) -> PuppetExecutable:
        """The only executable there is."""
        (executable,) = self.compiler.executables.values()
        return executable

    def hold(self) -> None:
        """Let the device wait for the test; what warm-up counted is forgotten."""
        self.device.hold()

    def wait_on_device(self) -> None:
        """Wait until a batch is on the held device."""
        assert self.device.entered.acquire(timeout=PATIENCE_S)

    def release(self) -> None:
        """Let everything run from now on."""
        self.compiler.free()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds: the page of an engine elsewhere is written a moment later."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up_at
            time.sleep(0.002)

    def sample(self, name: str, **labels: str) -> float | None:
        """One number of the test's own registry."""
        return self.registry.get_sample_value(name, labels)


Serve = Callable[..., Served]


def hold_to_its_word(app: Flask) -> list[str]:
    """From now on, note every answer that is not what its route says of itself."""
    broken: list[str] = []

    def check(response: Response) -> Response:
        rule = request.url_rule
        view = app.view_functions[rule.endpoint] if rule is not None else None
        operation: Operation | None = getattr(view, "operation", None)
        if operation is not None and request.method not in ("HEAD", "OPTIONS"):
            note = partial(note_if_broken, operation, request.method, request.path)
            if isinstance(response, Deferred):
                response.then(note)
            else:
                note(response)
        return response

    def note_if_broken(operation: Operation, method: str, path: str, response: Any) -> None:
        try:
            compare(operation, path, response)
        except (AssertionError, msgspec.ValidationError) as error:
            broken.append(f"{method} {path}: {response.status}: {error}")

    app.after_request(check)
    return broken


def compare(operation: Operation, path: str, said: Response | PreparedResponse) -> None:
    """Raises for a status, a content type or a field that the operation does not have."""
    response = said
    if isinstance(said, PreparedResponse):
        response = Response(said.body, said.status, said.headers)
    status, kind = response.status_code, operation.answer
    if status == 499:
        return  # for the log: the client has disconnected
    if status != 200:
        unready = status == 503 and issubclass(kind, Verdict)
        assert status in operation.errors or unready, "a status that the route does not list"
        kind = kind if unready else error_type(path)
    media = operation.media if status == 200 else (JSON,)
    assert response.mimetype in media, "a content type that the route does not list"
    if response.headers.get("Content-Encoding") or response.mimetype not in (JSON, BINARY):
        return
    end = int(response.headers.get(HEADER_LENGTH, len(response.data)))
    msgspec.json.decode(response.data[:end], type=kind)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The routes answer alike wherever the engine is: their tests run with both clients."""
    if "serve" in metafunc.fixturenames and metafunc.definition.path.parent.name == "routes":
        metafunc.parametrize("serve", [False, True], ids=["here", "elsewhere"], indirect=True)


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Start an app; by default with one model, ready. Whatever it needs can be replaced.

    With a true parameter the engine is behind shared memory, unless the test replaces its clock.
    """
    elsewhere: bool = getattr(request, "param", False)
    rigs: list[Rig] = []
    started: list[Served] = []
    broken: list[list[str]] = []

    def start(
        *models: ModelConfig,
        model: Callable[[ModelConfig], Model] = lambda _config: puppet_model(),
        compiler: PuppetCompiler | None = None,
        wait: bool = True,
        clock: Callable[[], float] | None = None,
        **changes: Any,
    ) -> Served:
        settings = settings_of(*models, **changes)
        registry, observer = CollectorRegistry(auto_describe=True), RecordingObserver()
        alarms: list[Callable[[], None]] = []

        def watch(alarm: Callable[[], None]) -> Callable[[], None]:
            alarms.append(alarm)
            return lambda: None

        timing = {} if clock is None else {"clock": clock}
        metrics = HttpExporter(registry)
        puppets = compiler or PuppetCompiler()
        client: EngineClient
        if elsewhere and clock is None:
            rig = Rig(
                *settings.models,
                load=model,
                compiler=puppets,
                observer=observer,
                watch_compiles=watch,
                wait=False,
            )
            rigs.append(rig)
            engine, client = rig.engine, rig.client
        else:
            engine = client = InProcessClient(
                settings.models,
                observer,
                load=model,
                compiler=puppets,
                watch_compiles=watch,
                **timing,
            )
            engine.start()
        disconnects = DisconnectWatcher()
        app = create_app(settings, client, metrics, disconnects)
        broken.append(hold_to_its_word(app))
        pool = ThreadPoolExecutor(4, "client")
        served = Served(app, engine, puppets, observer, registry, disconnects, pool, alarms)
        started.append(served)
        if wait:
            assert engine.wait_startup_finished(PATIENCE_S)
            for rig in rigs:  # it knows all outcomes of the start-up, too
                rig.until(lambda: rig.settled)  # noqa: B023
        return served

    yield start
    for served in started:
        served.release()
        with ExitStack() as steps:  # each is taken, whatever another one raises
            steps.callback(served.disconnects.close)
            steps.callback(served.pool.shutdown)
            steps.callback(served.engine.close)
            for rig in rigs:
                steps.callback(rig.close)
    assert not [said for one in broken for said in one]


@pytest.fixture
def served(serve: Serve) -> Served:
    """One puppet, ready."""
    return serve()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a config file."""

    def write(text: str) -> Path:
        path = tmp_path / "brim.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def error_of(response: TestResponse) -> str:
    """The error of a response, which must be JSON and hold nothing else."""
    assert response.content_type == "application/json"
    said = json.loads(response.data)
    assert list(said) == ["error"]
    assert "Traceback" not in said["error"]
    assert 'File "' not in said["error"]
    return str(said["error"])
