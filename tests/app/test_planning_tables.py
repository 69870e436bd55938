"""Cost tables: the same of a file, of a saved reply, and of a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.planning import tables
from engine.buckets import Bucket
from engine.costs import CostTable
from engine.errors import ConfigError
from tests.app.conftest import Served

LINES: list[dict[str, Any]] = [
    {"rows": 1, "length": None, "seconds": 0.25, "measured_s": 0.5, "dominated": False},
    {"rows": 4, "length": None, "seconds": 0.5, "measured_s": 0.5, "dominated": False},
]
COSTS = {Bucket(1): 0.25, Bucket(4): 0.5}


def saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    costs = {Bucket(1, 16): 1.0, Bucket(2, 16): 1.5, Bucket(1, 32): 2.0}
    tables.write(tmp_path / "costs.json", "m", CostTable(costs).lines())
    assert tables.read(tmp_path / "costs.json") == costs
    said = json.loads((tmp_path / "costs.json").read_text())
    assert said["name"] == "m"
    assert said["cost_table"][0] == {
        "rows": 1,
        "length": 16,
        "seconds": 1.0,
        "measured_s": 1.0,
        "dominated": False,
    }


def test_the_costs_in_force_are_read_whatever_else_there_is(tmp_path: Path) -> None:
    assert tables.read(saved(tmp_path, {"cost_table": LINES, "queue_depth": 3})) == COSTS


def test_a_models_stats_are_a_cost_file(served: Served, tmp_path: Path) -> None:
    reply = served.client.get("/v2/models/puppet/stats")
    path = tmp_path / "stats.json"
    path.write_bytes(reply.data)
    (line,) = served.engine.stats("puppet").cost_table
    assert tables.read(path) == {Bucket(4): line.seconds}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "a `cost_table`"),
        ([], "a `cost_table`"),
        ({}, "missing required field `cost_table`"),
        ({"cost_table": []}, "cost_table: got"),
        ({"cost_table": [{"rows": 1}]}, "cost_table[0]: got"),
        ({"cost_table": [{"rows": 0, "seconds": 1}]}, "cost_table[0].rows: got"),
        ({"cost_table": [{"rows": 1, "seconds": 0}]}, "cost_table[0].seconds: got"),
        ({"cost_table": LINES + LINES[:1]}, "got '1', expected every bucket once"),
        (
            {"cost_table": [*LINES, {"rows": 1, "length": 8, "seconds": 1}]},
            "expected all with a length, or none",
        ),
    ],
)
def test_a_mistake_names_the_file_and_the_place(
    tmp_path: Path, content: object, problem: str
) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        tables.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.json', expected a readable file: No such file"):
        tables.read(tmp_path / "gone.json")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--out: got '.*costs', expected a file to write: "):
        tables.write(tmp_path / "not" / "there" / "costs", "m", CostTable(COSTS).lines())


class Stats(BaseHTTPRequestHandler):
    """A server with one model called `a/b`."""

    def do_GET(self) -> None:
        found = self.path == "/v2/models/a%2Fb/stats"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"cost_table": LINES}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Stats) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_is_asked_for_its_costs(url: str) -> None:
    assert tables.fetch(f"{url}/", "a/b") == COSTS


def test_a_server_that_does_not_know_the_model_is_an_error_with_its_address(url: str) -> None:
    with pytest.raises(ConfigError, match=f"{url}/v2/models/c/stats'.*404"):
        tables.fetch(url, "c")


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="a server that answers"):
        tables.fetch("http://127.0.0.1:1", "m")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8000", "ftp://host"])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        tables.fetch(url, "m")
