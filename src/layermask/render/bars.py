"""Numbers with their intervals, as horizontal bars: panels in a line, which names at the left are for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from layermask.errors import import_optional
from layermask.render.curves import COLORS
from layermask.render.figure import fit_text, place_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES, LENGTH, BETWEEN = 1.85, 2.25, 0.3  # inches: of the names, of a panel's bars, between panels
PITCH, TITLE, SCALE = 0.24, 0.28, 0.32  # inches: of a bar, above the bars, below them
ROOM = 0.45  # of a scale's length: for the text after its longest bar

Bounds = tuple[float, float, float]
"""A number, and the lower and upper bound of its interval; NaN where there is none."""


def line_height(bars: int) -> float:
    """Return the inches that a line of panels of so many bars takes."""
    return TITLE + PITCH * bars + SCALE


def line_width(panels: int) -> float:
    return NAMES + panels * (LENGTH + BETWEEN)


def common_limits(numbers: Iterable[Bounds]) -> tuple[float, float]:
    """Return the limits of a scale that holds 0 and all numbers with their intervals."""
    finite = [0.0, *(bound for each in numbers for bound in each if isfinite(bound))]
    low, high = min(finite), max(finite)
    return (low, high) if low < high else (0.0, 1.0)


def place_names(figure: Figure, corner: tuple[float, float], heading: str, names: Sequence[str]) -> Axes:
    """Write the names of the bars, from the upper edge down, under a heading.

    `corner`: the lower left one of the line, in inches.
    """
    axes = place_axes(figure, (corner[0], corner[1] + SCALE), NAMES, PITCH * len(names))
    axes.set(xlim=(0, NAMES), ylim=(len(names) - 0.5, -0.5))
    for place, name in enumerate(names):
        fit_text(
            axes.text(NAMES - 0.08, place, name, va="center", ha="right", fontsize=8, parse_math=False),
            NAMES - 0.08,
        )
    _title(axes, heading, NAMES - 0.1)
    return axes


def place_bars(
    figure: Figure,
    corner: tuple[float, float],
    panel: int,
    title: str,
    bars: Sequence[Bounds],
    limits: tuple[float, float],
    colors: Sequence[str] = COLORS,
    tails: Sequence[str] = (),
) -> Axes:
    """Draw panel number `panel` of a line, a bar for each name; `tails` stand after the numbers."""
    left = corner[0] + NAMES + panel * (LENGTH + BETWEEN)
    axes = place_axes(figure, (left, corner[1] + SCALE), LENGTH, PITCH * len(bars))
    low, high = limits
    axes.set(xlim=(low, high + ROOM * (high - low)), ylim=(len(bars) - 0.5, -0.5))
    axes.axvline(0, color="0.6", linewidth=0.8)
    for place, number in enumerate(bars):
        _bar(axes, place, number, colors[place % len(colors)], tails[place] if tails else "")
    axes.spines["bottom"].set_visible(True)
    ticks = import_optional("matplotlib.ticker", "cli").MaxNLocator(4).tick_values(low, high)
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.tick_params(labelsize=7.5, length=2)
    _title(axes, title, LENGTH + 0.2)
    return axes


def _title(axes: Axes, text: str, room: float) -> None:
    title = axes.set_title("", loc="left", fontsize=8.5, weight="bold", pad=4)
    title.set(text=text, parse_math=False)
    fit_text(title, room)


def _bar(axes: Axes, place: int, number: Bounds, color: str, tail: str) -> None:
    value, low, high = number
    end = max([0.0, *(bound for bound in number if isfinite(bound))])
    text = f"{value:.3f}{tail}" if isfinite(value) else "no value"
    if isfinite(value):
        axes.barh(place, value, height=0.72, color=color, alpha=0.8)
    if isfinite(low) and isfinite(high):
        axes.plot([low, high], [place, place], color="0.15", linewidth=1.2, solid_capstyle="butt")
    axes.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=7.5)


def place_matrix(
    figure: Figure, corner: tuple[float, float], title: str, values: Sequence[Sequence[float]]
) -> Axes:
    """Draw numbers from -1 to 1, (n, n), beside the names of the rows; columns are numbered from 1."""
    count, wide = len(values), min(0.5, 4 * LENGTH / len(values))
    axes = place_axes(figure, (corner[0] + NAMES, corner[1] + SCALE), wide * count, PITCH * count)
    axes.imshow(values, cmap="RdBu", vmin=-1.5, vmax=1.5, aspect="auto")  # pale, to be written on
    for row, numbers in enumerate(values):
        for column, number in enumerate(numbers):
            text = f"{number:.2f}" if isfinite(number) else "-"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5)
    for column in range(count):
        axes.text(column, count - 0.35, str(column + 1), ha="center", va="top", fontsize=8)
    _title(axes, title, 2 * LENGTH)
    return axes


def numbered(names: Sequence[str]) -> list[str]:
    """Return the names of the rows of a matrix with their numbers."""
    return [f"{name} {number}" for number, name in enumerate(names, 1)]
