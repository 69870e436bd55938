"""A real server's OpenAPI document, compared with the server's behaviour."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.conftest import DIGITS, Start
from tests.e2e.server import BIN, Server

pytestmark = pytest.mark.e2e

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)

# as documented, an impossible deadline is refused with 503, and one that passes meanwhile is a 504
EXPECTED = """
[checks.not_a_server_error]
expected-statuses = ["1xx", "2xx", "3xx", "4xx", 503, 504]
"""

LETTERS = """
[[models]]
name = "letters"
factory = "text_model:create"
rows = [1, 2]
token_ids = true
dimensions = [2, 4]
"""


@pytest.fixture(scope="module")
def server(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with a numeric and a text model, so that every route can answer."""
    directory = tmp_path_factory.mktemp("openapi")
    for name in ("text_model.py", "text_host.py"):
        (directory / name).symlink_to(Path(__file__).with_name(name))
    config = directory / "both.toml"
    config.write_text(DIGITS + LETTERS, encoding="utf-8")
    server = start(config)
    server.until(server.ready, "readiness")
    return server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    return dict(requests.get(f"{server.url}/openapi.json", timeout=10).json())


def generate(
    url: str, report: Path, *options: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Counter[int]]]:
    """Run generated requests; return the exit and the count of each operation and status."""
    (report.parent / "schemathesis.toml").write_text(EXPECTED, encoding="utf-8")
    command = [
        BIN / "schemathesis", "run", f"{url}/openapi.json", "--seed", "20", "--no-color",
        "--checks", ",".join(CHECKS), "--report", "ndjson", "--report-ndjson-path", report,
        *options,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=report.parent, capture_output=True, text=True, timeout=240, check=False
    )
    statuses: dict[str, Counter[int]] = {}
    for line in report.read_text(encoding="utf-8").splitlines():
        ended = json.loads(line).get("ScenarioFinished")
        if ended is not None:
            recorder = ended["recorder"]
            seen = statuses.setdefault(recorder["label"], Counter())
            for cycle in recorder.get("interactions", {}).values():
                seen[cycle["response"]["status_code"]] += 1
    return done, statuses


def test_thousands_of_generated_requests_are_answered_as_documented(
    server: Server, document: dict[str, Any], tmp_path: Path
) -> None:
    done, statuses = generate(
        server.url, tmp_path / "report",
        # the tool omits the document's own path by default
        "--include-path-regex", ".", "--phases", "examples,coverage,fuzzing", "-n", "40",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(seen.total() for seen in statuses.values()) > 500
    operations = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert {label for label, seen in statuses.items() if seen[200]} == operations


# --- wrong answers are detected -------------------------------------------------------------------

Answer = tuple[int, str, bytes]
Lie = Callable[[Answer], str]


@pytest.fixture
def lie(document: dict[str, Any]) -> Iterator[Lie]:
    """Start a server with Brim's document and one answer to all other paths; return its URL."""
    started: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Liar(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                truth = (200, "application/json", json.dumps(document).encode())
                status, kind, body = truth if self.path == "/openapi.json" else answer
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Write no log."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
        started.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("path", "answer", "problem"),
    [
        pytest.param(
            "/healthz", (200, "application/json", b'{"alive":true}'), None, id="what-it-says"
        ),
        pytest.param(
            "/healthz",
            (404, "application/json", b'{"error":"gone"}'),
            "Undocumented status code",
            id="a-status-that-it-does-not-list",
        ),
        pytest.param(
            "/healthz",
            (200, "application/json", b'{"alife":true}'),
            "Response violates schema",
            id="a-field-of-another-name",
        ),
        pytest.param(
            "/healthz",
            (200, "application/json", b'{"alive":"yes"}'),
            "Response violates schema",
            id="a-field-of-another-type",
        ),
        pytest.param(
            "/v1/models",
            (200, "application/json", b'{"object":"list","data":[{"id":"digits"}]}'),
            "Response violates schema",
            id="a-field-that-is-missing-inside",
        ),
        pytest.param(
            "/v1/models",
            (200, "text/html", b"<p>models</p>"),
            "Undocumented Content-Type",
            id="a-page-instead-of-json",
        ),
    ],
)
def test_an_answer_that_differs_from_the_document_is_detected(
    lie: Lie, tmp_path: Path, path: str, answer: Answer, problem: str | None
) -> None:
    options = ("--include-path", path, "--phases", "fuzzing", "-n", "1")
    done, statuses = generate(lie(answer), tmp_path / "report", *options)
    assert statuses[f"GET {path}"][answer[0]], done.stdout + done.stderr
    assert done.returncode == (0 if problem is None else 1), done.stdout
    assert problem is None or problem in done.stdout
