"""A real server process on a free port, and its test helpers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE_S = 120.0


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process; `log` is its output."""

    def __init__(
        self,
        command: list[str],
        port: int,
        log: Path,
        env: dict[str, str],
        cwd: Path = ROOT,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self.log_directory = log.parent
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=os.environ | env,
                pass_fds=pass_fds,
            )

    @property
    def log(self) -> str:
        """Its output so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until the condition holds; fail with the server's log after a timeout."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                pytest.fail(f"the server ended with {self.process.returncode}:\n{self.log}")
            try:
                if condition():
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.05)
        pytest.fail(f"{what} did not happen:\n{self.log}")

    def alive(self) -> bool:
        """Whether it answers."""
        return requests.get(f"{self.url}/healthz", timeout=10).status_code == 200

    def ready(self) -> bool:
        """Whether all required models are ready."""
        return requests.get(f"{self.url}/readyz", timeout=10).status_code == 200

    def serves(self, model: str) -> bool:
        """Whether this model is ready."""
        return requests.get(f"{self.url}/v2/models/{model}/ready", timeout=10).status_code == 200

    def infer(self, model: str, **tensor: Any) -> requests.Response:
        """One JSON request with one tensor."""
        url = f"{self.url}/v2/models/{model}/infer"
        return requests.post(url, json={"inputs": [tensor]}, timeout=60)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"the server did not end:\n{self.log}")
