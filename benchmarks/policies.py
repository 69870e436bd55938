"""Brim's policy against those of other servers, simulated.

    python -m benchmarks.policies [--measure]        # writes benchmarks/policies.md

On three cost tables, two of them measured on this machine (`--measure` measures them again, into
benchmarks/costs/), under three kinds of arrivals and four loads. In every cell all policies get the
same trace and the same buckets. It is repeated with other seeds; the median of the ratios, each of
two policies on one seed, is shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Final

from rich.console import Console

from app import settings
from app.cli.planning import cost_tables
from app.cli.planning.cost_tables import measure
from benchmarks.policy_cells import (
    BURSTS,
    CASES,
    CLIENTS,
    HERE,
    KINDS,
    LOADS,
    NOISE,
    REQUESTS,
    SEEDS,
    TURNAROUND_S,
    WARMUP,
    Case,
    Cell,
    Run,
    Seen,
    million,
    run,
)
from engine.models.config import ModelConfig, Source
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import Cost, CostTable
from engine.simulation.scenario import BRIM, POLICIES

NEAR: Final = 1.02
BETTER: Final = 1.2
"""A policy is near the best within this, and clearly better beyond that."""

MOST: Final = 99
"""A larger ratio is not a number worth printing."""

MEASURED: Final = 16
"""Times that a model is brought up. Disturbances make a measurement longer, so the shortest of a
bucket's medians is taken."""

# --- measuring ------------------------------------------------------------------------------------


def measured() -> dict[str, ModelConfig]:
    """The models whose costs are measured, by the name of their file."""
    demo = settings.load(HERE.parent / "configs" / "demo.toml").models
    encoder = next(config for config in demo if config.name == "minilm")
    return {
        "mlp-cpu": ModelConfig(
            name="mlp",
            source=Source(factory="benchmarks.mlp:create"),
            rows=(1, 2, 4, 8, 16, 32, 64),
        ),
        "encoder-cpu": replace(encoder, rows=(1, 2, 4, 8, 16, 32), lengths=(32,)),
    }


def measure_all() -> None:
    """Bring both models up several times, alternating, and keep each bucket's shortest median."""
    configs = measured()
    found: dict[str, list[Sequence[Cost]]] = {key: [] for key in configs}
    for _ in range(MEASURED):
        for key, config in configs.items():
            found[key].append(measure(config, Console(stderr=True)))
    for key, runs in found.items():
        lines = zip(*runs, strict=True)
        seconds = {
            Bucket(same[0].rows, same[0].length): min(cost.seconds for cost in same)
            for same in lines
        }
        table = CostTable(seconds).lines()
        cost_tables.write(HERE / "costs" / f"{key}.json", configs[key].name, table)


# --- writing --------------------------------------------------------------------------------------

HEAD: Final = f"""# Brim's policy against others, simulated

    python -m benchmarks.policies            # --measure measures the two CPU tables again

All policies see the same buckets, the same costs (varied evenly by {NOISE:.0%} to both sides), the
same trace of {REQUESTS:,} requests of one row, and the same deadlines; the first {WARMUP:.0%} is
not counted. Every cell is run with {len(SEEDS)} seeds. A ratio is that of two policies on one seed,
and the median over the seeds is shown: the p99s of two seeds differ by more than policies do, their
ratios hardly.

- **window**: a batch is launched when it is full, or its oldest row has waited for 2 ms, a usual
  setting. **idle**: as soon as the device is free, the largest bucket that can be filled. **pad**:
  the same with all queued rows, padded up. **greedy**: TensorFlow Serving's rule for padding.
  **aimd**: Clipper's. **linear**: BentoML's. `engine/simulation/rules.py` describes each. They drop
  requests past their deadlines before they cost anything; only Brim refuses requests on arrival.
- **load** is the rate by the capacity: the rows/s of the best bucket, always full. In a closed
  loop, the number of clients by {CLIENTS} times the rows of the best bucket; the turnaround is
  {TURNAROUND_S * 1e3:g} ms. Bursts take a fifth of the time, and on average {BURSTS:.0%} of the
  deadline each.
- **bound**: for the p99, a device that executes every row at the best bucket's rate and never waits
  for a batch, which no first-come-first-served policy improves on that answers every request;
  beyond the deadline it means nothing. For goodput, the offered rate or the capacity, and in a
  closed loop also the rate of clients whose requests are all served alone and at once.

In an open trace below capacity the p99 of answered requests is compared, and goodput (answers
before their deadline, per second) must not be lost for it; in closed loops and above capacity
goodput is. It is in bold. Where no other policy answers in time, Brim's is more than {MOST} times
as good.
"""


