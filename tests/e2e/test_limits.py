"""A real server and clients that want more than their share. Nothing here measures time."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest
import requests

from tests.e2e.conftest import DIGITS, Start
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

MIB = 1 << 20
BODY, BUDGET = 8 * MIB, 32 * MIB
CONNECTIONS = 60
SLACK = 64 * MIB
INFER = "/v2/models/digits/infer"
ONE = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": [1.0] * 64}]}
PATIENCE_S = 60.0


@pytest.fixture(scope="module", params=[3])
def server(
    request: pytest.FixtureRequest, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Small limits; the parameter is the time for a head and for a body."""
    path = tmp_path_factory.mktemp("limits") / "limits.toml"
    path.write_text(
        f"""
[server]
workers = 1

[limits]
max_body_bytes = {BODY}
max_bytes_in_flight = {BUDGET}
head_timeout_s = {request.param}
body_timeout_s = {request.param}
{DIGITS}""",
        encoding="utf-8",
    )
    server = start(path)
    server.until(server.ready, "readiness")
    yield server
    server.stop()


def connect(server: Server) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
    client.settimeout(PATIENCE_S)
    return client


def head(length: int, *more: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in more)
    return f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{lines}\r\n".encode()


def rest(client: socket.socket) -> bytes:
    """All that the server still says."""
    said = b""
    with suppress(ConnectionError):
        while more := client.recv(1 << 16):
            said += more
    return said


def rss(server: Server) -> int:
    root = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in [root, *root.children(recursive=True)])


def sample(server: Server, name: str) -> float:
    text = requests.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def limited(server: Server, limit: str) -> float:
    return sample(server, f'brim_http_limited_total{{limit="{limit}"}}')


@pytest.mark.parametrize("server", [300], indirect=True)
def test_many_clients_with_large_bodies_cannot_fill_the_memory(server: Server) -> None:
    """Without a budget they hold 480 MiB."""
    url = f"{server.url}{INFER}"
    assert requests.post(url, json=ONE, timeout=PATIENCE_S).status_code == 200
    before, counted = rss(server), limited(server, "max_bytes_in_flight")
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(CONNECTIONS)]
        for client in clients:  # each is told to go on: nothing is held yet
            client.sendall(head(BODY, "Expect: 100-continue"))
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        for client in clients:
            with suppress(ConnectionError):  # refused on the way
                client.sendall(bytes(BODY - 1))
        most = counted + CONNECTIONS - BUDGET // BODY
        server.until(lambda: limited(server, "max_bytes_in_flight") >= most, "refusals")
        assert rss(server) - before < BUDGET + SLACK
        server.until(lambda: sample(server, "brim_http_bytes_in_flight") > BUDGET / 2, "a gauge")
        # small ones are served meanwhile, and another large one is refused at once
        assert requests.post(url, json=ONE, timeout=PATIENCE_S).status_code == 200
        with connect(server) as late:
            late.sendall(head(BODY))
            said = rest(late)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in said
        assert b"limits.max_bytes_in_flight" in said
    binary = {"Inference-Header-Content-Length": "0"}

    def room() -> bool:
        sent = requests.post(url, data=bytes(BODY), headers=binary, timeout=PATIENCE_S)
        return sent.status_code != 503

    server.until(room, "room for a large body")


@pytest.mark.parametrize(
    ("body", "headers", "status", "limit"),
    [
        pytest.param(
            gzip.compress(b'{"inputs": [' + b"1," * (8 * MIB) + b"1]}"),
            {"Content-Encoding": "gzip"},
            413,
            "max_decompressed_bytes",
            id="a bomb",
        ),
        pytest.param(b"[" * (5 * MIB), {}, 413, "max_json_bytes", id="too much JSON"),
        pytest.param(
            json.dumps(ONE | {"id": "x" * 2000}).encode(), {}, 400, "max_id_bytes", id="a long id"
        ),
        pytest.param(b"{}", {"X": "y" * 8000} | {f"X{n}": "y" * 8000 for n in range(4)}, 431,
                     "max_head_bytes", id="a long head"),
    ],
)  # fmt: skip
def test_what_is_too_large_is_refused_named_and_counted(
    server: Server, body: bytes, headers: dict[str, str], status: int, limit: str
) -> None:
    before = limited(server, limit)
    sent = requests.post(f"{server.url}{INFER}", data=body, headers=headers, timeout=PATIENCE_S)
    assert sent.status_code == status
    assert f"limits.{limit}" in sent.json()["error"]
    assert sent.headers["X-Request-Id"]
    assert limited(server, limit) == before + 1


def test_a_body_beyond_the_limit_is_refused_by_its_length(server: Server) -> None:
    before = limited(server, "max_body_bytes")
    with connect(server) as client:
        client.sendall(head(BODY + 1))
        said, _, body = rest(client).partition(b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413 ")
    assert "limits.max_body_bytes" in json.loads(body)["error"]
    assert limited(server, "max_body_bytes") == before + 1


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_deeply_nested_json_is_400(server: Server, depth: int) -> None:
    sent = requests.post(f"{server.url}{INFER}", data="[" * depth + "]" * depth, timeout=PATIENCE_S)
    assert sent.status_code == 400
    assert "body: " in sent.json()["error"]


@pytest.mark.parametrize(
    ("sent", "limit"),
    [
        pytest.param(f"POST {INFER} HTT".encode(), "head_timeout_s", id="a head"),
        pytest.param(head(10) + b"{", "body_timeout_s", id="a body"),
    ],
)
def test_what_stalls_is_408_in_json(server: Server, sent: bytes, limit: str) -> None:
    before = limited(server, limit)
    with connect(server) as client:
        client.sendall(sent)
        said, _, body = rest(client).partition(b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"X-Request-Id: " in said
    assert f"limits.{limit}" in json.loads(body)["error"]
    assert limited(server, limit) == before + 1


def test_the_chunks_of_a_body_are_limited(server: Server) -> None:
    with connect(server) as client:
        client.sendall(head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        with suppress(ConnectionError):
            client.sendall(b"1\r\n \r\n" * 100_000)
        said = rest(client)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"bytes of chunk sizes, extensions and trailers" in said
