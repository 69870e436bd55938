"""`brim check --measure`: what it prints, writes and refuses. No device: puppets that cost 1 ms."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.planning import measure, tables
from engine.buckets import Bucket
from engine.costs import CostTable
from engine.engine import Engine
from engine.plan import LOADS
from engine.testing import PuppetCompiler, puppet_model

Write = Callable[[str], Path]

PUPPET = '[[models]]\nname = "p"\nfactory = "engine.testing:puppet_model"\nrows = [1, 2, 4]\n'
TWO = PUPPET + PUPPET.replace('"p"', '"q"')


def check(*args: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["check", *map(str, args)])


@pytest.fixture(autouse=True)
def puppets(monkeypatch: pytest.MonkeyPatch) -> PuppetCompiler:
    """Every look at the clock takes a millisecond, so every bucket costs one."""
    ticks = count()
    compiler = PuppetCompiler()
    parts: dict[str, Any] = {
        "clock": lambda: next(ticks) / 1e3,
        "load": lambda _config: puppet_model(),
        "compiler": compiler,
        "watch_compiles": lambda _alarm: lambda: None,
    }
    monkeypatch.setattr(measure, "Engine", partial(Engine, **parts))
    return compiler


def lines(result: Result) -> list[list[str]]:
    """The printed lines that are not empty, as words."""
    return [line.split() for line in result.output.splitlines() if line.strip()]


def test_costs_and_plan_are_printed(write: Write) -> None:
    result = check(write(PUPPET), "--measure")
    assert (result.exit_code, result.stderr) == (0, "")
    printed = lines(result)
    at = printed.index(["bucket", "ms", "rows/s"])
    dominated = "dominated: never the cheapest for any load; skipped"
    assert [" ".join(line) for line in printed[at + 1 : at + 5]] == [
        f"1 1.000 1000 {dominated}",
        f"2 1.000 2000 {dominated}",
        "4 1.000 4000 best: the most rows/s",
        " ".join(["rows that wait", *(f"at load {load:g}" for load in LOADS)]),
    ]
    assert printed[-1] == ["1", "or", "more", *["4"] * len(LOADS)]


def test_candidates_take_the_place_of_the_configs_rows(
    write: Write, puppets: PuppetCompiler
) -> None:
    result = check(write(PUPPET), "--measure", "--rows", "1,3,6")
    assert result.exit_code == 0
    assert set(puppets.executables) == {Bucket(1), Bucket(3), Bucket(6)}
    assert "3: rows [1, 3, 6]" in result.output


def test_the_costs_are_written_as_stats_have_them(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    assert check(write(TWO), "--measure", "--model", "q", "--out", out).exit_code == 0
    assert json.loads(out.read_text())["name"] == "q"
    assert tables.read(out) == pytest.approx({Bucket(rows): 0.001 for rows in (1, 2, 4)})


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
        (["--measure", "--out", "x.json"], "--out needs --model: a file holds the costs of one"),
        (["--measure", "--model", "z"], "--model: got 'z', expected one of p, q"),
        (["--measure", "--rows", "2,1"], "'2,1' is not whole numbers from 1 up, increasing"),
        (["--measure", "--rows", "0,1"], "'0,1' is not whole numbers from 1 up, increasing"),
        (["--measure", "--rows", "a"], "'a' is not whole numbers from 1 up, increasing"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    write: Write, puppets: PuppetCompiler, args: list[str], problem: str
) -> None:
    result = check(write(TWO), *args)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert not puppets.executables


class Table:
    """A table whose plan is given: below a load of a half, and from there on."""

    def __init__(self, low: Sequence[int], high: Sequence[int]) -> None:
        self._low, self._high = low, high

    def planned(self, _length: int | None, rows: int, load: float) -> Bucket:
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
def test_the_plan_is_ranges_of_waiting_rows(
    low: list[int], high: list[int], ranges: list[tuple[str, int, int]]
) -> None:
    found = list(measure.plan(cast("CostTable", Table(low, high)), None, max(low + high)))
    assert [(text, buckets[0].rows, buckets[-1].rows) for text, buckets in found] == ranges
    assert all(len(buckets) == len(LOADS) for _, buckets in found)