def write(runs: Mapping[Cell, Sequence[Run]], took_s: float) -> str:
    """The whole page."""
    parts = [HEAD, summary(runs)]
    for case in CASES:
        parts.append(f"## {case.name}\n\nDeadline {case.deadline_s * 1e3:g} ms. {costs(case)}\n")
        parts.append(ratios({c: r for c, r in runs.items() if c.case == case}))
    parts.append(
        "## Every policy\n\np99 of the answered in ms, and goodput in answers/s; medians.\n"
    )
    parts.append(everything(runs))
    parts.append(
        "## How fast it simulates\n\nA million Poisson requests at 0.6 of the MLP's capacity, "
        f"under Brim's policy: {took_s:.0f} s on one core."
    )
    return "\n".join(parts) + "\n"


def costs(case: Case) -> str:
    """The table in a line."""
    each = (f"{bucket} {seconds * 1e3:.3g}" for bucket, seconds in case.seconds.items())
    return f"ms a bucket: {', '.join(each)}."


def verdict(cell: Cell, runs: Sequence[Run], other: str | None = None) -> float:
    """How many times as good as the best other policy, or as a given one; 1 is equal."""
    if cell.by_p99:
        return 1 / statistics.median(r.p99(other or r.best(by_p99=True)) for r in runs)
    return statistics.median(r.goodput(other or r.best(by_p99=False)) for r in runs)


def summary(runs: Mapping[Cell, Sequence[Run]]) -> str:
    """How many cells are won, and the list of those that are not."""
    against_best = {cell: verdict(cell, each) for cell, each in runs.items()}
    against_window = {cell: verdict(cell, each, "window") for cell, each in runs.items()}
    lost = [cell for cell, each in runs.items() if loses(cell, each)]
    better = sum(value >= BETTER for value in against_window.values())
    lines = [
        "## Summary\n",
        f"- In **{len(runs) - len(lost)} of {len(runs)}** cells Brim is within 2 % of the best",
        "  of the others, or better.",
        f"- In **{better} of {len(runs)}** it is at least 20 % better than the fixed window.",
        f"- Against the best of the others: {spread(against_best.values())};",
        f"  against the window: {spread(against_window.values())}.",
        "\nWhere it loses more than 2 % of what is compared:\n",
    ]
    lines += [losing(cell, runs[cell]) for cell in lost] or ["- nowhere."]
    other = {
        cell: each
        for cell, each in runs.items()
        if not cell.by_p99 and statistics.median(r.p99(r.best(by_p99=True)) for r in each) > NEAR
    }
    lines.append(
        "\nIn closed loops and above capacity the p99 is not compared, because a policy that\n"
        "answers fewer requests can answer those sooner. There it is more than 2 % above the\n"
        f"lowest p99 of the others in {len(other)} cells:\n"
    )
    lines += [trade(cell, each) for cell, each in other.items()]
    return "\n".join(lines) + "\n"


def spread(values: Iterable[float]) -> str:
    """The worst, the median and the best."""
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return f"worst {ordered[0]:.2f}, median {middle:.2f}, best {times(ordered[-1])} times as good"


def times(ratio: float) -> str:
    """A ratio with two digits after the point."""
    return f"{ratio:.2f}" if ratio <= MOST else f"> {MOST}"


def loses(cell: Cell, runs: Sequence[Run]) -> bool:
    """Is the best other policy more than 2 % better in what is compared, or in goodput?"""
    goodput = statistics.median(r.goodput(r.best(by_p99=False)) for r in runs)
    return min(verdict(cell, runs), goodput) < 1 / NEAR


def losing(cell: Cell, runs: Sequence[Run]) -> str:
    """One line of the list of losses: every seed."""
    by_p99 = cell.by_p99 and verdict(cell, runs) < 1 / NEAR
    each = (
        1 / r.p99(r.best(by_p99=True)) if by_p99 else r.goodput(r.best(by_p99=False)) for r in runs
    )
    names = ", ".join(dict.fromkeys(one.best(by_p99=by_p99) for one in runs))
    seeds = ", ".join(f"{value:.3f}" for value in each)
    what = "p99" if by_p99 else "goodput"
    where = f"{cell.case.name}, {cell.kind}, load {cell.load}"
    return f"- {where}: {what} {seeds} times as good as {names}."


