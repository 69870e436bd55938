"""Measures the requests/s that one process can send: `brim bench`, aiohttp and httpx.

    python -m benchmarks.generator [--seconds 5] [--clients 64]

Each in turn loads the same server: closed loop, keep-alive, one small JSON body. The server is
twenty lines under uvloop in a process of its own, and answers without parsing. The result is the
client's CPU time per request: a client that uses a whole core measures itself and not the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import cast

import aiohttp
import httpx
import numpy as np
import uvloop
from typing_extensions import override

from app.cli.bench import process, requests
from app.cli.bench.plan import Plan, Settings, Target
from engine.models.tensors import TensorSpec

BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1.0,2.0,3.0,4.0]}]}'
ANSWER = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
PATH = "/v2/models/x/infer"

Ask = Callable[[], Awaitable[int]]
Client = Callable[[str, int], AbstractAsyncContextManager[Ask]]


class Echo(asyncio.Protocol):
    """Sends a response whenever the received bytes end with the body that all clients send."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._tail = b""

    @override
    def data_received(self, data: bytes) -> None:
        self._tail += data
        if self._tail.endswith(BODY):
            self._tail = b""
            self._transport.write(RESPONSE)


def _listen(port: multiprocessing.Queue[int]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


@contextlib.contextmanager
def echo() -> Iterator[str]:
    """Run the server in a process of its own; yields its URL."""
    spawn = multiprocessing.get_context("spawn")
    port = spawn.Queue()
    process = spawn.Process(target=_listen, args=(port,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=30)}"
    finally:
        process.terminate()
        process.join()


@contextlib.asynccontextmanager
async def with_aiohttp(url: str, clients: int) -> AsyncIterator[Ask]:
    """One session, as in its documentation."""
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask() -> int:
            async with session.post(url + PATH, data=BODY) as response:
                await response.read()
                return response.status

        yield ask


@contextlib.asynccontextmanager
async def with_httpx(url: str, clients: int) -> AsyncIterator[Ask]:
    """One client, as in its documentation."""
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(limits=limits) as client:

        async def ask() -> int:
            return (await client.post(url + PATH, content=BODY)).status_code

        yield ask


async def drive(client: Client, url: str, clients: int, seconds: float) -> tuple[float, float]:
    """Answers per second, and the share of a core that the client used."""
    async with client(url, clients) as ask:
        answered = 0
        end = float("inf")

        async def one() -> None:
            nonlocal answered
            while time.monotonic() < end:
                assert await ask() == 200
                answered += 1

        tasks = [asyncio.create_task(one()) for _ in range(clients)]
        await asyncio.sleep(seconds / 5)  # the first fifth is warm-up
        before, cpu, begin = answered, time.process_time(), time.monotonic()
        end = begin + seconds
        await asyncio.gather(*tasks)
        took = time.monotonic() - begin
        return (answered - before) / took, (time.process_time() - cpu) / took


def plan(url: str, seconds: float, clients: int | None = None, rate: float | None = None) -> Plan:
    """The plan of `brim bench`, in either loop."""
    settings = Settings(url, clients=clients, rate=rate, duration_s=seconds, warmup_s=seconds / 5)
    spec = TensorSpec("x", "FP32", (4,))
    values = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    return Plan(settings, (requests.encode(settings, Target("x"), (spec,), {"x": values}),))


def main() -> None:
    """Measure every client."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    libraries: dict[str, Client] = {"httpx": with_httpx, "aiohttp": with_aiohttp}
    print("| client | requests/s | of a core | us of CPU a request |")
    print("|---|--:|--:|--:|")
    with echo() as url:
        for name, client in libraries.items():
            rate, core = uvloop.run(drive(client, url, options.clients, options.seconds))
            print(f"| {name} | {rate:.0f} | {core:.2f} | {core / rate * 1e6:.0f} |")
        seen = process.run(plan(url, options.seconds, clients=options.clients))
        core = seen.generator.core
        print(
            f"| brim bench | {seen.ok_per_s:.0f} | {core:.2f} | {core / seen.ok_per_s * 1e6:.0f} |"
        )
        print(
            "\n| open loop | requests/s | of a core | p50 ms | p99 ms | late p50 ms | late p99 ms |"
        )
        print("|--:|--:|--:|--:|--:|--:|--:|")
        for rate in (100, 1000, 10_000, 40_000):
            seen = process.run(plan(url, options.seconds, rate=rate))
            by = seen.generator
            print(
                f"| {rate}/s | {seen.ok_per_s:.0f} | {by.core:.2f} | {seen.ok.p50_ms:.3f} "
                f"| {seen.ok.p99_ms:.3f} | {by.lag_p50_ms:.3f} | {by.lag_p99_ms:.3f} |"
            )


if __name__ == "__main__":
    main()
