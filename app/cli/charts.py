"""How charts look, and the chart of policies that `brim simulate` compares.

Its imports need the extra `bench` and take a second: commands import it when they draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from engine.api import ConfigError, Result

INK: Final = "#1f2933"
FAINT: Final = "#8a94a0"
GRID: Final = "#e4e8ec"
LIMIT: Final = "#b2182b"
OK: Final = "#2166ac"
P50: Final = "#67a9cf"
REFUSED: Final = "#e08214"
POLICIES: Final = (OK, REFUSED, "#5aae61", "#9970ab", "#c51b7d", "#80745b", "#35978f")
"""One color for each policy, in the order of the options."""

POINTS: Final = 600
"""Points of a policy's curve, at most."""

PERCENTILES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
"""Labels of the percentile axis. Its scale is log of 1 / (1 - share), so each nine is as wide."""

SMALL, LARGE = 12, 1000
"""Ratios of the ends of a log axis: below SMALL its labels are even, from LARGE powers of ten."""


def draw_policies(path: Path, title: str, results: Mapping[str, Result], slo_ms: float) -> None:
    """Write the chart; the suffix of `path` selects the format.

    Curves show answered requests only; the legend has the share of the others. Raises `ConfigError`
    for a path or format that cannot be written.
    """
    figure = Figure(figsize=(11, 6.2), dpi=150, facecolor="white", layout="constrained")
    _policies(figure.add_subplot(), title, results, slo_ms)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError("--plot", str(path), f"a file to draw: {error}") from None


def _policies(axes: Axes, title: str, results: Mapping[str, Result], slo_ms: float) -> None:
    style(axes, title, fontsize=12, weight="bold", pad=40)
    axes.set_yscale("log")
    subtitle = "latency by percentile, ms"
    axes.text(0, 1.045, subtitle, fontsize=9, color=FAINT, transform=axes.transAxes)
    for color, (policy, result) in zip(POLICIES, results.items(), strict=False):
        if result.answered:
            lost = 1 - result.answered / (result.answered + result.refused + result.expired)
            label = f"{policy}  ({lost:.1%} not answered)" if lost else policy
            axes.plot(*curve(result), color=color, linewidth=2, label=label)
    most = max(100, *(result.answered for result in results.values()))
    percentile_axis(axes, most, 1.05)
    limit_line(axes, slo_ms, "SLO")
    plain_labels(axes)
    legend(axes, lines=3)


def curve(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """1 / (1 - share) and milliseconds: [N] each, N at most `POINTS`. Needs an answered request."""
    latencies = np.sort(np.asarray(result.latencies)) * 1e3
    count = len(latencies)
    x = np.unique(np.geomspace(1, count, POINTS))
    index = np.minimum((count * (1 - 1 / x)).astype(np.intp), count - 1)
    return x, latencies[index]


def style(axes: Axes, title: str, pad: int = 8, **font: Any) -> None:
    """A title, a grid behind the data, and no frame except the bottom line."""
    axes.set_title(title, loc="left", color=INK, pad=pad, **{"fontsize": 10, **font})
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=9, length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _hide_minor_ticks(axis: Axis) -> None:
    """Labels and grid lines at the major ticks only."""
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(LogLocator(subs=()))


def percentile_axis(axes: Axes, count: int, margin: float) -> None:
    """Make x the percentiles of `count` latencies, up to `margin` times 1 / (1 - share)."""
    labels = [p for p in PERCENTILES if 100 / (100 - p) <= count]
    axes.set_xscale("log")
    axes.set_xlim(1, count * margin)
    axes.set_xticks([100 / (100 - p) for p in labels], [f"{p:g} %" for p in labels])
    _hide_minor_ticks(axes.xaxis)


def plain_labels(axes: Axes) -> None:
    """Label a log y axis 0.5, 1, 2, 5 and so on; evenly if its range is small, by tens if large."""
    low, high = axes.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < LARGE else (1.0,)
    axes.yaxis.set_major_locator(MaxNLocator(8) if high / low < SMALL else LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    _hide_minor_ticks(axes.yaxis)
    axes.set_ylim(low, high)


def limit_line(axes: Axes, value: float, name: str) -> None:
    """A dashed line that latencies should stay below, labelled at its right end."""
    axes.axhline(value, color=LIMIT, linewidth=1, linestyle=(0, (4, 3)))
    right = axes.get_xlim()[1]
    axes.text(right, value, f"{name} ", fontsize=9, color=LIMIT, ha="right", va="bottom")


def legend(axes: Axes, lines: int = 1) -> None:
    """A legend above the axes at the right, where it hides no data; none without a curve."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    axes.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.2,
        ncols=-(-len(handles) // lines),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.3,
        columnspacing=1.3,
    )
