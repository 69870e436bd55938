"""Plans and reports that several tests make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.bench import report
from app.bench.plan import Plan, Settings, Shot, Target
from app.bench.report import Report
from app.bench.runner import Seen
from app.bench.tally import Tally

REQUEST = b"POST /v2/models/x/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
TARGET = Target("x")


def plan_of(
    url: str = "http://127.0.0.1:1", targets: Sequence[Target] = (TARGET,), **settings: Any
) -> Plan:
    """Each target's request is as good as any other's. No warm-up unless there should be one."""
    if "clients" not in settings and "rate" not in settings:
        settings["clients"] = 1
    fields = {"warmup_s": 0.0, "duration_s": 10.0, **settings}
    return Plan(Settings(url, **fields), tuple(Shot(target, REQUEST) for target in targets))


def report_of(
    *samples: tuple[int, int, float, float],
    plan: Plan | None = None,
    lags: Sequence[float] = (),
    core: float = 0.1,
) -> Report:
    """Of samples (shot, outcome, intended, latency), in the order in which they ended."""
    plan = plan or plan_of()
    begin = plan.settings.warmup_s
    tally = Tally(begin, begin + plan.settings.duration_s)
    for shot, outcome, intended, latency in samples:
        tally.ended(shot, outcome, intended, intended + latency)
    for lag in lags:
        tally.late(begin, begin + lag)
    return report.make(plan, Seen(tally, core))
