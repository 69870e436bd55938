"""Plans and reports that several tests make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from app.cli.bench import report
from app.cli.bench.plan import EncodedRequest, Plan, Settings, Target
from app.cli.bench.report import Report, Samples

REQUEST = b"POST /v2/models/x/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
TARGET = Target("x")


def plan_of(
    url: str = "http://127.0.0.1:1", targets: Sequence[Target] = (TARGET,), **settings: Any
) -> Plan:
    """A plan that sends the same bytes to each target; without warm-up, unless given."""
    if "clients" not in settings and "rate" not in settings:
        settings["clients"] = 1
    fields = {"warmup_s": 0.0, "duration_s": 10.0, **settings}
    requests = tuple(EncodedRequest(target, REQUEST) for target in targets)
    return Plan(Settings(url, **fields), requests)


def report_of(
    *ended: tuple[int, int, float, float],
    plan: Plan | None = None,
    lags: Sequence[float] = (),
    core: float = 0.1,
) -> Report:
    """From (request, outcome, intended, latency), in the order in which they ended."""
    plan = plan or plan_of()
    begin = plan.settings.warmup_s
    samples = Samples(begin, begin + plan.settings.duration_s)
    for request, outcome, intended, latency in ended:
        samples.record(request, outcome, intended, intended + latency)
    for lag in lags:
        samples.record_lag(begin, begin + lag)
    samples.core = core
    return report.make(plan, samples)


def read(text: bytes) -> Report:
    """The report whose JSON this is."""
    return msgspec.json.decode(text, type=Report)
