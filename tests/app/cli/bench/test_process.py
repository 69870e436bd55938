"""Real connections to a server with a script. Nothing here is timed; nothing may hang."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.cli.bench import process, report
from app.cli.bench.load import PAUSE_S
from app.cli.bench.plan import BenchError, Plan, Target
from app.cli.bench.report import Progress, Report
from tests.app.cli.bench.made import plan_of
from tests.app.cli.bench.scripted import (
    CHUNKED,
    INFORMED,
    Action,
    Ending,
    Script,
    Scripted,
    response,
)

SHORT: dict[str, Any] = {"duration_s": 0.15, "give_up_s": 5.0}
LOOPS: list[dict[str, Any]] = [{"clients": 2}, {"rate": 200, "arrivals": "constant"}]


def load(server: Scripted, **settings: Any) -> Report:
    """Run against the server, on the same event loop."""

    async def both() -> Report:
        async with server.serving():
            plan = plan_of(server.url, **{**SHORT, **settings})
            return report.make(plan, await process.drive(plan, lambda _progress: None))

    return asyncio.run(both())


def first(*actions: Action) -> Script:
    """These actions, then responses."""
    return lambda number: actions[number] if number < len(actions) else response()


@pytest.mark.parametrize("pace", LOOPS, ids=["closed", "open"])
@pytest.mark.parametrize(
    "answer",
    [
        response(),
        response(200, body=b"x" * 200_000),
        response(201, body=b""),
        CHUNKED,
        INFORMED,
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
    ids=["length", "long", "empty", "chunked", "informed", "no content"],
)
def test_every_form_of_an_answer_is_one_answer(answer: bytes, pace: dict[str, Any]) -> None:
    server = Scripted(lambda _number: answer)
    seen = load(server, **pace)
    assert (seen.failures, seen.refused.count) == ({}, 0)
    assert seen.ok.count == sum(seen.statuses.values()) == len(server.requests) > 1


def test_connections_are_reused() -> None:
    server = Scripted(first())
    seen = load(server, clients=3)
    assert server.connections == 3 < seen.ok.count


@pytest.mark.parametrize("pace", LOOPS, ids=["closed", "open"])
def test_a_server_that_closes_after_each_answer_fails_no_request(pace: dict[str, Any]) -> None:
    server = Scripted(lambda _number: response(200, "Connection: close"))
    seen = load(server, **pace)
    assert seen.failures == {}
    assert seen.ok.count == server.connections > 2


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_are_counted_apart(status: int) -> None:
    server = Scripted(lambda number: response(status if number % 2 else 200))
    seen = load(server)
    assert seen.statuses == {200: seen.ok.count, status: seen.refused.count}
    assert 0 <= seen.ok.count - seen.refused.count <= 1


def test_every_other_status_is_counted_too() -> None:
    seen = load(Scripted(first(response(500), response(400), response(504))))
    assert [seen.statuses[code] for code in (500, 400, 504)] == [1, 1, 1]
    assert seen.ok.count == seen.statuses[200]


@pytest.mark.parametrize("pace", LOOPS, ids=["closed", "open"])
@pytest.mark.parametrize(
    ("action", "failure"),
    [
        (Ending.RESET, "reset"),
        (Ending.CLOSE, "closed"),
        (Ending.CLOSE_HALFWAY, "closed"),
        (b"220 mail.example.org ESMTP\r\n", "garbage"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "garbage",
        ),
    ],
    ids=["reset", "closed", "halfway", "garbage", "upgrade"],
)
def test_a_broken_connection_is_counted_by_kind_and_the_load_goes_on(
    action: Action, failure: str, pace: dict[str, Any]
) -> None:
    seen = load(Scripted(first(response(), action)), **pace)
    assert seen.failures == {failure: 1}
    assert seen.ok.count > 1


def test_a_request_that_is_never_answered_times_out_and_the_load_ends() -> None:
    seen = load(Scripted(lambda _number: Ending.STALL), rate=100, connections=4, give_up_s=0.2)
    assert seen.ok.count == 0
    assert seen.failures["unanswered"] >= 4
    assert sum(seen.failures.values()) == seen.targets[0].requests


@pytest.mark.parametrize("pace", LOOPS, ids=["closed", "open"])
def test_a_server_that_dies_leaves_refusals_and_nothing_hangs(pace: dict[str, Any]) -> None:
    script = first(*[response()] * 5, Ending.SHUT_DOWN)
    seen = load(Scripted(script), **pace, duration_s=10 * PAUSE_S)
    assert seen.ok.count >= 5
    assert seen.failures["refused"] >= 1


def test_without_a_server_every_request_is_refused_and_the_run_ends() -> None:
    plan = plan_of("http://127.0.0.1:1", **SHORT, clients=4)
    seen = report.make(plan, process.measure(plan, print))
    assert (seen.ok.count, seen.statuses, set(seen.failures)) == (0, {}, {"refused"})
    assert seen.ok.p99_ms == 0


def test_a_host_without_an_address_is_an_error() -> None:
    with pytest.raises(BenchError, match=r"^http://nowhere.invalid: "):
        process.measure(plan_of("http://nowhere.invalid"), print)


def test_targets_share_the_load_by_weight() -> None:
    targets = [Target("a", 1, 1.0), Target("b", 4, 3.0)]
    seen = load(Scripted(first()), targets=targets, clients=1)
    a, b = (each.ok.count for each in seen.targets)
    assert a + b == seen.ok.count
    assert 1 < b / a < 9
    assert seen.rows_per_s * SHORT["duration_s"] == pytest.approx(a + 4 * b)


def test_progress_is_reported_from_the_start() -> None:
    seen: list[Progress] = []

    async def both(server: Scripted) -> Plan:
        async with server.serving():
            plan = plan_of(server.url, **SHORT)
            await process.drive(plan, seen.append)
            return plan

    asyncio.run(both(Scripted(first())))
    assert (seen[0].completed, seen[0].failed) == (0, 0)
