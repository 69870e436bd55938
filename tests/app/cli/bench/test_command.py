"""`brim bench`: what it refuses, prints and writes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from app.cli.bench import chart, command, process, requests
from app.cli.bench.plan import BenchError, Plan, Settings, Target
from app.cli.bench.report import Failure, Progress, Report
from app.cli.main import main
from tests.app.cli.bench.made import plan_of, read, report_of

URL = "http://127.0.0.1:1"
PNG = b"\x89PNG\r\n"

GOOD = report_of((0, 200, 0.5, 0.010), (0, 200, 1.5, 0.012))
BUSY = report_of(
    (0, 200, 0.5, 4.010),
    (1, 429, 0.6, 0.001),
    (0, 500, 0.7, 0.001),
    (1, Failure.RESET, 9.9, 2.0),
    plan=plan_of(
        targets=[Target("a"), Target("[b]", 4)], rate=20, arrivals="constant", deadline_ms=11
    ),
    core=0.97,
)
NOTHING = report_of((0, Failure.REFUSED, 0.5, 0.001))


def bench(*args: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["bench", *args])


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, list[Target], int | None]]:
    """Records the plans instead of running them; the report is a good one."""
    seen: list[tuple[Settings, list[Target], int | None]] = []

    def plan(settings: Settings, targets: list[Target], length: int | None) -> Plan:
        seen.append((settings, targets, length))
        return plan_of()

    def run(_plan: Plan, progress: Any) -> Report:
        progress(Progress(1.0, 10, 1))
        return GOOD

    monkeypatch.setattr(requests, "plan", plan)
    monkeypatch.setattr(process, "run", run)
    return seen


def test_without_options_eight_clients_send_one_row_to_every_model(planned: list[Any]) -> None:
    assert bench(URL).exit_code == 0
    assert planned == [(Settings(URL, clients=8), [], None)]


def test_every_option_is_a_setting(planned: list[Any]) -> None:
    words = (
        "--model a --model b:4@2 --rate 50 --arrivals constant --connections 9 --duration 3 "
        "--warmup 1 --give-up 4 --binary --deadline-ms 20 --length 32 --seed 5"
    )
    assert bench(URL, *words.split()).exit_code == 0
    settings = Settings(
        URL,
        rate=50,
        arrivals="constant",
        connections=9,
        duration_s=3,
        warmup_s=1,
        give_up_s=4,
        binary=True,
        deadline_ms=20,
        seed=5,
    )
    assert planned == [(settings, [Target("a"), Target("b", 4, 2.0)], 32)]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([URL, "--clients", "1", "--rate", "1"], "expected either --clients (closed loop) or"),
        ([URL, "--duration", "0"], "--duration: got 0, expected a number above 0"),
        ([URL, "--model", ":"], "--model: got ':', expected NAME[:ROWS][@WEIGHT]"),
        (["ftp://x"], "URL: got 'ftp://x', expected http://HOST:PORT"),
        ([URL], f"no response from {URL}: "),
    ],
)
def test_a_run_that_cannot_be_made_is_one_line_and_exit_status_2(
    args: list[str], line: str
) -> None:
    result = bench(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"brim: {line}")
    assert result.stderr.count("\n") == 1


def test_without_the_extra_one_line_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        command, "find_spec", lambda name: None if name in ("hdrh", "httptools") else object()
    )
    result = bench(URL)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        f"brim: bench needs httptools, hdrh: {sys.executable} -m pip install 'hdrhistogram>=0.10' "
    )
    assert "'httptools>=0.6'" in result.stderr
    assert "brim" not in result.stderr.partition("install")[2]  # it stays as it is installed
    assert result.stderr.count("\n") == 1


def test_the_report_is_written_and_drawn_to_the_given_paths(
    planned: list[Any], tmp_path: Path
) -> None:
    out, picture = tmp_path / "r.json", tmp_path / "r.png"
    assert bench(URL, "--out", str(out), "--plot", str(picture)).exit_code == 0
    assert read(out.read_bytes()) == GOOD
    assert picture.read_bytes().startswith(PNG)


def test_a_server_that_answered_nothing_is_exit_status_1(
    planned: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "run", lambda _plan, _progress: NOTHING)
    result = bench(URL)
    assert result.exit_code == 1
    assert "refused: 1" in result.stdout


def shown(seen: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    command.show(console, seen)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_good_run_is_shown_without_empty_lines() -> None:
    printed = shown(GOOD)
    assert "closed loop, 1 clients, JSON, 10 s after 0 s of warm-up" in printed
    assert "0.2 answers/s" in printed
    assert "200: 2" in printed
    for absent in ("429", "doubtful", "x:1"):
        assert absent not in printed


def test_a_bad_run_is_shown_with_every_outcome() -> None:
    printed = shown(BUSY)
    for part in (
        "open loop, 20/s constant",
        "goodput/s within 11 ms",
        "[b]:4",
        "4,010",
        "429, 503",
        "200: 1   429: 1   500: 1   reset: 1",
        "doubtful: the load generator used 97% of its core",
    ):
        assert part in printed


@pytest.mark.parametrize(
    ("elapsed_s", "stage"), [(0.5, "warm-up"), (2.0, "measure"), (11.9, "measure"), (12.0, "wait")]
)
def test_the_bar_shows_the_stage_and_the_counts(elapsed_s: float, stage: str) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with command.bar(console, Settings(URL, clients=1)) as show:
        show(Progress(elapsed_s, 1234, 5))
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert stage in drawn
    assert "1,234 requests" in drawn
    assert "5 of them failed" in drawn


@pytest.mark.parametrize(
    "seen", [GOOD, BUSY, NOTHING, report_of()], ids=["good", "busy", "nothing", "empty"]
)
def test_every_report_can_be_drawn(seen: Report, tmp_path: Path) -> None:
    chart.draw_report(tmp_path / "picture.png", seen)
    assert (tmp_path / "picture.png").read_bytes().startswith(PNG)


# --- the process --------------------------------------------------------------------------------


def test_a_run_in_its_own_process_returns_its_report_and_its_progress() -> None:
    printed: list[Progress] = []
    seen = process.run(plan_of(URL, clients=2, duration_s=0.2), printed.append)
    assert set(seen.failures) == {"refused"}
    assert printed


def test_an_error_in_the_process_is_raised_in_the_caller() -> None:
    with pytest.raises(BenchError, match=r"^URL: got 'http://', expected"):
        process.run(plan_of("http://"))


def test_a_process_that_dies_is_an_error_with_its_exit_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unpicklable:
        def __reduce__(self) -> Any:
            return exit, (7,)

    plan = plan_of()
    object.__setattr__(plan, "requests", Unpicklable())
    with pytest.raises(BenchError, match=r"^the load generator ended with 7$"):
        process.run(plan)
