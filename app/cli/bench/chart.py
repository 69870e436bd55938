"""The chart of a report of `brim bench`. Imported when it is drawn: its imports take a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from app.cli.bench.report import Latency, Report
from app.cli.charts import (
    FAINT,
    GRID,
    INK,
    LIMIT,
    OK,
    P50,
    REFUSED,
    legend,
    limit_line,
    percentile_axis,
    plain_labels,
    style,
)
from app.cli.common import short


def draw_report(path: Path, report: Report) -> None:
    """Write the chart; the suffix of `path` selects the format."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.02)
    figure = Figure(figsize=(12, 6.4), dpi=150, facecolor="white", layout=layout)
    grid = figure.add_gridspec(3, 2, height_ratios=(0.16, 1, 1), width_ratios=(1.35, 1))
    _head(figure.add_subplot(grid[0, :]), report)
    _percentiles(figure.add_subplot(grid[1:, 0]), report)
    counts = figure.add_subplot(grid[1, 1])
    _counts(counts, report)
    _seconds(figure.add_subplot(grid[2, 1], sharex=counts), report)
    figure.savefig(path)


def _head(axes: Axes, report: Report) -> None:
    axes.axis("off")
    targets = ", ".join(str(each.target) for each in report.targets)
    title = f"{report.settings.url}   {targets}"
    axes.text(0, 1, title, fontsize=13, weight="bold", color=INK, va="top")
    rates = f"{report.settings.description}   ·   {report.ok_per_s:,.0f} answers/s"
    if (deadline := report.settings.deadline_ms) is not None:
        rates += f", {report.goodput_per_s:,.0f}/s within {deadline:g} ms"
    axes.text(0, 0.3, rates, fontsize=10, color=FAINT, va="top")
    if report.doubt is not None:
        axes.text(0, -0.25, f"Doubtful: {report.doubt}.", fontsize=9, color=LIMIT, va="top")


def _percentiles(axes: Axes, report: Report) -> None:
    style(axes, "Latency by percentile, ms")
    axes.set_yscale("log")
    _curve(axes, report.ok, OK, "answers")
    _curve(axes, report.refused, REFUSED, "429 and 503")
    most = max(report.ok.count, report.refused.count, 10)
    percentile_axis(axes, most, 1.3)
    plain_labels(axes)
    ok = report.ok
    for percent, value in {50: ok.p50_ms, 90: ok.p90_ms, 99: ok.p99_ms, 99.9: ok.p999_ms}.items():
        if ok.count >= 100 / (100 - percent):  # enough responses for this percentile
            _mark(axes, percent, value)
    if (deadline := report.settings.deadline_ms) is not None:
        limit_line(axes, deadline, "deadline")
    if report.refused.count:
        legend(axes)


def _curve(axes: Axes, latency: Latency, color: str, label: str) -> None:
    if not latency.count:
        return
    shares, values = (np.array(column) for column in zip(*latency.curve(), strict=True))
    # the slowest response has the share 1; it is drawn at 1 - 1 / count
    nines = 1 / np.maximum(1 - shares, 1 / latency.count)
    x = np.concatenate(([1.0], nines))
    y = np.concatenate((values[:1], values))
    axes.plot(x, y, color=color, linewidth=2, label=label, solid_capstyle="round")


def _mark(axes: Axes, percent: float, value: float) -> None:
    """Label a percentile."""
    at = (100 / (100 - percent), value)
    axes.plot(*at, "o", color=OK, markersize=5)
    box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6}
    text = axes.annotate(short(value), at, (-7, 6), textcoords="offset points", bbox=box)
    text.set(ha="right", fontsize=9, color=INK)


def _counts(axes: Axes, report: Report) -> None:
    style(axes, "Ended in each second")
    line = report.timeline
    series = {
        "answers": (OK, [second.ok for second in line]),
        "refusals": (REFUSED, [second.refused for second in line]),
        "failed": (LIMIT, [second.failed for second in line]),
    }
    drawn = {name: each for name, each in series.items() if any(each[1])}
    bottom = np.zeros(len(line))
    for name, (color, counts) in drawn.items():
        axes.bar(np.arange(len(line)) + 0.5, counts, 0.86, bottom, color=color, label=name)
        bottom += counts
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelbottom=False)
    if len(drawn) > 1:
        legend(axes)
    _end(axes, report)


def _seconds(axes: Axes, report: Report) -> None:
    style(axes, "Latency of the answers in each second, ms")
    at = [second + 0.5 for second, each in enumerate(report.timeline) if each.ok]
    answered = [second for second in report.timeline if second.ok]
    axes.set_yscale("log")
    for label, color in {"p99": OK, "p50": P50}.items():
        values = [getattr(second, f"{label}_ms") for second in answered]
        axes.plot(at, values, color=color, label=label, marker="o", markersize=3.5, linewidth=1.6)
    label = "seconds since the end of warm-up; grey: after the end"
    axes.set_xlabel(label, fontsize=9, color=FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if answered:
        plain_labels(axes)
        legend(axes)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no answers", transform=axes.transAxes, ha="center", color=FAINT)
    _end(axes, report)


def _end(axes: Axes, report: Report) -> None:
    """Shade the time after the window, when only requests in flight ended."""
    end, last = report.settings.duration_s, max(len(report.timeline), report.settings.duration_s)
    axes.set_xlim(0, last)
    if last > end:
        axes.axvspan(end, last, color=GRID, alpha=0.5, linewidth=0, zorder=0)
