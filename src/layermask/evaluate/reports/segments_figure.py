"""The figure of segment removal: curves per segmentation and order (the paper's Figure 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from layermask.draw.curves import COLORS, FOOT, ROOM, STYLES, WIDTH
from layermask.draw.figure import CELL, MARGIN, new_figure, place_axes
from layermask.errors import require
from layermask.evaluate.reports.curves import Group, curves
from layermask.evaluate.reports.tables import common_words
from layermask.evaluate.table import Columns, Content

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {"accuracy": "accuracy", "entropy": "class entropy", "unchanged": "unchanged predictions"}


def sheet(columns: Columns, content: Content) -> Figure:
    """Draw a row per segmentation × order, a column per metric, a curve per removal."""
    found = curves(columns)
    rows = list(dict.fromkeys((each.segmentation, each.order, each.ranking) for each in found))
    notes = common_words(content)
    width = 2 * MARGIN + len(METRICS) * (WIDTH + ROOM)
    tall = CELL + FOOT + 0.3
    height = 2 * MARGIN + 0.4 + len(rows) * tall + 0.18 * len(notes)
    settings = content["settings"]
    figure = new_figure(width, height, f"{settings['model']['name']}, {settings['data']['name']}")
    for number, row in enumerate(rows):
        y = height - MARGIN - 0.4 - (number + 1) * tall + FOOT
        members = [each for each in found if (each.segmentation, each.order, each.ranking) == row]
        for column, (metric, title) in enumerate(METRICS.items()):
            corner = MARGIN + ROOM + column * (WIDTH + ROOM), y
            axes = _plot(place_axes(figure, corner, WIDTH, CELL), members, metric)
            order = row[1] if row[1] == "random" else f"{row[1]} ({row[2]})"
            axes.set_title(f"{title}, {row[0]}, {order}", loc="left", fontsize=8, weight="bold")
    text = "\n".join(notes)
    figure.text(MARGIN / width, 0.5 * MARGIN / height, text, va="bottom", fontsize=8, color="0.35")
    return figure


def _plot(axes: Axes, groups: list[Group], metric: str) -> Axes:
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(True)
    for number, each in enumerate(groups):
        color, line = COLORS[number % len(COLORS)], STYLES[number // len(COLORS) % len(STYLES)]
        values = each.curves[metric]
        label = f"{each.removal}, mean {float(values.mean()):.3f}"
        axes.plot(each.fractions, values, color=color, linestyle=line, linewidth=1.6, label=label)
    axes.set_xlabel("share of the segments hidden", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None if metric == "entropy" else 1.02)
    axes.tick_params(labelsize=8, length=2)
    axes.set_xticks(torch.linspace(0, 1, 6).tolist())
    axes.yaxis.set_major_locator(require("matplotlib.ticker", "cli").MaxNLocator(5))
    axes.legend(fontsize=7, frameon=False)
    return axes
