"""`brim simulate`: what would happen, under this policy and under those of other servers.

May touch: click, the terminal, files that somebody named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import click
from rich.console import Console
from rich.table import Table

from app import hosting
from app.planning import options, plot, tables
from app.planning.options import OUT, WARMUP, Planned, planned
from engine.errors import ConfigError
from engine.scenario import BRIM, POLICIES, Scenario, closed_loop_bound
from engine.simulate import Result, replicas_needed
from engine.traces import Clients, split

SIZING: Final = 50_000
"""Requests of the trace that the search for the number of replicas looks at."""

WHOLE: Final = 100
"""Figures from here on have no digits after the point."""


class Traffic(Protocol):
    """Who sends."""

    @property
    def said(self) -> str:
        """In words."""

    def run(self, scenario: Scenario) -> Result:
        """Against one server."""

    def replicas(self, scenario: Scenario, slo_s: float) -> int | None:
        """How many servers answer 99 % within `slo_s`; None if none do, or nobody can say."""


@dataclass(frozen=True, slots=True)
class Open:
    """They send whatever the server does."""

    plan: Planned

    @property
    def said(self) -> str:
        """In words."""
        return self.plan.said

    def run(self, scenario: Scenario) -> Result:
        """The whole trace."""
        return replace(scenario, warmup_s=self.plan.warmup_s).run(self.plan.trace())

    def replicas(self, scenario: Scenario, slo_s: float) -> int | None:
        """The trace's beginning, dealt out in turn."""
        return replicas_needed(
            lambda number: scenario.run(split(islice(self.plan.trace(), SIZING), number)), slo_s
        )


@dataclass(frozen=True, slots=True)
class Closed:
    """Each sends its next request when it has its answer. Runs until about `requests` are sent."""

    clients: Clients
    requests: int

    @property
    def said(self) -> str:
        """In words."""
        return (
            f"closed loop of {self.clients.number} clients, "
            f"turnaround {self.clients.turnaround_s * 1e3:g} ms"
        )

    def run(self, scenario: Scenario) -> Result:
        """As long as the fastest server would need for so many requests."""
        seconds = self.requests / closed_loop_bound(scenario.seconds, self.clients)
        return replace(scenario, warmup_s=WARMUP * seconds).run_closed(self.clients, seconds)

    def replicas(self, scenario: Scenario, slo_s: float) -> None:
        """Clients who wait for their answers send less to a slow server: nothing to size."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the comparison."""

    policy: str
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    goodput_per_s: float
    answered: int
    refused: int
    expired: int
    fill: float
    utilisation: float
    replicas: int | None

    @classmethod
    def of(cls, policy: str, result: Result, replicas: int | None) -> Outcome:
        """The figures of one run. Percentiles are of those who were answered."""
        latencies = [latency * 1e3 for latency in result.percentiles(0.5, 0.99, 0.999)]
        p50, p99, p999 = latencies if result.answered else (None, None, None)
        return cls(
            policy,
            p50,
            p99,
            p999,
            result.goodput,
            result.answered,
            result.refused,
            result.expired,
            result.fill,
            result.utilisation,
            replicas,
        )


