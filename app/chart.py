"""How the pictures look: colors, and an axis of percentiles on which each nine is as wide.

May touch: matplotlib, when it draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK: Final = "#1f2933"
FAINT: Final = "#8a94a0"
GRID: Final = "#e4e8ec"
LIMIT: Final = "#b2182b"

NINES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
"""Percentiles with a line of their own. The axis is 1 / (1 - share), so each nine is as wide."""


def style(axes: Axes) -> None:
    """A grid behind, no frame but the ground."""
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=9, length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def no_minor(axis: Axis) -> None:
    """Numbers and lines at the chosen places only."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(LogLocator(subs=()))


def nines(axes: Axes, most: int, room: float) -> None:
    """The x axis of latencies of which there are `most`; it ends at `room` times that."""
    shown = [p for p in NINES if 100 / (100 - p) <= most]
    axes.set_xlim(1, most * room)
    axes.set_xticks([100 / (100 - p) for p in shown], [f"{p:g} %" for p in shown])


def limit(axes: Axes, value: float, said: str) -> None:
    """A line that latencies should stay below, with its name at the right end."""
    axes.axhline(value, color=LIMIT, linewidth=1, linestyle=(0, (4, 3)))
    right = axes.get_xlim()[1]
    axes.text(right, value, f"{said} ", fontsize=9, color=LIMIT, ha="right", va="bottom")