def trade(cell: Cell, runs: Sequence[Run]) -> str:
    """A policy with a lower p99, and its goodput."""
    one = sorted(runs, key=lambda r: r.p99(r.best(by_p99=True)))[len(runs) // 2]
    name = one.best(by_p99=True)
    return (
        f"- {cell.case.name}, {cell.kind}, load {cell.load}: p99 {one.seen[BRIM].p99:.3g} ms, "
        f"{name} {one.seen[name].p99:.3g} ms; goodput {one.seen[BRIM].goodput:,.0f}/s, "
        f"{name} {one.seen[name].goodput:,.0f}/s."
    )


def ratios(runs: Mapping[Cell, Sequence[Run]]) -> str:
    """One case: Brim, the best other policy, the window, and the bound."""
    lines = [
        "| arrivals | load | p99 ms | by best | by window | good/s | by best | by window | bound |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for cell, each in runs.items():
        ours = middle(each, BRIM)
        figures = [
            times(statistics.median(ratio))
            for ratio in (
                [r.p99(r.best(by_p99=True)) for r in each],
                [r.p99("window") for r in each],
                [r.goodput(r.best(by_p99=False)) for r in each],
                [r.goodput("window") for r in each],
            )
        ]
        compared = 0 if cell.by_p99 else 2
        figures[compared] = f"**{figures[compared]}**"
        lines.append(
            f"| {cell.kind} | {cell.load} | {ours.p99:.3g} "
            f"| {figures[0]} {name(each, by_p99=True)} | {figures[1]} | {ours.goodput:,.0f} "
            f"| {figures[2]} {name(each, by_p99=False)} | {figures[3]} | {bound(cell, each)} |"
        )
    return "\n".join(lines) + "\n"


def bound(cell: Cell, runs: Sequence[Run]) -> str:
    """Milliseconds or answers/s, if it means anything."""
    value = statistics.median(r.bound for r in runs)
    if not cell.by_p99:
        return f"{value:,.0f}/s"
    return f"{value:.3g} ms" if value < cell.case.deadline_s * 1e3 else ""


def name(runs: Sequence[Run], *, by_p99: bool) -> str:
    """The best other policy on most seeds."""
    return statistics.mode(r.best(by_p99=by_p99) for r in runs)


def middle(runs: Sequence[Run], policy: str) -> Seen:
    """The medians of one policy."""
    seen = [r.seen[policy] for r in runs]
    return Seen(
        statistics.median(s.p50 for s in seen),
        statistics.median(s.p99 for s in seen),
        statistics.median(s.goodput for s in seen),
    )


def everything(runs: Mapping[Cell, Sequence[Run]]) -> str:
    """One line a cell, one column a policy."""
    lines = [
        f"| case | arrivals | load | {' | '.join(POLICIES)} |",
        f"|---|---|--:|{'--:|' * len(POLICIES)}",
    ]
    for cell, each in runs.items():
        seen = (middle(each, policy) for policy in POLICIES)
        figures = " | ".join(f"{s.p99:.3g}, {s.goodput:,.0f}" for s in seen)
        lines.append(f"| {cell.case.key or 'gpu-like'} | {cell.kind} | {cell.load} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure if asked, simulate every cell, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure the CPU tables again")
    options = parser.parse_args()
    if options.measure:
        measure_all()
    cells = [Cell(case, kind, load) for case in CASES for kind in KINDS for load in LOADS]
    jobs = [(cell, seed) for cell in cells for seed in SEEDS]
    started = time.perf_counter()
    runs: dict[Cell, list[Run]] = {cell: [] for cell in cells}
    with ProcessPoolExecutor(2) as pool:
        done = pool.map(run, *zip(*jobs, strict=True))
        for (cell, seed), result in zip(jobs, done, strict=True):
            runs[cell].append(result)
            if seed == SEEDS[-1]:
                print(
                    f"{cell.case.name}, {cell.kind}, {cell.load}: {verdict(cell, runs[cell]):.3f}"
                )
    print(f"{time.perf_counter() - started:.0f} s")
    page = write(runs, million())
    (HERE / "policies.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
