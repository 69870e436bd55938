"""`brim simulate`: what a server would do under a load, with Brim's policy and with others'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Column, Table

from app.cli.common import COUNT, OUT, POSITIVE, install, short, table
from app.cli.planning import cost_tables, options
from app.cli.planning.options import WARMUP, Workload
from engine import api

MIN_0: Final = click.FloatRange(0)
PART: Final = click.FloatRange(0, 1, max_open=True)


@dataclass(frozen=True, slots=True)
class _ClosedLoop:
    """Each client sends its next request after its last response; ends after about `requests`."""

    clients: api.Clients
    requests: int

    @property
    def description(self) -> str:
        turnaround_ms = self.clients.turnaround_s * 1e3
        return f"closed loop of {self.clients.number} clients, turnaround {turnaround_ms:g} ms"

    def run(self, scenario: api.Scenario) -> api.Result:
        """Simulate as long as the fastest possible server needs for `requests`."""
        seconds = self.requests / api.closed_loop_bound(scenario.seconds, self.clients)
        return replace(scenario, warmup_s=WARMUP * seconds).run_closed(self.clients, seconds)

    def replicas(self, scenario: api.Scenario) -> None:
        """Unknown: the clients of a closed loop send less to a slow server."""


@click.command(params=[*options.OPTIONS], context_settings={"show_default": True})
@click.option("--clients", type=COUNT, help="Clients of a closed loop, not a trace.")
@click.option(
    "--turnaround-ms", type=MIN_0, default=1.0, help="A client's mean pause, closed loop."
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(api.POLICIES),
    default=(api.BRIM,),
    help="Batching policy. Repeat the option to compare several.",
)
@click.option("--slo-ms", type=POSITIVE, default=500.0, help="Latency goal of 99 % of requests.")
@click.option("--timeout-ms", type=POSITIVE, help="Deadline of a request.  [default: --slo-ms]")
@click.option(
    "--max-wait-ms",
    type=MIN_0,
    help="The longest that a policy waits for more requests.  [default: brim 10, others 2]",
)
@click.option("--noise", type=PART, default=0.0, help="Vary execution times by up to this part.")
@click.option("--plot", "picture", type=OUT, help="Draw the latencies as PNG, SVG or PDF.")
@click.option("--out", type=OUT, help="Write the figures as JSON.")
def simulate(
    *, policies: tuple[str, ...], slo_ms: float, picture: Path | None, out: Path | None, **rest: Any
) -> None:
    """Simulate a load on measured bucket costs.

    It runs the server's own scheduler. The first tenth of a generated trace is not counted.
    """
    console = Console(highlight=False)
    if picture is not None and find_spec("matplotlib") is None:
        raise api.ConfigError("--plot", None, f"matplotlib: {install('bench')}")
    traffic, scenario = _read(slo_ms=slo_ms, **rest)
    results, outcomes = _compare(traffic, scenario, policies)
    console.print(f"\n  {traffic.description}; SLO {slo_ms:g} ms\n", soft_wrap=True)
    console.print(_table(outcomes))
    console.print()
    if out is not None:
        content = {"trace": traffic.description, "slo_ms": slo_ms, "policies": outcomes}
        cost_tables.save(out, content)
    if picture is not None:
        from app.cli.charts import draw_policies  # its imports take a second

        draw_policies(picture, traffic.description, results, slo_ms)


def _read(
    clients: int | None,
    turnaround_ms: float,
    slo_ms: float,
    timeout_ms: float | None,
    max_wait_ms: float | None,
    noise: float,
    **shared: Any,
) -> tuple[Workload | _ClosedLoop, api.Scenario]:
    if clients is not None and any(shared[name] is not None for name in ("trace", "rate", "load")):
        raise click.UsageError("--clients is a closed loop: leave out --trace, --rate and --load")
    workload = options.read(**shared)
    traffic: Workload | _ClosedLoop = workload
    if clients is not None:
        rows, lengths = workload.shape.rows[0], workload.shape.lengths
        loop = api.Clients(clients, turnaround_ms / 1e3, rows=rows, lengths=lengths)
        traffic = _ClosedLoop(loop, workload.requests)
    return traffic, api.Scenario(
        workload.seconds,
        timeout_s=(slo_ms if timeout_ms is None else timeout_ms) / 1e3,
        slo_s=slo_ms / 1e3,
        max_wait_s=None if max_wait_ms is None else max_wait_ms / 1e3,
        noise=noise,
        seed=shared["seed"],
    )


def _compare(
    traffic: Workload | _ClosedLoop, scenario: api.Scenario, policies: Sequence[str]
) -> tuple[Mapping[str, api.Result], Sequence[Mapping[str, Any]]]:
    results, outcomes = {}, []
    with Console(stderr=True).status("") as status:
        for policy in dict.fromkeys(policies):
            status.update(f"{policy}: simulating")
            own = replace(scenario, policy=policy)
            results[policy] = traffic.run(own)
            status.update(f"{policy}: searching the number of replicas")
            replicas = traffic.replicas(own)
            outcomes.append(outcome(policy, results[policy], replicas))
    return results, outcomes


def outcome(policy: str, result: api.Result, replicas: int | None) -> dict[str, Any]:
    """One policy's figures. Percentiles are those of answered requests, None without one."""
    latencies = [latency * 1e3 for latency in result.percentiles(0.5, 0.99, 0.999)]
    percentiles = latencies if result.answered else [None] * 3
    return {
        "policy": policy,
        **dict(zip(("p50_ms", "p99_ms", "p999_ms"), percentiles, strict=True)),
        "goodput_per_s": result.goodput,
        "answered": result.answered,
        "refused": result.refused,
        "expired": result.expired,
        "fill": result.fill,
        "utilisation": result.utilisation,
        "replicas": replicas,
    }


def _table(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    first = Column("  policy", style="bold")
    headings = ("p50 ms", "p99 ms", "p99.9 ms", "goodput/s", "refused", "expired", "fill", "busy")
    # this padding fits ten columns into 80 characters
    rows = table(first, *headings, "replicas", padding=(0, 1, 0, 0))
    for each in outcomes:
        total = max(1, each["answered"] + each["refused"] + each["expired"])
        rows.add_row(
            f"  {each['policy']}",
            *(short(each[key]) for key in ("p50_ms", "p99_ms", "p999_ms", "goodput_per_s")),
            f"{each['refused'] / total:.2%}",
            f"{each['expired'] / total:.2%}",
            f"{each['fill']:.2f}",
            f"{each['utilisation']:.0%}",
            str(each["replicas"] or "-"),
        )
    return rows
