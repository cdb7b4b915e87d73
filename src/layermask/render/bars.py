"""Numbers with their intervals as horizontal bars: lines of panels, with the names at the left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING

from layermask.errors import import_optional
from layermask.io.figure import (
    COLORS,
    FAINT,
    INK,
    MARGIN,
    NOTE,
    Place,
    blank_figure,
    fit_text,
    new_figure,
    place_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES, LENGTH, BETWEEN = 1.85, 2.25, 0.3  # inches: of the names, of a panel's bars, between panels
PITCH, TITLE, SCALE = 0.24, 0.28, 0.32  # inches: of a bar, above the bars, below them
ROOM = 0.45  # of a scale's length: for the text after its longest bar

Bounds = tuple[float, float, float]
"""A number, and the lower and upper bound of its interval; NaN where there is none."""


@dataclass(frozen=True)
class Panel:
    """A bar for each name of the line. Panels of one `scale` have the same limits on the whole sheet.

    `tails`: texts after the numbers.
    """

    title: str
    bars: Sequence[Bounds]
    scale: str
    colors: Sequence[str] = COLORS
    tails: Sequence[str] = ()


@dataclass(frozen=True)
class Matrix:
    """Numbers from -1 to 1, (n, n); the columns are numbered from 1, as the names of the line."""

    title: str
    values: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Line:
    """Names under a heading, and panels beside them."""

    heading: str
    names: Sequence[str]
    panels: Sequence[Panel | Matrix]

    @property
    def height(self) -> float:
        """The inches that the line takes."""
        return TITLE + PITCH * len(self.names) + SCALE


def bar_sheet(title: str, lines: Sequence[Line], notes: Sequence[str]) -> Figure:
    """Draw the lines from the top down, and the notes below them."""
    notes = [*notes, "Lines: 95 % intervals over images. (higher), (lower): which way is better."]
    width = 2 * MARGIN + NAMES + max(len(line.panels) for line in lines) * (LENGTH + BETWEEN)
    height = 2 * MARGIN + 0.2 + sum(line.height for line in lines) + NOTE * len(notes)
    figure = new_figure(width, height, title, notes)
    panels = [panel for line in lines for panel in line.panels if isinstance(panel, Panel)]
    y = height - MARGIN - 0.2
    for line in lines:
        y -= line.height
        _place_names(figure, (MARGIN, y), line)
        for number, panel in enumerate(line.panels):
            corner = MARGIN + NAMES + number * (LENGTH + BETWEEN), y + SCALE
            if isinstance(panel, Matrix):
                _place_matrix(figure, corner, panel)
            else:
                same = (bar for other in panels if other.scale == panel.scale for bar in other.bars)
                _place_bars(figure, corner, panel, common_limits(same))
    return figure


def better(name: str, higher: bool | None) -> str:
    """Return the title of a measure with the direction that is better, if one is."""
    return name if higher is None else f"{name} ({'higher' if higher else 'lower'})"


def exact(value: float) -> Bounds:
    """Return a number that has no interval."""
    return value, nan, nan


def common_limits(numbers: Iterable[Bounds]) -> tuple[float, float]:
    """Return the limits of a scale that holds 0 and all numbers with their intervals."""
    finite = [0.0, *(bound for each in numbers for bound in each if isfinite(bound))]
    low, high = min(finite), max(finite)
    return (low, high) if low < high else (0.0, 1.0)


def interval_chart(number: Bounds, limits: tuple[float, float]) -> Figure:
    """Draw a number and its interval on a scale where 0 is marked, for a row of a table."""
    width, height = 2.0, 0.22
    figure = blank_figure(width, height)
    axes = place_axes(figure, (0.08, 0), width - 0.16, height)
    axes.set(xlim=limits, ylim=(-1, 1))
    axes.axvline(0, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
    value, low, high = number
    style = {"color": FAINT if low <= 0 <= high else COLORS[0], "clip_on": False}
    axes.plot([low, high], [0, 0], linewidth=2, **style)
    axes.plot([value], [0], "o", markersize=5, **style)
    return figure


def _place_names(figure: Figure, corner: Place, line: Line) -> None:
    axes = place_axes(figure, (corner[0], corner[1] + SCALE), NAMES, PITCH * len(line.names))
    axes.set(xlim=(0, NAMES), ylim=(len(line.names) - 0.5, -0.5))
    for place, name in enumerate(line.names):
        text = axes.text(NAMES - 0.08, place, name, va="center", ha="right", fontsize=8, parse_math=False)
        fit_text(text, NAMES - 0.08)
    _title(axes, line.heading, NAMES - 0.1)


def _place_bars(figure: Figure, corner: Place, panel: Panel, limits: tuple[float, float]) -> None:
    axes = place_axes(figure, corner, LENGTH, PITCH * len(panel.bars), ("bottom",))
    low, high = limits
    axes.set(xlim=(low, high + ROOM * (high - low)), ylim=(len(panel.bars) - 0.5, -0.5))
    axes.axvline(0, color="0.6", linewidth=0.8)
    for place, number in enumerate(panel.bars):
        color = panel.colors[place % len(panel.colors)]
        _bar(axes, place, number, color, panel.tails[place] if panel.tails else "")
    ticks = import_optional("matplotlib.ticker", "cli").MaxNLocator(4).tick_values(low, high)
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.tick_params(labelsize=7.5)
    _title(axes, panel.title, LENGTH + 0.2)


def _bar(axes: Axes, place: int, number: Bounds, color: str, tail: str) -> None:
    value, low, high = number
    end = max([0.0, *filter(isfinite, number)])
    text = f"{value:.3f}{tail}" if isfinite(value) else "no value"
    if isfinite(value):
        axes.barh(place, value, height=0.72, color=color, alpha=0.8)
    if isfinite(low) and isfinite(high):
        axes.plot([low, high], [place, place], color="0.15", linewidth=1.2, solid_capstyle="butt")
    axes.annotate(text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=7.5)


def _place_matrix(figure: Figure, corner: Place, matrix: Matrix) -> None:
    values = matrix.values
    count, wide = len(values), min(0.5, 4 * LENGTH / len(values))
    axes = place_axes(figure, corner, wide * count, PITCH * count)
    axes.imshow(values, cmap="RdBu", vmin=-1.5, vmax=1.5, aspect="auto")  # pale, to be written on
    for row, numbers in enumerate(values):
        for column, number in enumerate(numbers):
            text = f"{number:.2f}" if isfinite(number) else "-"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5)
    for column in range(count):
        axes.text(column, count - 0.35, str(column + 1), ha="center", va="top", fontsize=8)
    _title(axes, matrix.title, 2 * LENGTH)


def _title(axes: Axes, text: str, room: float) -> None:
    """Write a title above axes, at most `room` inches wide."""
    title = axes.set_title("", loc="left", weight="bold", fontsize=8.5, pad=4)
    title.set(text=text, parse_math=False)
    fit_text(title, room)
