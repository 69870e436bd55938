"""A real `brim serve` on a free port: what it says, how it ends.

These tests wait for a condition with a deadline, because they wait for other processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import requests

ROOT: Final = Path(__file__).parents[2]
BRIM: Final = Path(sys.executable).with_name("brim")

READY_S: Final = 120.0
STOPPED_S: Final = 60.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until(condition: Callable[[], Any], what: Callable[[], str], within_s: float) -> Any:
    """Ask until the answer is true, and return it. Fails with `what()` after `within_s` seconds."""
    give_up_at = time.monotonic() + within_s
    while not (answer := condition()):
        if time.monotonic() > give_up_at:
            pytest.fail(f"not within {within_s:g} s: {what()}")
        time.sleep(0.05)
    return answer


class Process:
    """A child that listens on `port`, with everything it says in a file."""

    def __init__(
        self, command: list[str], port: int, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment cannot reach our loopback
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BRIM_")}
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=inherited | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def get(self, path: str, **more: Any) -> requests.Response:
        """One GET."""
        return self._session.get(self.url + path, timeout=30, **more)

    def post(self, path: str, body: Any, **more: Any) -> requests.Response:
        """One POST of JSON."""
        return self._session.post(self.url + path, json=body, timeout=60, **more)

    def answers(self, path: str) -> bool:
        """Is there a 200? Fails at once when the process has ended."""
        if self.process.poll() is not None:
            pytest.fail(f"it ended with status {self.process.returncode}:\n{self.log}")
        with contextlib.suppress(requests.ConnectionError):
            return self.get(path).ok
        return False

    def wait_for(self, path: str, within_s: float = READY_S) -> None:
        """Wait until there is a 200 at `path`."""
        _wait_until(lambda: self.answers(path), lambda: f"a 200 from {path}:\n{self.log}", within_s)

    def stop(self, within_s: float = STOPPED_S) -> int:
        """SIGTERM; the exit status. Idempotent. Kills it, and fails, if it does not go."""
        self._session.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"SIGTERM did not end it within {within_s:g} s:\n{self.log}")


class Server(Process):
    """`brim serve CONFIG --bind 127.0.0.1:PORT`, not necessarily ready yet."""

    def __init__(
        self,
        config: Path,
        log: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        bind = f"127.0.0.1:{port}"
        command = [str(BRIM), "serve", str(config), "--bind", bind, *arguments]
        super().__init__(command, port, log, environment)

    def wait_ready(self, within_s: float = READY_S) -> Server:
        """Wait until every required model serves."""
        self.wait_for("/readyz", within_s)
        return self


WaitUntil = Callable[[Callable[[], Any], Callable[[], str], float], Any]
StartServer = Callable[..., Server]
StartProcess = Callable[[Callable[[int], list[object]]], Process]


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """`wait_until(condition, what, within_s)`: ask until the answer is true, and return it."""
    return _wait_until


@pytest.fixture(scope="session")
def start_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartProcess]:
    """`start_process(lambda port: [PROGRAM, ...])`: anything that listens. Stopped at the end."""
    started: list[Process] = []

    def start(command: Callable[[int], list[object]]) -> Process:
        port = free_port()
        words = [str(word) for word in command(port)]
        started.append(Process(words, port, tmp_path_factory.mktemp("process") / "log"))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def digits_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config with the digits only, in three buckets."""
    path = tmp_path_factory.mktemp("digits") / "digits.toml"
    path.write_text(
        f"""
[[models]]
name = "digits"
family = "digits"
path = "{ROOT / "examples" / "digits" / "digits.safetensors"}"
rows = [1, 2, 4]
slo_ms = 50
"""
    )
    return path


@pytest.fixture(scope="session")
def digits_server(
    digits_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The digits, ready, for all tests that leave the server as they found it."""
    server = Server(digits_config, tmp_path_factory.mktemp("server") / "log")
    try:
        yield server.wait_ready()
    finally:
        status = server.stop()
    assert status == 0, server.log


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """`start_server(CONFIG, *flags, environment={...})`: a server of the test's own, not yet ready.

    Whatever is still running when the test ends is stopped.
    """
    started: list[Server] = []

    def start(config: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Server:
        log = tmp_path / f"brim-{len(started)}.log"
        started.append(Server(config, log, *flags, environment=environment))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def digit() -> dict[str, Any]:
    """An infer request with one digit, all ink."""
    image = {"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": [16.0] * 64}
    return {"inputs": [image]}
