"""How each server is started, asked, and read. What cannot be started says so.

Their environments lie in `.peers/<name>/`, made by `make peers`; a server that has none is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from app.bench import shots
from app.bench.plan import Address, Settings, Shot, Target
from benchmarks.peers.functions import ROWS
from benchmarks.servers import BIN, ROOT
from engine.spec import Array, TensorSpec

HERE: Final = Path(__file__).parent
Command = list[str | Path]
PEERS: Final = ROOT / ".peers"
STUB: Final = "triton_python_backend_stub"
THREADS: Final = 64
"""Of Flask's gthread: one for each of the clients."""
WIDE: Final = {"null": 16, "mlp": 10}
"""Numbers in an answer."""


class Skipped(Exception):
    """Why there is no number."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is served, how its bodies are written, and the one row that is asked for."""

    model: str
    binary: bool
    row: Array

    @property
    def encoding(self) -> str:
        """For a table."""
        return "binary" if self.binary else "json"


@dataclass(frozen=True, slots=True)
class Start:
    """A command and what it needs around it."""

    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/"


class Peer:
    """One server. Its window is how long it waits for company, in milliseconds."""

    name: str
    window_ms: int | None = 0
    path = "/inference"

    @property
    def bin(self) -> Path:
        """Where its environment has its commands."""
        return PEERS / self.name.split()[0] / "bin"

    def missing(self) -> str | None:
        """Why it cannot be started, or None."""
        return None if (self.bin / "python").exists() else f"no environment at {self.bin.parent}"

    def start(self, case: Case, port: int, scratch: Path) -> Start:
        """How it is started for this case. `scratch` is an empty directory of its own."""
        raise NotImplementedError

    def environment(self, case: Case, port: int) -> dict[str, str]:
        """What the servers in this directory read."""
        return {
            "MODEL": case.model,
            "ENCODING": case.encoding,
            "WINDOW": str(self.window_ms or 0),
            "PORT": str(port),
            "PYTHONPATH": str(HERE),
        }

    def shot(self, settings: Settings, case: Case) -> Shot:
        """One row, as this server wants it."""
        if case.binary:
            body = np.ascontiguousarray(case.row, np.float32).tobytes()
        else:
            body = json.dumps({"x": [float(value) for value in case.row]}).encode()
        kind = "application/octet-stream" if case.binary else "application/json"
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {Address.parse(settings.url).authority}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return Shot(Target(case.model), head.encode() + body)

    def read(self, headers: Mapping[str, str], body: bytes, case: Case) -> Array:
        """The numbers of an answer."""
        del headers
        if case.binary:
            return np.frombuffer(body, np.float32)
        return np.asarray(json.loads(body)["y"], np.float32).ravel()


class OpenInference(Peer):
    """Those that speak the Open Inference Protocol, binary extension included."""

    def shot(self, settings: Settings, case: Case) -> Shot:
        """As `brim bench` sends it."""
        spec = TensorSpec("x", "FP32", (len(case.row),))
        return shots.make(settings, Target(case.model), (spec,), {"x": case.row[None]})

    def read(self, headers: Mapping[str, str], body: bytes, case: Case) -> Array:
        """The one output."""
        length = headers.get("inference-header-content-length")
        if length is not None:
            return np.frombuffer(body[int(length) :], np.float32)
        return np.asarray(json.loads(body)["outputs"][0]["data"], np.float32).ravel()


class Brim(OpenInference):
    """`brim serve`, as it comes."""

    name = "brim"
    window_ms = None

    def missing(self) -> str | None:
        """It runs in the environment that measures."""
        return None

    def start(self, case: Case, port: int, scratch: Path) -> Start:
        """The configs of `benchmarks/`."""
        config = {"null": ROOT / "benchmarks/null/null.toml", "mlp": ROOT / "benchmarks/mlp.toml"}
        bind = f"127.0.0.1:{port}"
        ready = f"/v2/models/{case.model}/ready"
        return Start([BIN / "brim", "serve", config[case.model], "--bind", bind], ready=ready)


