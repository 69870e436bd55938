"""`brim simulate`: what it reads, prints, writes and refuses."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from app.cli import charts
from app.cli.common import install
from app.cli.main import main
from app.cli.planning import cost_tables
from app.cli.planning import simulate as command
from app.cli.planning.simulate import outcome
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.simulation.scenario import POLICIES
from engine.simulation.simulator import Result as Seen
from tests.app.conftest import Served

PNG = b"\x89PNG\r\n"


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    """A bucket of 1 takes 10 ms, one of 4 takes 20 ms: 200 rows/s at most."""
    path = tmp_path / "costs.json"
    cost_tables.write(path, "m", CostTable({Bucket(1): 0.010, Bucket(4): 0.020}).lines())
    return path


def simulate(*args: object) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["simulate", *map(str, args)])


def figures(tmp_path: Path, *args: object) -> dict[str, Any]:
    out = tmp_path / "figures.json"
    result = simulate(*args, "--out", out)
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def trace(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_recorded_trace_gives_figures_that_can_be_checked_by_hand(
    tmp_path: Path, costs: Path
) -> None:
    # one alone; then one, and three more while it runs, the last with two rows
    file = trace(tmp_path, "at,rows", "0,1", "1,1", "1.002,1", "1.004,1", "1.006,2")
    content = figures(tmp_path, "--costs", costs, "--trace", file)
    (ours,) = content["policies"]
    assert content["slo_ms"] == 500.0
    assert ours == {
        "policy": "brim",
        "p50_ms": pytest.approx(24.0),
        "p99_ms": pytest.approx(28.0),
        "p999_ms": pytest.approx(28.0),
        "goodput_per_s": pytest.approx(5 / 1.030),
        "answered": 5,
        "refused": 0,
        "expired": 0,
        "fill": 1.0,
        "utilisation": pytest.approx(0.040 / 1.030),
        "replicas": 1,
    }


def test_a_models_stats_are_a_cost_table(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    path.write_bytes(served.client.get("/v2/models/puppet/stats").data)
    content = figures(tmp_path, "--costs", path, "--requests", 200)
    assert content["policies"][0]["answered"] > 0


def test_policies_are_compared_in_the_order_of_the_options(costs: Path) -> None:
    asked = [*reversed(POLICIES), "brim"]
    args = [part for policy in asked for part in ("--policy", policy)]
    result = simulate("--costs", costs, "--requests", 300, *args)
    assert result.exit_code == 0
    printed = [line.split() for line in result.output.splitlines() if line.strip()]
    assert printed[0][:5] == ["poisson,", "300", "requests", "at", "120/s,"]
    assert [line[0] for line in printed[2:]] == list(reversed(POLICIES))
    assert all(len(line) <= 80 for line in result.output.splitlines())


@pytest.mark.parametrize("kind", ["poisson", "bursty", "diurnal", "constant"])
def test_every_kind_of_trace_is_simulated(kind: str, tmp_path: Path, costs: Path) -> None:
    args = ["--costs", costs, "--trace", kind, "--rate", 50, "--requests", 200, "--seed", 3]
    content = figures(tmp_path, *args)
    (ours,) = content["policies"]
    assert content["trace"] == f"{kind}, 200 requests at 50/s, 25% of capacity"
    # a tenth of the time is warm-up, and there a bursty trace may send more than a tenth
    assert 100 < ours["answered"] + ours["refused"] + ours["expired"] <= 200


@pytest.mark.parametrize(
    ("args", "description"),
    [
        ([], "poisson, 50 requests at 120/s, 60% of capacity"),
        (["--load", 0.25], "poisson, 50 requests at 50/s, 25% of capacity"),
        (["--rate", 7], "poisson, 50 requests at 7/s, 4% of capacity"),
        (["--rows", "1,3"], "poisson, 50 requests at 60/s, 60% of capacity"),
        (["--clients", 3, "--turnaround-ms", 5], "closed loop of 3 clients, turnaround 5 ms"),
    ],
)
def test_the_traffic_is_described_in_words(
    tmp_path: Path, costs: Path, args: list[object], description: str
) -> None:
    assert figures(tmp_path, "--costs", costs, "--requests", 50, *args)["trace"] == description


def test_a_closed_loop_of_one_client_never_waits_for_another(tmp_path: Path, costs: Path) -> None:
    args = ["--costs", costs, "--clients", 1, "--turnaround-ms", 10, "--requests", 500]
    (ours,) = figures(tmp_path, *args)["policies"]
    assert (ours["p50_ms"], ours["p99_ms"]) == (pytest.approx(10), pytest.approx(10))
    assert ours["goodput_per_s"] == pytest.approx(50, rel=0.03)
    assert ours["answered"] == pytest.approx(450, rel=0.03)  # the first tenth is not counted
    assert ours["replicas"] is None


@pytest.mark.parametrize("recorded", [True, False])
def test_the_first_tenth_of_a_generated_trace_is_not_counted(
    tmp_path: Path, costs: Path, recorded: bool
) -> None:
    lines = [str(0.1 * number) for number in range(200)]
    args = ["--trace", trace(tmp_path, "at", *lines)] if recorded else ["--trace", "constant"]
    (ours,) = figures(tmp_path, "--costs", costs, "--requests", 100, *args)["policies"]
    assert ours["answered"] == (100 if recorded else 90)


def test_replicas_are_the_number_that_the_objective_needs(tmp_path: Path, costs: Path) -> None:
    # 200 rows/s at most, and within 15 ms only one row at a time: 100/s
    args = ["--costs", costs, "--trace", "constant", "--slo-ms", 15, "--requests", 400]
    for rate, replicas in ((90, 1), (190, 2), (290, 3)):
        (ours,) = figures(tmp_path, *args, "--rate", rate)["policies"]
        assert ours["replicas"] == replicas
    (ours,) = figures(tmp_path, *args, "--rate", 90, "--slo-ms", 9)["policies"]
    assert (ours["replicas"], ours["p50_ms"]) == (None, None)


def test_the_deadline_is_the_objective_by_default(tmp_path: Path, costs: Path) -> None:
    args = ["--costs", costs, "--load", 3, "--slo-ms", 100, "--policy", "pad", "--requests", 2000]
    (strict,) = figures(tmp_path, *args)["policies"]
    (patient,) = figures(tmp_path, *args, "--timeout-ms", 1e6)["policies"]
    assert strict["expired"] > 500
    assert patient["expired"] == 0


def test_the_longest_wait_and_the_noise_are_passed_on(tmp_path: Path, costs: Path) -> None:
    args = ["--costs", costs, "--rate", 1, "--requests", 40, "--policy", "window"]
    (usual,) = figures(tmp_path, *args)["policies"]
    (waits,) = figures(tmp_path, *args, "--max-wait-ms", 30)["policies"]
    (noisy,) = figures(tmp_path, *args, "--max-wait-ms", 30, "--noise", 0.5)["policies"]
    assert (usual["p50_ms"], waits["p50_ms"]) == (pytest.approx(12), pytest.approx(40))
    assert noisy["p99_ms"] > waits["p50_ms"] + 2


# --- the chart ------------------------------------------------------------------------------------


def test_a_chart_is_drawn(tmp_path: Path, costs: Path) -> None:
    picture = tmp_path / "latency.png"
    args = ["--policy", "brim", "--policy", "window", "--load", 1.5, "--slo-ms", 100]
    result = simulate("--costs", costs, "--requests", 2000, "--plot", picture, *args)
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(PNG)


def test_without_answered_requests_the_chart_has_no_curve(tmp_path: Path, costs: Path) -> None:
    picture = tmp_path / "latency.png"
    args = ["--requests", 20, "--slo-ms", 1, "--plot", picture]
    assert simulate("--costs", costs, *args).exit_code == 0
    assert picture.read_bytes().startswith(PNG)


def test_without_matplotlib_one_line_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, costs: Path
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda _name: None)
    result = simulate("--costs", costs, "--plot", tmp_path / "x.png")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"brim: --plot: got None, expected matplotlib: {install('bench')}\n"


@pytest.mark.parametrize("name", ["x.odd", "gone/x.png"])
def test_a_chart_that_cannot_be_written_is_one_line(tmp_path: Path, costs: Path, name: str) -> None:
    result = simulate("--costs", costs, "--requests", 50, "--plot", tmp_path / name)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"brim: --plot: got '{tmp_path / name}', expected a file")
    assert result.stderr.count("\n") == 1


def test_the_curve_goes_from_the_fastest_to_the_slowest() -> None:
    x, y = charts.curve(Seen(array("d", [0.004, 0.001, 0.003, 0.002])))
    assert (x[0], x[-1], y[0], y[-1]) == (1, 4, 1.0, 4.0)
    assert np.all(np.diff(y) >= 0)
    # half of all are at or below 1 / (1 - 0.5) = 2
    assert y[np.searchsorted(x, 2.0) - 1] == 2.0


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ((), "either --costs FILE, or --url URL --model NAME"),
        (("--url", "http://127.0.0.1:1"), "--url needs --model"),
        (("--costs", "gone.json"), "brim: got 'gone.json', expected a readable file"),
        (("--url", "ftp://x", "--model", "m"), "brim: --url: got 'ftp://x', expected http://"),
    ],
)
def test_without_costs_nothing_is_simulated(args: Sequence[str], problem: str) -> None:
    result = simulate(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--rate", 1, "--load", 1), "--rate or --load, not both"),
        (("--clients", 1, "--rate", 1), "--clients is a closed loop"),
        (("--clients", 1, "--trace", "poisson"), "--clients is a closed loop"),
        (("--trace", "x.csv", "--rate", 1), "a recorded trace has its own rate"),
        (("--trace", "sinus"), "--trace: got 'sinus', expected poisson, bursty, diurnal, constant"),
        (("--trace", "gone.csv"), "a readable CSV file"),
        (("--policy", "magic"), "'magic' is not one of"),
        (("--lengths", "8"), "length: got 8, expected no length"),
        (("--requests", 0), "0 is not in the range"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    costs: Path, args: Sequence[object], problem: str
) -> None:
    result = simulate("--costs", costs, *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr


def test_a_mistake_in_a_trace_names_the_file_and_the_line(tmp_path: Path, costs: Path) -> None:
    file = trace(tmp_path, "at,rows", "0,1", "1,none")
    result = simulate("--costs", costs, "--trace", file)
    assert result.exit_code == 2
    assert result.stderr == (
        f"brim: {file}: line 3: got {{'at': '1', 'rows': 'none'}}, expected numbers\n"
    )


def test_without_answered_requests_there_are_no_percentiles() -> None:
    figures = outcome("brim", Seen(refused=3), None)
    assert (figures["p50_ms"], figures["p99_ms"], figures["p999_ms"]) == (None, None, None)
