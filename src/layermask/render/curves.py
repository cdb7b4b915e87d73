"""Curves: values over the share of the segments that are hidden or shown, a line for each removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layermask.errors import import_optional
from layermask.metrics.flipping import Curve
from layermask.render.bars import Bounds
from layermask.render.figure import (
    CELL,
    MARGIN,
    RULE,
    Place,
    blank_figure,
    line_style,
    new_figure,
    place_axes,
    write_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROOM, FOOT = 3.6, 0.75, 0.75  # inches: of a plot, of its labels at the left, of those below

Lines = Mapping[str, Sequence[Bounds]]
"""By label: the values at each share, with their bounds (NaN if there are none)."""


def place_curves(
    figure: Figure,
    corner: Place,
    shares: Sequence[float],
    lines: Lines,
    below: str = "share of the segments hidden",
    top: float | None = 1.02,
    box: tuple[float, float] = (WIDTH, CELL),
) -> Axes:
    """Plot lines over `shares` with their intervals as shades. `top`: the end of the scale; None: as needed.

    `box`: the width and height of the plot, in inches.
    """
    axes = place_axes(figure, corner, *box, sides=("left", "bottom"))
    for number, (label, points) in enumerate(lines.items()):
        style = line_style(number)
        values, low, high = zip(*points, strict=True)
        axes.fill_between(shares, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(shares, values, label=label, **style)
    axes.set_xlabel(below, fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_ylim(0 if axes.dataLim.y0 > -1e-6 else None, top)  # entropies may be below 0 by rounding
    axes.yaxis.set_major_locator(import_optional("matplotlib.ticker", "cli").MaxNLocator(5))
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    return axes


def curve_chart(shares: Sequence[float], lines: Lines, top: float | None = 1.02) -> Figure:
    """Draw one plot, without a title or legend: for a page, which has both."""
    figure = blank_figure(4.6, 2.8)
    place_curves(figure, (0.4, 0.5), shares, lines, top=top, box=(4.05, 2.2))
    return figure


def swatch(number: int) -> Figure:
    """Draw a piece of the line of a removal, by its number: for the legend of a page."""
    figure = blank_figure(0.4, 0.12)
    place_axes(figure, (0, 0), 0.4, 0.12).plot([0, 1], [0, 0], clip_on=False, **line_style(number))
    return figure


def curve_sheet(title: str, curves: Mapping[str, Sequence[Curve]], labels: Sequence[str]) -> Figure:
    """Draw one row per target, one column per order. `curves`: removal -> its curves, of the same orders."""
    first = next(iter(curves.values()))
    targets = first[0].targets
    width = 2 * MARGIN + len(first) * (WIDTH + ROOM)
    height = 2 * MARGIN + 0.4 + len(targets) * (CELL + FOOT + 0.3)
    note = "Each removal hides or shows the segments in the order of its own scores."
    figure = new_figure(width, height, title, [note])
    for row, target in enumerate(targets):
        y = height - MARGIN - 0.4 - (row + 1) * (CELL + FOOT + 0.3) + FOOT
        for column, one in enumerate(first):
            word = "shown" if one.order == "insertion" else "hidden"
            axes = place_curves(
                figure,
                (MARGIN + ROOM + column * (WIDTH + ROOM), y),
                one.shares.tolist(),
                {
                    _label(name, each[column], row): _points(each[column], row)
                    for name, each in curves.items()
                },
                f"share of the segments {word}, the highest score first",
                None,
            )
            axes.legend(fontsize=7, frameon=False)
            axes.set_ylabel("probability of the class" if column == 0 else "", fontsize=8)
            write_title(axes, labels[target], WIDTH - 0.9, f", {one.order}", fontsize=9.5)
    return figure


def _label(name: str, curve: Curve, row: int) -> str:
    return f"{name}, area {float(curve.area()[row]):.3f}"


def _points(curve: Curve, row: int) -> list[Bounds]:
    nan = float("nan")
    return [(value, nan, nan) for value in curve.values[row].tolist()]
