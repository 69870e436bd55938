"""`brim bench` against the real server of the digits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.app.cli.bench.made import read
from tests.e2e.server import BIN, Server

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("form", ["--json", "--binary"])
@pytest.mark.parametrize("pace", ["--clients=4", "--rate=50"])
def test_both_loops_in_both_forms_get_only_answers(
    digits_server: Server, tmp_path: Path, pace: str, form: str
) -> None:
    out, picture = tmp_path / "report.json", tmp_path / "report.png"
    mix = ["--model", "digits", "--model", "digits:3@2"]
    files = ["--out", out, "--plot", picture]
    short = ["--duration", "0.5", "--warmup", "0.1"]
    ended = subprocess.run(
        [BIN / "brim", "bench", digits_server.url, pace, form, *mix, *short, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seen = read(out.read_bytes())
    assert list(seen.statuses) == [200]
    assert seen.failures == {}
    assert all(each.ok.count > 0 for each in seen.targets)
    assert seen.rows_per_s > seen.ok_per_s
    assert picture.stat().st_size > 0
    assert "answers/s" in ended.stdout
