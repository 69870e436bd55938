"""Structures that requests become, when the first requests come together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from app.codec.typed import parse

# threads change places as often as they can: so a race in what is worked out at the first use shows
# in about one process of six
TOGETHER = """
import sys, threading
from app.codec.oip import WireRequest
from app.codec.typed import parse
sys.setswitchinterval(1e-6)
start = threading.Barrier(8)
def first():
    start.wait()
    parse(b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1.0]}]}', WireRequest)
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_first_requests_that_come_together_do_not_crash_the_process() -> None:
    for _ in range(12):
        done = subprocess.run(
            [sys.executable, "-c", TOGETHER], cwd=Path(__file__).parents[2], timeout=60, check=False
        )
        assert done.returncode == 0


def test_a_structure_that_was_not_prepared_is_a_bug() -> None:
    class Unprepared(msgspec.Struct):
        pass

    with pytest.raises(AssertionError, match="Unprepared was not prepared"):
        parse(b"{}", Unprepared)
