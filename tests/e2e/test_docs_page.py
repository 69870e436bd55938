"""The page at /docs, in a real browser without network access."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.e2e.server import Server

pytestmark = pytest.mark.e2e


def test_the_page_shows_the_models_operation_and_its_tensor(
    tool: Callable[[str], Path], digits_server: Server, tmp_path: Path
) -> None:
    command = [
        tool("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}",
        # the browser can reach this machine only
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        "--virtual-time-budget=10000", "--dump-dom",
        f"{digits_server.url}/docs#/Your%20models/infer_digits",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    page = done.stdout
    assert "Inference with digits" in page, done.stderr
    assert "/v2/models/digits/infer" in page
    assert "image" in page
    assert "Failed to load" not in page
    assert "Unable to render" not in page


def test_the_page_loads_nothing_from_other_hosts(digits_server: Server) -> None:
    page = requests.get(f"{digits_server.url}/docs", timeout=10).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in links:
        assert "//" not in link
        assert requests.get(f"{digits_server.url}/{link}", timeout=10).status_code == 200
