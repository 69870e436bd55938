"""Triton's load generator, unchanged, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

JSON = ("--input-tensor-format", "json", "--output-tensor-format", "json")
# It ends after so many requests. Windows of time may be empty on a busy machine: "unstable".
QUICK = ("--request-count", "20")


def analyze(program: Path, server: Server, model: str, *options: str) -> str:
    """Return its report after a successful run."""
    libraries = program.parents[1] / "lib"
    done = subprocess.run(
        [program, "-i", "http", "-u", f"127.0.0.1:{server.port}", "-m", model, *QUICK, *options],
        env=os.environ | {"LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    return report


def number(report: str, name: str) -> float:
    found = re.search(rf"{name}: ([0-9.]+)", report)
    assert found, report
    return float(found.group(1))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--concurrency-range", "2"), id="binary-concurrency"),
        pytest.param(("--concurrency-range", "2", "-b", "4"), id="binary-four-rows"),
        pytest.param(("--concurrency-range", "2", *JSON), id="json-concurrency"),
        pytest.param(("--concurrency-range", "2", "-b", "4", *JSON), id="json-four-rows"),
        pytest.param(("--request-rate-range", "20"), id="binary-request-rate"),
        pytest.param(("--request-rate-range", "20", "-b", "4"), id="binary-request-rate-four-rows"),
        pytest.param(("--request-rate-range", "20", *JSON), id="json-request-rate"),
    ],
)
def test_it_measures_the_digits_and_reads_the_servers_statistics(
    tool: Callable[[str], Path], digits_server: Server, options: tuple[str, ...]
) -> None:
    check(analyze(tool("perf_analyzer"), digits_server, "digits", *options))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--string-data", "full to the brim"), id="binary-one-text"),
        pytest.param(("--string-length", "20", "-b", "4"), id="binary-four-random-texts"),
        pytest.param(("--string-data", "full to the brim", *JSON), id="json-one-text"),
        pytest.param(("--string-data", "to the brim", "-b", "4", *JSON), id="json-four-texts"),
    ],
)
def test_it_generates_texts_from_the_metadata(
    tool: Callable[[str], Path], demo_server: Server, options: tuple[str, ...]
) -> None:
    check(analyze(tool("perf_analyzer"), demo_server, "minilm", *options))


def check(report: str) -> None:
    """Check that it got answers and read the statistics."""
    assert number(report, "Throughput") > 0
    assert number(report, "Inference count") >= number(report, "Execution count") > 0
    assert number(report, "Successful request count") > 0
    assert re.search(r"queue \d+ usec \+ compute input \d+ usec \+ compute infer \d+ usec", report)
