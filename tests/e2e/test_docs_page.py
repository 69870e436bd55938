"""The page at /docs, in a real browser without network access."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from tests.e2e.conftest import Start
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e


def shown(tool: Callable[[str], Path], url: str, profile: Path) -> str:
    """The document that the browser makes of a page."""
    command = [
        tool("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
        # the browser can reach this machine only
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        "--virtual-time-budget=10000", "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


PAGE = "docs#/Your%20models/infer_digits"


def test_the_page_shows_the_models_operation_and_its_tensor(
    tool: Callable[[str], Path], digits_server: Server, tmp_path: Path
) -> None:
    page = shown(tool, f"{digits_server.url}/{PAGE}", tmp_path)
    assert "Inference with digits" in page
    assert "/v2/models/digits/infer" in page
    assert "image" in page
    assert "Failed to load" not in page
    assert "Unable to render" not in page


class StripsPrefix(BaseHTTPRequestHandler):
    """A proxy that takes `/below` away, so that the server behind it does not know of it."""

    behind = ""

    def do_GET(self) -> None:
        answer = requests.get(self.behind + self.path.removeprefix("/below"), timeout=10)
        self.send_response(answer.status_code if self.path.startswith("/below/") else 404)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        """Write no log."""


def test_behind_a_proxy_that_takes_a_prefix_away_the_page_calls_the_prefixed_routes(
    tool: Callable[[str], Path], digits_server: Server, tmp_path: Path
) -> None:
    handler = type("Handler", (StripsPrefix,), {"behind": digits_server.url})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{proxy.server_port}/below"
        page = shown(tool, f"{url}/{PAGE}", tmp_path)
        proxy.shutdown()
    # what "Execute" posts to
    assert f'<option value="{url}">' in page
    assert "Inference with digits" in page


def test_under_script_name_the_document_and_the_page_have_the_prefix(
    tool: Callable[[str], Path], start: Start, digits_config: Path, tmp_path: Path
) -> None:
    server = start(digits_config, SCRIPT_NAME="/below")
    url = f"{server.url}/below"
    server.until(lambda: requests.get(f"{url}/readyz", timeout=10).status_code == 200, "readiness")
    document = requests.get(f"{url}/openapi.json", timeout=10).json()
    assert document["servers"] == [{"url": "/below"}]
    assert f'<option value="{url}">' in shown(tool, f"{url}/{PAGE}", tmp_path)
    image = {"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": [0.0] * 64}
    asked = requests.post(f"{url}/v2/models/digits/infer", json={"inputs": [image]}, timeout=60)
    assert asked.status_code == 200


def test_the_page_loads_nothing_from_other_hosts(digits_server: Server) -> None:
    page = requests.get(f"{digits_server.url}/docs", timeout=10).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in links:
        assert "//" not in link
        assert requests.get(f"{digits_server.url}/{link}", timeout=10).status_code == 200
