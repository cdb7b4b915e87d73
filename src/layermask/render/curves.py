"""Curves: values over the share of the segments that are hidden or shown, a line for each removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

from layermask.errors import import_optional
from layermask.io.figure import (
    CELL,
    MARGIN,
    NOTE,
    RULE,
    Place,
    blank_figure,
    line_style,
    new_figure,
    place_axes,
    write,
)
from layermask.metrics.flipping import Curve
from layermask.removal.targets import target_name
from layermask.render.bars import Bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROOM, HEAD, FOOT = 3.6, 0.75, 0.5, 0.75  # inches: of a plot, at its left, above it, below it


@dataclass(frozen=True)
class Plot:
    """Values at each share, with their bounds (NaN if there are none), by the label of the line.

    `left` and `below` name the axes; `top` is the end of the scale, None for as far as needed.
    """

    shares: Sequence[float]
    lines: Mapping[str, Sequence[Bounds]]
    left: str = ""
    below: str = "share of the segments hidden"
    top: float | None = 1.02


def curve_grid(title: str, rows: Sequence[tuple[str, Sequence[Plot]]], notes: Sequence[str]) -> Figure:
    """Draw rows of plots with their legends, each row under its heading."""
    tall = HEAD + CELL + FOOT
    width = 2 * MARGIN + max(len(plots) for _, plots in rows) * (WIDTH + ROOM)
    height = 2 * MARGIN + 0.3 + len(rows) * tall + NOTE * len(notes)
    figure = new_figure(width, height, title, notes)
    for row, (heading, plots) in enumerate(rows):
        y = height - MARGIN - 0.3 - (row + 1) * tall + FOOT
        place = MARGIN, y + CELL + 0.35
        write(figure, place, heading, width - 2 * MARGIN, fontsize=10, weight="bold")
        for column, plot in enumerate(plots):
            axes = _place_plot(figure, (MARGIN + ROOM + column * (WIDTH + ROOM), y), plot, (WIDTH, CELL))
            axes.legend(fontsize=7, frameon=False)
    return figure


def curve_chart(plot: Plot) -> Figure:
    """Draw one plot, without a title or legend: for a page, which has both."""
    figure = blank_figure(4.6, 2.8)
    _place_plot(figure, (0.4, 0.5), plot, (4.05, 2.2))
    return figure


def swatch(number: int) -> Figure:
    """Draw a piece of the line of a removal, by its number: for the legend of a page."""
    figure = blank_figure(0.4, 0.12)
    place_axes(figure, (0, 0), 0.4, 0.12).plot([0, 1], [0, 0], clip_on=False, **line_style(number))
    return figure


def _place_plot(figure: Figure, corner: Place, plot: Plot, box: tuple[float, float]) -> Axes:
    axes = place_axes(figure, corner, *box, sides=("left", "bottom"))
    for number, (label, points) in enumerate(plot.lines.items()):
        style = line_style(number)
        values, low, high = zip(*points, strict=True)
        axes.fill_between(plot.shares, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(plot.shares, values, label=label, **style)
    axes.set_xlabel(plot.below, fontsize=8)
    axes.set_ylabel(plot.left, fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_ylim(0 if axes.dataLim.y0 > -1e-6 else None, plot.top)  # entropies may be below 0 by rounding
    axes.yaxis.set_major_locator(import_optional("matplotlib.ticker", "cli").MaxNLocator(5))
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    return axes


def curve_sheet(title: str, curves: Mapping[str, Sequence[Curve]], labels: Sequence[str]) -> Figure:
    """Draw one row per target, one column per order. `curves`: removal -> its curves, of the same orders."""
    first, *_ = curves.values()
    columns = [{name: each[column] for name, each in curves.items()} for column in range(len(first))]
    rows = [
        (target_name(target, labels), [_plot(by_removal, row) for by_removal in columns])
        for row, target in enumerate(first[0].targets)
    ]
    return curve_grid(title, rows, ["Each removal hides or shows segments in the order of its own scores."])


def _plot(curves: Mapping[str, Curve], row: int) -> Plot:
    one = next(iter(curves.values()))
    lines = {
        f"{name}, area {float(each.area()[row]):.3f}": [
            (value, nan, nan) for value in each.values[row].tolist()
        ]
        for name, each in curves.items()
    }
    word = "shown" if one.order == "insertion" else "hidden"
    below = f"share of the segments {word}, the highest score first"
    return Plot(one.shares.tolist(), lines, f"{one.order}: probability of the class", below, None)