class Triton(OpenInference):
    """The tritonserver of the nvidia-pytriton wheel, without PyTriton's proxy."""

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.name = f"triton, window {window_ms} ms" if window_ms else "triton"

    @property
    def bin(self) -> Path:
        """Both windows share an environment."""
        return PEERS / "triton" / "bin"

    def start(self, case: Case, port: int, scratch: Path) -> Start:
        """A repository with one model, and Triton's Python backend for this Python."""
        site = next((self.bin.parent / "lib").glob("python3.*")) / "site-packages"
        triton = site / "pytriton" / "tritonserver"
        version = site.parent.name.removeprefix("python")
        model = scratch / case.model
        (model / "1").mkdir(parents=True)
        shutil.copy(HERE / "triton_model.py", model / "1" / "model.py")
        shutil.copy(HERE / "functions.py", model / "1")
        # where the backend looks for it; the wheel has one for every Python
        stub = triton / "backends" / "python" / STUB
        shutil.copy(triton / "python_backend_stubs" / version / STUB, stub)
        stub.chmod(0o755)
        (model / "config.pbtxt").write_text(_pbtxt(case, self.window_ms or 0), encoding="utf-8")
        server = triton / "bin" / "tritonserver"
        server.chmod(0o755)
        command: Command = [
            server,
            f"--model-repository={scratch}",
            f"--backend-directory={triton}/backends",
        ]
        command += [f"--http-port={port}", "--http-address=127.0.0.1", "--allow-grpc=false"]
        command += ["--allow-metrics=false", "--model-control-mode=explicit"]
        command += [f"--load-model={case.model}"]
        libraries = os.pathsep.join(
            [str(site / "nvidia_pytriton.libs"), str(_libpython(self.bin / "python"))]
        )
        environment = {
            "PEER_PACKAGES": str(site),
            "LD_LIBRARY_PATH": libraries,
        }
        return Start(command, environment, ready=f"/v2/models/{case.model}/ready")


def _libpython(python: Path) -> Path:
    """The directory of the libpython that this Python belongs to."""
    return python.resolve().parent.parent / "lib"


def _pbtxt(case: Case, window_ms: int) -> str:
    return f"""
name: "{case.model}"
backend: "python"
max_batch_size: {ROWS[-1]}
input [{{ name: "x" data_type: TYPE_FP32 dims: [{len(case.row)}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{WIDE[case.model]}] }}]
dynamic_batching {{ max_queue_delay_microseconds: {window_ms * 1000} }}
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""


class Mosec(Peer):
    """mosec: its window is 1 ms at least."""

    name = "mosec"
    window_ms = 1

    def start(self, case: Case, port: int, scratch: Path) -> Start:
        """One worker process."""
        command: Command = [self.bin / "python", HERE / "mosec_server.py", "--port", str(port)]
        command += ["--address", "127.0.0.1", "--path", str(scratch), "--timeout", "30000"]
        return Start(command, self.environment(case, port))


class LitServe(Peer):
    """LitServe with batching and no window."""

    name = "litserve"
    path = "/predict"

    def start(self, case: Case, port: int, scratch: Path) -> Start:
        """One worker process."""
        if case.binary:
            raise Skipped("it takes JSON, or forms")
        command: Command = [self.bin / "python", HERE / "litserve_server.py"]
        return Start(command, self.environment(case, port), ready="/health")


class PlainFlask(Peer):
    """No batching."""

    name = "flask"
    window_ms = None

    def start(self, case: Case, port: int, scratch: Path) -> Start:
        """One process, a thread for every client."""
        command: Command = [self.bin / "gunicorn", "-k", "gthread", "--threads", str(THREADS)]
        command += ["--keep-alive", "75", "-b", f"127.0.0.1:{port}", "flask_server:app"]
        return Start(command, self.environment(case, port))


class PlainFastAPI(Peer):
    """No batching."""

    name = "fastapi"
    window_ms = None

    def start(self, case: Case, port: int, scratch: Path) -> Start:
        """One process."""
        command: Command = [self.bin / "uvicorn", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--log-level", "error", "--no-access-log", "fastapi_server:app"]
        return Start(command, self.environment(case, port))


ALL: Final[tuple[Peer, ...]] = (
    Brim(),
    Triton(0),
    Triton(2),
    Mosec(),
    LitServe(),
    PlainFlask(),
    PlainFastAPI(),
)
