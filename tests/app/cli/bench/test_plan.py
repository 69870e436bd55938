"""The options of a run, and the mistakes in them."""

from __future__ import annotations

from typing import Any

import pytest

from app.cli.bench.plan import Address, BenchError, Settings, Target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("minilm", Target("minilm", 1, 1.0)),
        ("minilm:8", Target("minilm", 8, 1.0)),
        ("minilm@3", Target("minilm", 1, 3.0)),
        ("all-MiniLM.v2:4@0.5", Target("all-MiniLM.v2", 4, 0.5)),
    ],
)
def test_a_target_is_a_name_its_rows_and_its_weight(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@pytest.mark.parametrize(
    "text", ["", ":2", "m:", "m:0", "m:-1", "m:2:3", "m@", "m@0", "m@x", "m@1:2"]
)
def test_a_malformed_target_is_refused(text: str) -> None:
    with pytest.raises(BenchError) as refusal:
        Target.parse(text)
    assert str(refusal.value) == f"--model: got {text!r}, expected NAME[:ROWS][@WEIGHT]"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", Address("127.0.0.1", 8000, "127.0.0.1:8000")),
        ("http://server/", Address("server", 80, "server")),
        ("http://[::1]:9", Address("::1", 9, "[::1]:9")),
    ],
)
def test_a_url_is_a_host_and_a_port(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "https://server",
        "http://",
        "http://server:nine",
        "http://server:99999",
        "http://server/v2",
        "http://server/?a=b",
        "http://[::1",
    ],
)
def test_a_url_that_cannot_be_loaded_is_refused(url: str) -> None:
    with pytest.raises(BenchError) as refusal:
        Address.parse(url)
    assert str(refusal.value) == f"URL: got {url!r}, expected http://HOST:PORT"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "expected either --clients (closed loop) or --rate (open loop)"),
        ({"clients": 1, "rate": 1}, "expected either --clients (closed loop) or --rate"),
        ({"clients": 0}, "--clients: got 0, expected a number above 0"),
        ({"rate": -1.5}, "--rate: got -1.5, expected a number above 0"),
        ({"rate": 1, "connections": 0}, "--connections: got 0, expected a number above 0"),
        ({"clients": 1, "duration_s": 0}, "--duration: got 0, expected a number above 0"),
        ({"clients": 1, "give_up_s": 0}, "--give-up: got 0, expected a number above 0"),
        ({"clients": 1, "deadline_ms": 0}, "--deadline-ms: got 0, expected a number above 0"),
        ({"clients": 1, "warmup_s": -1}, "--warmup: got -1, expected 0 or a number above it"),
        (
            {"clients": 1, "duration_s": float("nan")},
            "--duration: got nan, expected a number above 0",
        ),
        ({"rate": float("inf")}, "--rate: got inf, expected a number above 0"),
    ],
)
def test_contradictory_or_impossible_settings_are_refused(
    fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BenchError) as refusal:
        Settings("http://server", **fields)
    assert str(refusal.value).startswith(problem)
