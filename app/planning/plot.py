"""The latencies of several policies in one picture, by percentile.

May touch: matplotlib when it draws, without a display; a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.errors import ConfigError
from engine.simulate import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK: Final = "#1f2933"
FAINT: Final = "#8a94a0"
GRID: Final = "#e4e8ec"
LIMIT: Final = "#b2182b"
COLORS: Final = ("#2166ac", "#e08214", "#5aae61", "#9970ab", "#c51b7d", "#80745b", "#35978f")
"""One for each policy, in the order in which they are asked for."""

NINES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
"""Percentiles with a line of their own. The axis is 1 / (1 - share), so each nine is as wide."""

POINTS: Final = 600
"""Points of a curve."""

SMALL: Final = 12
"""A range of latencies below this ratio has evenly spaced numbers beside it."""

LEGEND_LINES: Final = 3


def require() -> None:
    """Raises `ConfigError` where there is nothing to draw with."""
    if find_spec("matplotlib") is None:
        raise ConfigError("--plot", None, "matplotlib: pip install 'brim[bench]'")


def draw(path: Path, said: str, results: Mapping[str, Result], slo_ms: float) -> None:
    """Write the picture; the ending of `path` says in which format.

    Only answers have a latency: what was refused or expired is in the legend, not in the curve.
    Raises `ConfigError` for a path or format that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes)
    axes.set_title(said, loc="left", fontsize=12, weight="bold", color=INK, pad=40)
    axes.text(
        0, 1.045, "latency by percentile, ms", fontsize=9, color=FAINT, transform=axes.transAxes
    )
    most = max([result.answered for result in results.values()] + [100])
    shown = [p for p in NINES if 100 / (100 - p) <= most]
    for color, (policy, result) in zip(COLORS, results.items(), strict=False):
        if result.answered:
            x, y = curve(result)
            axes.plot(x, y, color=color, linewidth=2, label=_label(policy, result))
    axes.set_xlim(1, most * 1.05)
    axes.set_xticks([100 / (100 - p) for p in shown], [f"{p:g} %" for p in shown])
    _limit(axes, slo_ms)
    _ticks(axes)
    drawn = sum(bool(result.answered) for result in results.values())
    if drawn:
        _legend(axes, drawn)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError("--plot", str(path), f"a file to draw: {error}") from None


def curve(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """1 / (1 - share) and milliseconds: [N] each, N at most `POINTS`; somebody was answered."""
    latencies = np.sort(np.asarray(result.latencies)) * 1e3
    count = len(latencies)
    x = np.unique(np.geomspace(1, count, POINTS))
    places = np.minimum((count * (1 - 1 / x)).astype(np.intp), count - 1)
    return x, latencies[places]


def _label(policy: str, result: Result) -> str:
    total = result.answered + result.refused + result.expired
    lost = 1 - result.answered / total
    return policy if not lost else f"{policy}  ({lost:.1%} not answered)"


def _style(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=9, length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(LogLocator(subs=()))


def _ticks(axes: Axes) -> None:
    """0.5, 1, 2, 5, 10 and so on instead of powers; more of them where the range is small."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    low, high = axes.get_ylim()
    small = high / low < SMALL
    axes.yaxis.set_major_locator(MaxNLocator(8) if small else LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.6g}"))
    axes.set_ylim(low, high)


def _legend(axes: Axes, entries: int) -> None:
    """Above, at the right, where it hides nothing."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=-(-entries // LEGEND_LINES),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.4,
        columnspacing=1.4,
    )


def _limit(axes: Axes, slo_ms: float) -> None:
    axes.axhline(slo_ms, color=LIMIT, linewidth=1, linestyle=(0, (4, 3)))
    right = axes.get_xlim()[1]
    axes.text(right, slo_ms, "SLO ", fontsize=9, color=LIMIT, ha="right", va="bottom")
