"""Parsing into structs, also when the first requests arrive at the same time."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import msgspec
import orjson
import pytest

from app.http.codecs import messages
from app.http.codecs.messages import LARGE, parse
from app.http.codecs.oip import WireRequest
from engine.api import InvalidRequest

# threads switch as often as possible, so a race at the first use shows in about one process of six
TOGETHER = """
import sys, threading
from app.http.codecs.oip import WireRequest
from app.http.codecs.messages import parse
sys.setswitchinterval(1e-6)
start = threading.Barrier(8)
def first():
    start.wait()
    parse(b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1.0]}]}', WireRequest)
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_simultaneous_first_requests_do_not_crash_the_process() -> None:
    for _ in range(12):
        done = subprocess.run(
            [sys.executable, "-c", TOGETHER], cwd=Path(__file__).parents[4], timeout=60, check=False
        )
        assert done.returncode == 0


def test_parsing_an_undeclared_struct_is_a_bug() -> None:
    class Undeclared(msgspec.Struct):
        pass

    with pytest.raises(AssertionError, match="Undeclared is not @decodable"):
        parse(b"{}", Undeclared)


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("size", [LARGE, LARGE + 1], ids=["small", "large"])
def test_large_json_is_parsed_one_at_a_time_and_without_garbage_collections(
    monkeypatch: pytest.MonkeyPatch, size: int, valid: bool
) -> None:
    seen: list[tuple[bool, bool]] = []
    loads = orjson.loads

    def look(body: bytes) -> object:
        seen.append((messages._alone.locked(), gc.isenabled()))
        return loads(body)

    monkeypatch.setattr(orjson, "loads", look)
    body = (b'{"inputs": []}' if valid else b"{").ljust(size)
    with nullcontext() if valid else pytest.raises(InvalidRequest):
        parse(body, WireRequest)
    large = size > LARGE
    assert seen == [(large, not large)]
    assert not messages._alone.locked()
    assert gc.isenabled()
