"""The servers: where each is installed, how it is started, and its settings.

Each has one process that computes. Brim has processes for HTTP before it: one, or two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.peers.bodies import Encoding
from benchmarks.peers.functions import MODELS, ROWS

ROOT: Final = Path(__file__).parents[2]
HOME: Final = ROOT / ".peers"
"""The directory of the environments that `make peers` installs."""

HOSTED: Final = "benchmarks.peers.hosted"


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a server. `directory` is its working directory, empty at first."""

    model: str
    encoding: Encoding
    port: int
    bin: Path
    directory: Path


@dataclass(frozen=True, slots=True)
class Server:
    """How to start and address a server.

    `environment` is a folder in `HOME`, None means Brim's own. `paths` is None if the server
    implements the Open Inference Protocol. `variables` are added to `PEER_*`, set at every start.
    """

    settings: str
    environment: str | None
    command: Callable[[Start], list[str | Path]]
    paths: Mapping[Encoding, str] | None = None
    variables: Callable[[Start], Mapping[str, str]] = lambda _start: {}
    encodings: tuple[Encoding, ...] = ("json", "binary")

    @property
    def bin(self) -> Path:
        """The directory of its programs."""
        if self.environment is None:
            return Path(sys.executable).parent
        return HOME / self.environment / "bin"

    def path(self, encoding: Encoding) -> str | None:
        """Its path for inference, None if the protocol defines it."""
        return self.paths[encoding] if self.paths else None


def brim(config: str = "", workers: str = "auto") -> Callable[[Start], list[str | Path]]:
    """`brim serve` with these lines for the model, and so many HTTP processes."""

    def command(start: Start) -> list[str | Path]:
        create = MODELS[start.model]
        file = start.directory / "brim.toml"
        file.write_text(
            f'[[models]]\nname = "{start.model}"\n'
            f'factory = "{create.__module__}:{create.__name__}"\n'
            f"rows = {list(ROWS)}\n{config}\n",
            encoding="utf-8",
        )
        address = f"127.0.0.1:{start.port}"
        return [start.bin / "brim", "serve", file, "--bind", address, "--workers", workers]

    return command


def hosted(module: str, *arguments: str) -> Callable[[Start], list[str | Path]]:
    """A module of `hosted/` that is run as a program."""
    return lambda start: [start.bin / "python", "-m", f"{HOSTED}.{module}", *arguments]


def mosec(start: Start) -> list[str | Path]:
    """mosec, which parses these options itself."""
    options = ["--address", "127.0.0.1", "--port", str(start.port), "--wait", "0"]
    options += ["--path", str(start.directory / "sockets"), "--log-level", "warning"]
    return hosted("mosec_server", *options)(start)


def flask(start: Start) -> list[str | Path]:
    """Run gunicorn with more threads than the maximum number of clients."""
    options: list[str | Path] = [
        "-k",
        "gthread",
        "--threads",
        "80",
        "--keep-alive",
        "75",
        "--chdir",
        ROOT,
    ]
    address = f"127.0.0.1:{start.port}"
    return [start.bin / "gunicorn", *options, "-b", address, f"{HOSTED}.flask_app:app"]


def fastapi(start: Start) -> list[str | Path]:
    """uvicorn, which uses uvloop and httptools if they are installed."""
    options = ["--host", "127.0.0.1", "--port", str(start.port), "--no-access-log"]
    options += ["--log-level", "warning"]
    return [start.bin / "uvicorn", *options, f"{HOSTED}.fastapi_app:app"]


def window(microseconds: int) -> Callable[[Start], Mapping[str, str]]:
    """The batching window."""
    return lambda _start: {"PEER_WINDOW_US": str(microseconds)}


PLAIN: Final[Mapping[Encoding, str]] = {"json": "/predict", "binary": "/binary"}
ONE_PATH: Final[Mapping[Encoding, str]] = {"json": "/predict", "binary": "/predict"}
MOSEC: Final[Mapping[Encoding, str]] = {"json": "/inference", "binary": "/inference"}

SERVERS: Final[Mapping[str, Server]] = {
    "brim": Server(
        "all defaults: may hold a free device in a closed loop, for 10 ms at most", None, brim()
    ),
    "brim-2": Server("the same with two HTTP processes", None, brim(workers="2")),
    "brim-nohold": Server("`max_wait_ms = 0`", None, brim("max_wait_ms = 0")),
    "triton": Server(
        "2.51, Python backend, window 0", "triton", hosted("triton_server"), None, window(0)
    ),
    "triton-2ms": Server(
        "the same, window 2 ms", "triton", hosted("triton_server"), None, window(2000)
    ),
    "mosec": Server("window 0", "mosec", mosec, MOSEC),
    "mosec-orjson": Server(
        "window 0, JSON by orjson",
        "mosec",
        mosec,
        MOSEC,
        lambda _start: {"PEER_ENCODING": "orjson"},
        ("json",),
    ),
    "litserve": Server(
        "window 0, ZeroMQ", "litserve", hosted("litserve_server"), ONE_PATH, window(0)
    ),
    "litserve-2ms": Server(
        "the same, window 2 ms", "litserve", hosted("litserve_server"), ONE_PATH, window(2000)
    ),
    "fastapi": Server("no batching; uvicorn, uvloop, httptools", "fastapi", fastapi, PLAIN),
    "flask": Server("no batching; gunicorn gthread, 80 threads", "flask", flask, PLAIN),
}
"""In the order of the tables."""
