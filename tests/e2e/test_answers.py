"""A real server answers whatever a user's code raises, and whatever a client sends."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
import requests

from tests.e2e import raising_model
from tests.e2e.conftest import Start
from tests.e2e.server import BIN, Server

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0
PAGE = "https://app.example"
CONFIG = f"""
[server]
cors_origins = ["{PAGE}"]

[[models]]
name = "raising"
factory = "raising_model:create"
rows = [1, 2]
"""
INFER = "/v2/models/raising/infer"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("answers")
    (directory / "raising_model.py").symlink_to(Path(__file__).with_name("raising_model.py"))
    path = directory / "brim.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def server(start: Start, config: Path) -> Server:
    server = start(config)
    server.until(server.ready, "readiness")
    return server


def ask(server: Server, value: float, **headers: str) -> requests.Response:
    tensor = {"name": "value", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    return requests.post(
        server.url + INFER, json={"inputs": [tensor]}, headers=headers, timeout=PATIENCE_S
    )


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        (raising_model.EXIT_BEFORE, 500, "the model's preprocess failed"),
        (raising_model.EXIT_AFTER, 500, "the model's postprocess failed"),
        (raising_model.FAIL_ON_DEVICE, 500, "a batch of model 'raising' failed on the device"),
        (raising_model.NAN, 422, "the model made NaN or infinity in 'value'"),
    ],
)
def test_whatever_a_model_raises_its_client_is_told_in_a_sentence(
    server: Server, value: float, status: int, words: str
) -> None:
    number = f"number-{value:g}"
    response = ask(server, value, **{"X-Request-Id": number})
    assert (response.status_code, response.headers["X-Request-Id"]) == (status, number)
    said = response.json()["error"]
    assert said.startswith(words)
    assert "Traceback" not in said
    assert "told to" not in said
    if status == 500:
        found = re.search(r"\(failure ([0-9a-f]{8})\); the log has request (\S+)", said)
        assert found is not None
        assert found[2] == number
        server.until(lambda: server.log.count(found[1]) >= 2, "both lines in the log")
        assert f"request {number} failed" in server.log
        assert "told to" in server.log
    assert ask(server, 1.0).json()["outputs"][0]["data"] == [1.0]


def talk(server: Server, sent: bytes) -> bytes:
    """Say this, close the sending half, and read to the end."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_a_client_that_closes_its_sending_half_gets_its_answer(server: Server) -> None:
    tensor = {"name": "value", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}
    content = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: b\r\nContent-Length: {len(content)}\r\n\r\n"
    said = talk(server, head.encode() + content)
    said = said.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.endswith(b'"data":[3.0]}]}')


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: b\r\nX-Request-Id: mine\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: b\r\nX-Request-Id: mine\r\nX : 1\r\n\r\n", 400),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: b\r\nX-Request-Id: mine\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nHost: b\r\nX-Request-Id: mine\r\nExpect: tea\r\n\r\n", 417),
        (
            b"POST / HTTP/1.1\r\nHost: b\r\nX-Request-Id: mine\r\nTransfer-Encoding: x\r\n\r\n",
            501,
        ),
        (f"POST {INFER} HTTP/1.1\r\nHost: b\r\nX-Request-Id: mine\r\n\r\n".encode(), 411),
    ],
)
def test_what_is_no_request_is_answered_in_json_with_its_id_and_counted(
    server: Server, sent: bytes, status: int
) -> None:
    head, _, content = talk(server, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"X-Request-Id: mine" in head
    assert b"Content-Type: application/json" in head
    assert list(json.loads(content)) == ["error"]
    metrics = requests.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    assert re.search(rf'flask_http_request_total{{.*status="{status}".*}} [1-9]', metrics)


def test_a_page_of_a_configured_origin_may_ask(server: Server) -> None:
    response = ask(server, 2.0, Origin=PAGE)
    assert response.json()["outputs"][0]["data"] == [2.0]
    assert response.headers["Access-Control-Allow-Origin"] == PAGE
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    preflight = requests.options(server.url + INFER, headers=asked, timeout=PATIENCE_S)
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Origin" not in ask(server, 2.0, Origin="https://b").headers


def test_with_all_file_descriptors_taken_metrics_and_probes_answer(
    start: Start, config: Path
) -> None:
    brim = f"exec {BIN / 'brim'} serve {config} --bind 127.0.0.1:{{port}} --workers 1"
    server = start(config, "sh", "-c", f"ulimit -n 160; {brim}")
    server.until(server.ready, "readiness")
    assert ask(server, 1.0).status_code == 200
    requests.get(f"{server.url}/metrics", timeout=PATIENCE_S)
    clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    try:
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n")
        for path in ("/healthz", "/readyz", "/metrics"):  # each on a connection of its own
            response = requests.get(server.url + path, timeout=PATIENCE_S)
            assert response.status_code == 200
        assert "brim_requests_total" in response.text
        assert "flask_http_request_total" in response.text
    finally:
        for client in clients:
            client.close()
    assert "Traceback" not in server.log
