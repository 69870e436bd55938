"""Measures the CPU time of a request from socket to socket, without network and load generator.

    python -m benchmarks.request_path [--clients 1,64] [--requests 4000] [--rounds 5] [--profile 40]

In one process: the worker's own loop and connections over socket pairs. The clients of the closed
loop run on the same thread, between two ticks of the loop. Three applications: a bare WSGI callable
(the worker and gunicorn), the floor (these, Flask and JSON), and Brim with its engine and the null
model. The result is the CPU of all threads in microseconds per request, without that of the
clients: the median and the minimum of the rounds. It depends less on other load of the machine than
any latency.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gunicorn.config import Config

from app import settings
from app.hosting.process import build
from app.worker.suspension import Place
from app.worker.worker import BrimWorker
from benchmarks.null.floor import app as floor

HERE: Final = Path(__file__).parent
_BODY: Final = json.dumps(
    {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [i / 7 for i in range(16)]}
        ]
    }
).encode()
REQUEST: Final = (
    b"POST /v2/models/null/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    b"Content-Type: application/json\r\nAccept-Encoding: identity\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
"""As `brim bench` sends it."""


class Bare:
    """A WSGI app that answers 200 to every request."""

    def place(self, _environ: Any) -> Place:
        """Called by Brim's worker: every request runs on the event loop's thread."""
        return Place("bare", inline=True)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """Read the body and answer."""
        environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]


class Silent:
    """A gunicorn log that writes nothing."""

    access_log_enabled = False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None


def brim() -> Any:
    """Brim's app with the null model, ready."""
    sys.path.insert(0, str(HERE / "null"))
    app = build(settings.load(HERE / "null" / "null.toml"))
    engine = app.extensions["brim"].engine
    while not engine.ready:
        time.sleep(0.05)
    return app


class Bench:
    """A worker that serves clients over socket pairs."""

    def __init__(self, app: Any, clients: int) -> None:
        self.worker = BrimWorker(0, 0, [], None, 30, Config(), Silent())
        self.worker.open()
        self.worker.wsgi = app
        self.worker.read_options(app)
        self._poll = select.epoll()
        self._clients: dict[int, socket.socket] = {}
        for number in range(clients):
            client, server = socket.socketpair()
            client.setblocking(False)
            self.worker.connect(server, ("127.0.0.1", number), ("127.0.0.1", 8000))
            self._poll.register(client, select.EPOLLIN)
            self._clients[client.fileno()] = client

    def run(self, requests: int) -> float:
        """CPU seconds per request."""
        begin, mine = time.process_time(), 0.0
        for client in self._clients.values():
            client.send(REQUEST)
        open_, left = len(self._clients), requests
        while open_:
            self.worker.loop.run_once(1.0)
            mine -= time.thread_time()
            for number, _ in self._poll.poll(0):
                answer = self._clients[number].recv(65536)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise SystemExit(f"unexpected answer {answer!r}")
                left -= 1
                if left > 0:
                    self._clients[number].send(REQUEST)
                else:
                    open_ -= 1
            mine += time.thread_time()
        return (time.process_time() - begin - mine) / (requests + len(self._clients) - 1)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", default="1,64")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--apps", default="bare,floor,brim")
    parser.add_argument("--profile", type=int, default=0, help="lines of the profile to print")
    options = parser.parse_args()
    makes: dict[str, Callable[[], Any]] = {"bare": Bare, "floor": lambda: floor, "brim": brim}
    print("| app | clients | CPU us per request | minimum |")
    print("|---|--:|--:|--:|")
    for name in options.apps.split(","):
        app = makes[name]()
        for clients in (int(count) for count in options.clients.split(",")):
            bench = Bench(app, clients)
            bench.run(options.requests // 2)
            seen = [bench.run(options.requests) * 1e6 for _ in range(options.rounds)]
            print(f"| {name} | {clients} | {statistics.median(seen):.0f} | {min(seen):.0f} |")
            if options.profile:
                show(bench, options.requests, options.profile)


def show(bench: Bench, requests: int, lines: int) -> None:
    """Print where the loop's thread spends its time."""
    profile = cProfile.Profile()
    profile.runcall(bench.run, requests)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(lines)


if __name__ == "__main__":
    main()
