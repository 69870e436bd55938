"""A small closed-loop load generator: n keep-alive connections that send the same request for ever.

A process of its own, one asyncio loop, no parsing beyond the status and Content-Length, so that on
a shared machine it takes little from the server that it measures.
"""

from __future__ import annotations

import asyncio
import functools
import json
import multiprocessing
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True, slots=True)
class Load:
    """What a run saw: answers/s, seconds at the percentiles, and how many of each status."""

    rate: float
    p50: float
    p99: float
    statuses: dict[int, int]


class _Client(asyncio.Protocol):
    """One connection: send, wait for the whole answer, note the time, send again."""

    def __init__(self, request: bytes, latencies: list[float], statuses: Counter[int]) -> None:
        self._request = request
        self._latencies = latencies
        self._statuses = statuses
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        if self.stopped or self._transport is None:
            return
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        start = head.lower().index(b"content-length:") + len(b"content-length:")
        if len(body) < int(head[start:].split(b"\r\n", 1)[0]):
            return
        self._latencies.append(time.perf_counter() - self._sent)
        self._statuses[int(head[9:12])] += 1
        self._buffer = b""
        self._send()


def _itself(client: _Client) -> _Client:
    return client


def _run(port: int, path: str, body: bytes, clients: int, seconds: float, out: Connection) -> None:
    request = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    latencies: list[float] = []
    statuses: Counter[int] = Counter()

    async def drive() -> float:
        loop = asyncio.get_running_loop()
        protocols = [_Client(request, latencies, statuses) for _ in range(clients)]
        for protocol in protocols:
            await loop.create_connection(functools.partial(_itself, protocol), "127.0.0.1", port)
        await asyncio.sleep(seconds / 5)  # the first fifth is warm-up
        latencies.clear()
        statuses.clear()
        started = time.perf_counter()
        await asyncio.sleep(seconds)
        for protocol in protocols:
            protocol.stopped = True
        return time.perf_counter() - started

    elapsed = asyncio.run(drive())
    out.send((latencies, dict(statuses), elapsed))


def closed_loop(
    port: int, path: str, inputs: list[dict[str, Any]], clients: int, seconds: float
) -> Load:
    """`clients` connections to 127.0.0.1:`port`, each with one request on its way at any time."""
    body = json.dumps({"inputs": inputs}, separators=(",", ":")).encode()
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_run, args=(port, path, body, clients, seconds, send)
    )
    process.start()
    latencies, statuses, elapsed = receive.recv()
    process.join()
    latencies.sort()
    return Load(
        len(latencies) / elapsed,
        latencies[len(latencies) // 2],
        latencies[int(len(latencies) * 0.99)],
        statuses,
    )
