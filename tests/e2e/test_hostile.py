"""Hostile and careless clients cost the well-behaved ones no answer: a part of `make soak`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.server import ROOT

pytestmark = pytest.mark.e2e


def test_beside_hostile_clients_every_answer_is_right_and_all_memory_comes_back() -> None:
    """The share in time is asserted by `make soak` only: it depends on the machine."""
    options = ["--seconds", "25", "--in-time", "0", "--most-mb", "256"]
    command = [sys.executable, "-m", "benchmarks.hostile", *options]
    ended = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
