"""`brim tune`: what it prints and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.main import main
from app.cli.planning import cost_tables
from app.cli.planning.tune import difference
from engine.scheduling.buckets import Bucket, BucketGrid
from engine.scheduling.costs.cost_table import CostTable

Write = Callable[[str], Path]

COSTS = {Bucket(1): 1.2, Bucket(2): 1.5, Bucket(3): 1.8, Bucket(4): 2.0}
CONFIG = '[[models]]\nname = "m"\nfactory = "engine.testing:puppet_model"\nrows = [1, 4]\n'


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    path = tmp_path / "costs.json"
    cost_tables.write(path, "m", CostTable(COSTS).lines())
    return path


@pytest.fixture
def threes(tmp_path: Path) -> Path:
    """Requests of three rows, each alone on the device."""
    path = tmp_path / "trace.csv"
    lines = [f"{10 * number},3" for number in range(20)]
    path.write_text("\n".join(["at,rows", *lines]) + "\n")
    return path


def tune(*args: object) -> Result:
    command = ["tune", "--timeout-ms", "50000", *map(str, args)]
    return CliRunner(env={"COLUMNS": "100"}).invoke(main, command)


def words(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines() if line.strip()]


def test_the_known_best_buckets_are_found_and_the_gain_is_printed(
    costs: Path, threes: Path
) -> None:
    result = tune("--costs", costs, "--trace", threes, "--most", 2, "--for", "work")
    assert [" ".join(line) for line in words(result)[1:]] == [
        "buckets p99 ms device ms fill not in time capacity/s",
        "before 4 1.8e+03 1.8e+03 1.00 0.00% 1",
        "after 1 1.8e+03 1.8e+03 1.00 0.00% 1",
        "device time per answered request +0.0%, 3 fewer buckets to compile",
        "-rows = [1, 2, 3, 4]",
        "+rows = [3]",
    ]


def test_the_best_buckets_are_compared_with_the_config(
    costs: Path, threes: Path, write: Write
) -> None:
    # the config has 4 rows at best: 2 s for three
    args = ["--costs", costs, "--trace", threes, "--config", write(CONFIG), "--model", "m"]
    result = tune(*args)
    assert "p99 -10.0%, 1 fewer bucket to compile" in result.stdout
    assert "-rows = [1, 4]\n+rows = [3]\n" in result.stdout


def test_the_only_model_of_a_config_need_not_be_named(
    costs: Path, threes: Path, write: Write
) -> None:
    result = tune("--costs", costs, "--trace", threes, "--config", write(CONFIG))
    assert "-rows = [1, 4]" in result.stdout


@pytest.mark.parametrize(
    ("config", "model", "problem"),
    [
        (CONFIG, "z", "--model: got 'z', expected one of m"),
        (CONFIG + CONFIG.replace('"m"', '"n"'), None, "--model: got None, expected one of m, n"),
        (
            CONFIG.replace("4]", "8]"),
            None,
            "costs: got ['8'], expected a cost for each of these buckets; measure them",
        ),
        ("", None, "models"),
    ],
)
def test_a_config_that_cannot_be_compared_is_one_line(
    costs: Path, threes: Path, write: Write, config: str, model: str | None, problem: str
) -> None:
    named = ["--model", model] if model else []
    args = ["--costs", costs, "--trace", threes, "--config", write(config), *named]
    result = tune(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_empty_trace_is_one_line(costs: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("at\n")
    result = tune("--costs", costs, "--trace", empty)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "at least one request" in result.stderr


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (BucketGrid((1, 2)), BucketGrid((1, 2)), ["  nothing to change"]),
        (BucketGrid((1, 2)), BucketGrid((2,)), ["-rows = [1, 2]", "+rows = [2]"]),
        (
            BucketGrid((1,), (8, 16)),
            BucketGrid((1,), (16,)),
            ["-lengths = [8, 16]", "+lengths = [16]"],
        ),
    ],
)
def test_only_what_changes_is_in_the_difference(
    before: BucketGrid, after: BucketGrid, lines: list[str]
) -> None:
    assert difference(before, after) == lines
