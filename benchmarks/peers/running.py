"""Starts a server in its own session, measures its CPU time, and ends it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final

import psutil

from benchmarks.peers.bodies import Encoding
from benchmarks.peers.servers import HOME, ROOT, Server, Start
from benchmarks.servers import end_session, free_port, last_lines

READY_S: Final = 180.0
END_S: Final = 15.0
LINES: Final = 3
"""Of a log, in a message."""


class Skipped(Exception):
    """A server cannot be measured; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Running:
    """A ready server and all its processes."""

    port: int
    processes: tuple[psutil.Process, ...]

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """User and system time of all processes since their start."""
        times = [process.cpu_times() for process in self.processes]
        return sum(time.user + time.system for time in times)


@contextlib.contextmanager
def running(server: Server, model: str, encoding: Encoding, request: bytes) -> Iterator[Running]:
    """Start it, wait until it answers `request` with 200, and end it. Raises `Skipped`."""
    if not server.bin.is_dir():
        raise Skipped(f"it is not installed: {_why_not(server)}")
    with tempfile.TemporaryDirectory(prefix="brim-peer-") as folder:
        directory = Path(folder)
        port = free_port()
        start = Start(model, encoding, port, server.bin, directory)
        log = directory / "log"
        with log.open("wb") as output:
            master = subprocess.Popen(
                server.command(start),
                cwd=directory,
                env=_environment(server, start),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait(master, port, request, log)
            parent = psutil.Process(master.pid)
            yield Running(port, (parent, *parent.children(recursive=True)))
        finally:
            end_session(master, END_S)


def ask(port: int, request: bytes) -> tuple[int, Mapping[str, str], bytes]:
    """Send raw bytes; return status, headers in lower case, and body. Raises `OSError`."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        response = HTTPResponse(connection, method="POST")
        try:
            response.begin()
            head = {name.lower(): value for name, value in response.getheaders()}
            return response.status, head, response.read()
        except HTTPException as error:
            raise OSError(f"this is not HTTP: {error!r}") from None


def _environment(server: Server, start: Start) -> dict[str, str]:
    """Return the variables of an activated environment that can import this project."""
    return os.environ | {
        "PATH": f"{server.bin}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PEER_MODEL": start.model,
        "PEER_ENCODING": start.encoding,
        "PEER_PORT": str(start.port),
        **server.variables(start),
    }


def _wait(master: subprocess.Popen[bytes], port: int, request: bytes, log: Path) -> None:
    until = time.monotonic() + READY_S
    seen = "nothing"
    while time.monotonic() < until:
        if master.poll() is not None:
            raise Skipped(
                f"it ended with {master.returncode} at its start: {last_lines(log, LINES)}"
            )
        try:
            status, _, body = ask(port, request)
        except OSError as error:
            seen = str(error)
        else:
            if status == 200:
                return
            seen = f"{status} {body[:200]!r}"
        time.sleep(0.2)
    raise Skipped(f"it did not answer in {READY_S:g} s: {seen}; {last_lines(log, LINES)}")


def _why_not(server: Server) -> str:
    log = HOME / f"{server.environment}.log"
    return last_lines(log, LINES) if log.is_file() else "`make peers` installs it"