@click.command()
@planned
@click.option("--clients", type=click.IntRange(1), help="A closed loop of so many, no --trace.")
@click.option(
    "--turnaround-ms",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="A client's mean time from an answer to its next request.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES),
    default=(BRIM,),
    show_default=True,
    help="Who batches. Several are compared.",
)
@click.option(
    "--slo-ms",
    type=click.FloatRange(0, min_open=True),
    default=500.0,
    show_default=True,
    help="99 % are to be answered within this.",
)
@click.option(
    "--timeout-ms",
    type=click.FloatRange(0, min_open=True),
    help="Every request's deadline.  [default: the SLO]",
)
@click.option(
    "--max-wait-ms",
    type=click.FloatRange(0),
    help="brim: the longest hold, else 10. Others: the longest wait for company, else 2.",
)
@click.option(
    "--noise",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="By which part an execution is longer or shorter than the table says.",
)
@click.option("--plot", "picture", type=OUT, help="Draw the latencies, as PNG, SVG or PDF.")
@click.option("--out", type=OUT, help="Write the figures as JSON.")
def simulate(
    *,
    clients: int | None,
    turnaround_ms: float,
    policies: tuple[str, ...],
    slo_ms: float,
    timeout_ms: float | None,
    max_wait_ms: float | None,
    noise: float,
    picture: Path | None,
    out: Path | None,
    **rest: Any,
) -> None:
    """Run a trace against a cost table, with the very policy that serves.

    The first tenth of a made-up trace is simulated and not counted.
    """
    if clients is not None and any(rest[name] is not None for name in ("trace", "rate", "load")):
        raise click.UsageError("--clients is a closed loop: no --trace, --rate, --load")
    console = Console(highlight=False)
    try:
        if picture is not None:
            plot.require()
        plan = options.read(**rest)
        traffic: Traffic = Open(plan)
        if clients is not None:
            rows, lengths = plan.shape.rows[0], plan.shape.lengths
            loop = Clients(clients, turnaround_ms / 1e3, rows=rows, lengths=lengths)
            traffic = Closed(loop, plan.requests)
        scenario = Scenario(
            plan.seconds,
            timeout_s=(slo_ms if timeout_ms is None else timeout_ms) / 1e3,
            slo_s=slo_ms / 1e3,
            max_wait_s=None if max_wait_ms is None else max_wait_ms / 1e3,
            noise=noise,
            seed=rest["seed"],
        )
        results, outcomes = _compare(traffic, scenario, policies)
        console.print(f"\n  {traffic.said}; SLO {slo_ms:g} ms\n", soft_wrap=True)
        console.print(_table(outcomes))
        console.print()
        if out is not None:
            said = {"trace": traffic.said, "slo_ms": slo_ms}
            content = said | {"policies": [asdict(outcome) for outcome in outcomes]}
            tables.save(out, json.dumps(content, indent=1) + "\n")
        if picture is not None:
            plot.draw(picture, traffic.said, results, slo_ms)
    except ConfigError as error:
        hosting.refuse(error)


def _compare(
    traffic: Traffic, scenario: Scenario, policies: Sequence[str]
) -> tuple[Mapping[str, Result], Sequence[Outcome]]:
    results, outcomes = {}, []
    with Console(stderr=True).status("") as status:
        for policy in dict.fromkeys(policies):
            status.update(f"{policy}: simulating")
            mine = replace(scenario, policy=policy)
            results[policy] = traffic.run(mine)
            status.update(f"{policy}: how many replicas?")
            replicas = traffic.replicas(mine, mine.objective_s)
            outcomes.append(Outcome.of(policy, results[policy], replicas))
    return results, outcomes


def _table(outcomes: Sequence[Outcome]) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))  # ten columns in 80 characters
    shown.add_column("  policy", style="bold")
    headings = "p50 ms,p99 ms,p99.9 ms,goodput/s,refused,expired,fill,busy,replicas"
    for heading in headings.split(","):
        shown.add_column(heading, justify="right")
    for outcome in outcomes:
        total = max(1, outcome.answered + outcome.refused + outcome.expired)
        shown.add_row(
            f"  {outcome.policy}",
            *(_short(value) for value in (outcome.p50_ms, outcome.p99_ms, outcome.p999_ms)),
            _short(outcome.goodput_per_s),
            f"{outcome.refused / total:.2%}",
            f"{outcome.expired / total:.2%}",
            f"{outcome.fill:.2f}",
            f"{outcome.utilisation:.0%}",
            "-" if outcome.replicas is None else str(outcome.replicas),
        )
    return shown


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= WHOLE else f"{value:.3g}"
