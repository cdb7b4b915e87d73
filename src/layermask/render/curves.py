"""Insertion and deletion curves of several removals, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layermask.metrics.flipping import Curve
from layermask.render.figure import CELL, MARGIN, fit_text, new_figure, place_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROOM, FOOT = 3.6, 0.75, 0.75  # inches: of a plot, of its labels at the left, of those below
COLORS = ("#00659d", "#d55e00", "#666666", "#9a6fb0", "#009e73", "#c5a300")  # told apart by the colour-blind
STYLES = ("-", "--", ":", "-.")


def curve_sheet(
    title: str, curves: Mapping[str, Sequence[Curve]], labels: Sequence[str], unit: str = "probability"
) -> Figure:
    """Draw one row per target, one column per order. `curves`: removal -> its curves, of the same orders."""
    first = next(iter(curves.values()))
    targets = first[0].targets
    width = 2 * MARGIN + len(first) * (WIDTH + ROOM)
    height = 2 * MARGIN + 0.4 + len(targets) * (CELL + FOOT + 0.3)
    figure = new_figure(width, height, title)
    for row, target in enumerate(targets):
        y = height - MARGIN - 0.4 - (row + 1) * (CELL + FOOT + 0.3) + FOOT
        for column, one in enumerate(first):
            corner = MARGIN + ROOM + column * (WIDTH + ROOM), y
            axes = _plot(figure, corner, {name: each[column] for name, each in curves.items()}, row)
            axes.set_ylabel(f"{unit} of the class" if column == 0 else "", fontsize=8)
            heading = axes.set_title("", loc="left", fontsize=9.5, weight="bold")
            heading.set(text=labels[target], parse_math=False)
            fit_text(heading, WIDTH - 0.9, tail=f", {one.order}")
    note = "each removal hides segments its own way, in the order of its own scores"
    figure.text(0.5, 0.6 * MARGIN / height, note, ha="center", va="center", fontsize=8, color="0.35")
    return figure


def _plot(figure: Figure, corner: tuple[float, float], curves: Mapping[str, Curve], row: int) -> Axes:
    from matplotlib.ticker import MaxNLocator

    axes = place_axes(figure, corner, WIDTH, CELL)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(True)
    for number, (name, each) in enumerate(curves.items()):
        area = float(each.area()[row])
        color, line = COLORS[number % len(COLORS)], STYLES[number // len(COLORS) % len(STYLES)]
        label = f"{name}, area {area:.3f}"
        axes.plot(each.shares, each.values[row], color=color, linestyle=line, linewidth=1.6, label=label)
    one = next(iter(curves.values()))
    word = "shown, the highest score first" if one.order == "insertion" else "hidden, the highest score first"
    axes.set_xlabel(f"share of the segments {word}", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_locator(MaxNLocator(5))  # which place_axes has emptied
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.tick_params(labelsize=8, length=2)
    axes.legend(fontsize=7, frameon=False)
    return axes
