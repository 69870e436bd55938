"""A report as a picture: latency by percentile, and what happened second by second.

May touch: matplotlib, without a display; a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from app import chart
from app.bench.histogram import Latency
from app.bench.report import Report
from app.bench.terminal import pace
from app.chart import FAINT, GRID, INK, LIMIT

OK: Final = "#2166ac"
P50: Final = "#67a9cf"
REFUSED: Final = "#e08214"
FAILED: Final = LIMIT

WIDE: Final = 1000
"""An axis over a larger ratio than this has a line for each power of ten only, and a number that is
larger has no digits after the point."""


def draw(report: Report, path: Path) -> None:
    """Write the picture; the ending of `path` says in which format."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.02)
    figure = Figure(figsize=(12, 6.4), dpi=150, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, height_ratios=(0.16, 1, 1), width_ratios=(1.35, 1))
    _head(figure.add_subplot(grid[0, :]), report)
    _percentiles(figure.add_subplot(grid[1:, 0]), report)
    counts = figure.add_subplot(grid[1, 1])
    _counts(counts, report)
    _seconds(figure.add_subplot(grid[2, 1], sharex=counts), report)
    figure.savefig(path)


def _head(axes: Axes, report: Report) -> None:
    axes.axis("off")
    mix = ", ".join(str(each.target) for each in report.targets)
    axes.text(
        0, 1, f"{report.settings.url}   {mix}", fontsize=13, weight="bold", color=INK, va="top"
    )
    said = f"{pace(report.settings)}   ·   {report.ok_per_s:,.0f} answers/s"
    if report.settings.deadline_ms is not None:
        deadline = report.settings.deadline_ms
        said += f", {report.goodput_per_s:,.0f}/s within {deadline:g} ms"
    axes.text(0, 0.3, said, fontsize=10, color=FAINT, va="top")
    if report.doubt is not None:
        axes.text(0, -0.25, f"Doubtful: {report.doubt}.", fontsize=9, color=FAILED, va="top")


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=8)
    chart.style(axes)


def _percentiles(axes: Axes, report: Report) -> None:
    _style(axes, "Latency by percentile, ms")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _curve(axes, report.ok, OK, "answers")
    _curve(axes, report.refused, REFUSED, "429 and 503")
    most = max(report.ok.count, report.refused.count, 10)
    chart.nines(axes, most, 1.3)
    chart.no_minor(axes.xaxis)
    _plain_log(axes)
    for name in ("p50_ms", "p90_ms", "p99_ms", "p999_ms"):
        _mark(axes, report.ok, name)
    deadline = report.settings.deadline_ms
    if deadline is not None:
        chart.limit(axes, deadline, "deadline")
    if report.refused.count:
        _legend(axes, 2)


def _curve(axes: Axes, latency: Latency, color: str, label: str) -> None:
    if not latency.count:
        return
    shares, values = (np.array(column) for column in zip(*latency.curve(), strict=True))
    # the slowest answer is the share 1 of all; it is drawn where one in `count` is
    nines = 1 / np.maximum(1 - shares, 1 / latency.count)
    x = np.concatenate(([1.0], nines))
    y = np.concatenate((values[:1], values))
    axes.plot(x, y, color=color, linewidth=2, label=label, solid_capstyle="round")


def _mark(axes: Axes, latency: Latency, name: str) -> None:
    """The number at a percentile, where enough answers make it one."""
    percent = float(name[1:-3]) if name != "p999_ms" else 99.9
    x = 100 / (100 - percent)
    if latency.count < x:
        return
    value = getattr(latency, name)
    axes.plot([x], [value], "o", color=OK, markersize=5)
    axes.annotate(
        f"{value:.3g}" if value < WIDE else f"{value:,.0f}",
        (x, value),
        xytext=(-7, 6),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=INK,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6},
    )


def _plain_log(axes: Axes) -> None:
    """0.5, 1, 2, 5, 10 and so on instead of powers."""
    low, high = axes.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < WIDE else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.6g}"))
    chart.no_minor(axes.yaxis)


def _counts(axes: Axes, report: Report) -> None:
    _style(axes, "Ended in each second")
    line = report.timeline
    series = (
        ("answers", OK, [second.ok for second in line]),
        ("refusals", REFUSED, [second.refused for second in line]),
        ("failed", FAILED, [second.failed for second in line]),
    )
    drawn = [each for each in series if any(each[2])]
    bottom = np.zeros(len(line))
    for name, color, counts in drawn:
        axes.bar(np.arange(len(line)) + 0.5, counts, 0.86, bottom, color=color, label=name)
        bottom += counts
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelbottom=False)
    if len(drawn) > 1:
        _legend(axes, len(drawn))
    _end(axes, report)


def _seconds(axes: Axes, report: Report) -> None:
    _style(axes, "Latency of the answers in each second, ms")
    at = [second + 0.5 for second, seen in enumerate(report.timeline) if seen.ok]
    answered = [second for second in report.timeline if second.ok]
    axes.set_yscale("log")
    dots = {"marker": "o", "markersize": 3.5, "linewidth": 1.6}
    axes.plot(at, [second.p99_ms for second in answered], color=OK, label="p99", **dots)  # type: ignore[arg-type]
    axes.plot(at, [second.p50_ms for second in answered], color=P50, label="p50", **dots)  # type: ignore[arg-type]
    axes.set_xlabel(
        "seconds since the end of warm-up; grey: after the end", fontsize=9, color=FAINT
    )
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if answered:
        _plain_log(axes)
        _legend(axes, 2)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no answers", transform=axes.transAxes, ha="center", color=FAINT)
    _end(axes, report)


def _legend(axes: Axes, columns: int) -> None:
    """Beside the title, where it hides nothing."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.2,
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _end(axes: Axes, report: Report) -> None:
    """Grey where nothing more was intended, and what was on its way came in."""
    end, last = report.settings.duration_s, max(len(report.timeline), report.settings.duration_s)
    axes.set_xlim(0, last)
    if last > end:
        axes.axvspan(end, last, color=GRID, alpha=0.5, linewidth=0, zorder=0)
