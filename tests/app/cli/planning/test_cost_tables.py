"""Cost tables: from a file, a saved response and a server; and as `brim check --measure` measures,
prints and writes them. Its executables are fake.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from app.cli.main import main
from app.cli.planning import cost_tables
from engine import api
from engine.errors import ConfigError
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.bucket_policy import LOADS
from engine.scheduling.costs.cost_table import CostTable
from engine.serving.client import InProcessClient
from engine.testing import PuppetCompiler, puppet_model
from tests.app.conftest import Served

Write = Callable[[str], Path]

PUPPET = '[[models]]\nname = "p"\nfactory = "engine.testing:puppet_model"\nrows = [1, 2, 4]\n'
TWO = PUPPET + PUPPET.replace('"p"', '"q"')

LINES: list[dict[str, Any]] = [
    {"rows": 1, "length": None, "seconds": 0.25, "measured_s": 0.5, "dominated": False},
    {"rows": 4, "length": None, "seconds": 0.5, "measured_s": 0.5, "dominated": False},
]
COSTS = {Bucket(1): 0.25, Bucket(4): 0.5}


def check(*args: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["check", *map(str, args)])


@pytest.fixture(autouse=True)
def puppets(monkeypatch: pytest.MonkeyPatch) -> PuppetCompiler:
    """Each reading of the clock advances it by a millisecond, so every bucket costs one."""
    ticks = count()
    compiler = PuppetCompiler()
    parts: dict[str, Any] = {
        "clock": lambda: next(ticks) / 1e3,
        "load": lambda _config: puppet_model(),
        "compiler": compiler,
        "watch_compiles": lambda _alarm: lambda: None,
    }
    monkeypatch.setattr(api, "InProcessClient", partial(InProcessClient, **parts))
    return compiler


def lines(result: Result) -> list[list[str]]:
    """The printed lines that are not empty, as words."""
    return [line.split() for line in result.output.splitlines() if line.strip()]


def test_costs_and_the_policys_buckets_are_printed(write: Write) -> None:
    result = check(write(PUPPET), "--measure")
    assert (result.exit_code, result.stderr) == (0, "")
    printed = lines(result)
    at = printed.index(["bucket", "ms", "rows/s"])
    dominated = "dominated: never the cheapest; not used"
    assert [" ".join(line) for line in printed[at + 1 : at + 5]] == [
        f"1 1.000 1000 {dominated}",
        f"2 1.000 2000 {dominated}",
        "4 1.000 4000 best: the most rows/s",
        " ".join(["queued rows", *(f"at load {load:g}" for load in LOADS)]),
    ]
    assert printed[-1] == ["1", "or", "more", *["4"] * len(LOADS)]


def test_candidates_replace_the_rows_of_the_config(write: Write, puppets: PuppetCompiler) -> None:
    result = check(write(PUPPET), "--measure", "--rows", "1,3,6")
    assert result.exit_code == 0
    assert set(puppets.executables) == {Bucket(1), Bucket(3), Bucket(6)}
    assert "3: rows [1, 3, 6]" in result.output


def test_the_costs_are_written_in_the_form_of_stats(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    assert check(write(TWO), "--measure", "--model", "q", "--out", out).exit_code == 0
    assert json.loads(out.read_text())["name"] == "q"
    assert cost_tables.read(out) == pytest.approx({Bucket(rows): 0.001 for rows in (1, 2, 4)})


def test_every_model_is_measured_unless_one_is_named(write: Write) -> None:
    assert check(write(TWO), "--measure").output.count("best: the most") == 2
    assert check(write(TWO), "--measure", "--model", "q").output.count("best: the most") == 1


def test_a_model_that_fails_is_one_line_and_exit_status_1(
    write: Write, puppets: PuppetCompiler
) -> None:
    puppets.fail = ValueError("no such shape")
    result = check(write(PUPPET), "--measure")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "brim: model 'p' has failed: ValueError: no such shape"
    )


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--rows", "1,2"], "--rows, --lengths and --out need --measure"),
        (["--out", "x.json"], "--rows, --lengths and --out need --measure"),
        (
            ["--measure", "--out", "x.json"],
            "--out needs --model: a file holds the costs of one model",
        ),
        (["--measure", "--model", "z"], "--model: got 'z', expected one of p, q"),
        (
            ["--measure", "--rows", "2,1"],
            "'2,1' is not increasing whole numbers from 1 up",
        ),
        (
            ["--measure", "--rows", "0,1"],
            "'0,1' is not increasing whole numbers from 1 up",
        ),
        (["--measure", "--rows", "a"], "'a' is not increasing whole numbers from 1 up"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    write: Write, puppets: PuppetCompiler, args: list[str], problem: str
) -> None:
    result = check(write(TWO), *args)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert not puppets.executables


class Table:
    """A cost table with given buckets: below a load of 0.5, and from there on."""

    def __init__(self, low: Sequence[int], high: Sequence[int]) -> None:
        self._low, self._high = low, high

    def policy_bucket(self, _length: int | None, rows: int, load: float) -> Bucket:
        buckets = self._low if load < 0.5 else self._high
        return Bucket(buckets[min(rows, len(buckets)) - 1])


@pytest.mark.parametrize(
    ("low", "high", "ranges"),
    [
        ([1], [1], [("1 or more", 1, 1)]),
        ([1, 4], [1, 4], [("1", 1, 1), ("2 or more", 4, 4)]),
        ([1, 1, 4], [1, 4, 4], [("1", 1, 1), ("2", 1, 4), ("3 or more", 4, 4)]),
        ([1, 1, 2, 1, 4], [4], [("1-2", 1, 4), ("3", 2, 4), ("4", 1, 4), ("5 or more", 4, 4)]),
        # beyond twice the largest bucket it is another one: the best
        ([4] * 8 + [2], [4] * 8 + [2], [("1-8", 4, 4), ("9 or more", 2, 2)]),
    ],
)
def test_the_policys_buckets_are_shown_as_ranges_of_queued_rows(
    low: list[int], high: list[int], ranges: list[tuple[str, int, int]]
) -> None:
    found = list(
        cost_tables.bucket_ranges(cast("CostTable", Table(low, high)), None, max(low + high))
    )
    assert [(text, buckets[0].rows, buckets[-1].rows) for text, buckets in found] == ranges
    assert all(len(buckets) == len(LOADS) for _, buckets in found)


def saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_written_table_can_be_read(tmp_path: Path) -> None:
    costs = {Bucket(1, 16): 1.0, Bucket(2, 16): 1.5, Bucket(1, 32): 2.0}
    cost_tables.write(tmp_path / "costs.json", "m", CostTable(costs).lines())
    assert cost_tables.read(tmp_path / "costs.json") == costs
    content = json.loads((tmp_path / "costs.json").read_text())
    assert content["name"] == "m"
    assert content["cost_table"][0] == {
        "rows": 1,
        "length": 16,
        "seconds": 1.0,
        "measured_s": 1.0,
        "dominated": False,
    }


def test_other_keys_beside_the_cost_table_are_ignored(tmp_path: Path) -> None:
    assert cost_tables.read(saved(tmp_path, {"cost_table": LINES, "queue_depth": 3})) == COSTS


def test_a_models_stats_are_a_cost_file(served: Served, tmp_path: Path) -> None:
    reply = served.client.get("/v2/models/puppet/stats")
    path = tmp_path / "stats.json"
    path.write_bytes(reply.data)
    (line,) = served.engine.endpoint("puppet").snapshot().cost_table
    assert cost_tables.read(path) == {Bucket(4): line.seconds}


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
def test_a_mistake_is_reported_with_the_file_and_the_place(
    tmp_path: Path, content: object, problem: str
) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        cost_tables.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.json', expected a readable file: No such file"):
        cost_tables.read(tmp_path / "gone.json")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--out: got '.*costs', expected a file to write: "):
        cost_tables.write(tmp_path / "not" / "there" / "costs", "m", CostTable(COSTS).lines())


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


def test_costs_are_read_from_a_server(url: str) -> None:
    assert cost_tables.fetch(f"{url}/", "a/b") == COSTS


def test_an_unknown_model_is_an_error_with_the_address(url: str) -> None:
    with pytest.raises(ConfigError, match=f"{url}/v2/models/c/stats'.*404"):
        cost_tables.fetch(url, "c")


def test_an_unreachable_server_is_an_error() -> None:
    with pytest.raises(ConfigError, match="a server that answers"):
        cost_tables.fetch("http://127.0.0.1:1", "m")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8000", "ftp://host"])
def test_only_http_urls_are_accepted(url: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        cost_tables.fetch(url, "m")
