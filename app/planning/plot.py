"""The latencies of several policies in one picture, by percentile.

May touch: matplotlib when it draws, without a display; a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from app import chart
from app.chart import FAINT, INK
from engine.errors import ConfigError
from engine.simulate import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS: Final = ("#2166ac", "#e08214", "#5aae61", "#9970ab", "#c51b7d", "#80745b", "#35978f")
"""One for each policy, in the order in which they are asked for."""

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
    chart.style(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    chart.no_minor(axes.xaxis)
    chart.no_minor(axes.yaxis)
    axes.set_title(said, loc="left", fontsize=12, weight="bold", color=INK, pad=40)
    axes.text(
        0, 1.045, "latency by percentile, ms", fontsize=9, color=FAINT, transform=axes.transAxes
    )
    most = max([result.answered for result in results.values()] + [100])
    for color, (policy, result) in zip(COLORS, results.items(), strict=False):
        if result.answered:
            x, y = curve(result)
            axes.plot(x, y, color=color, linewidth=2, label=_label(policy, result))
    chart.nines(axes, most, 1.05)
    chart.limit(axes, slo_ms, "SLO")
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
