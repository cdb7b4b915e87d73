"""The figure of segment removal: a row per segmentation and order, a column per metric (Figure 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layermask.errors import import_optional
from layermask.metrics.predictions import Rule
from layermask.render.curves import COLORS, FOOT, ROOM, STYLES, WIDTH
from layermask.render.figure import CELL, MARGIN, new_figure, place_axes
from layermask.studies.protocol import common_words
from layermask.studies.registry import Columns, Content
from layermask.studies.segments.answers import Measured, measure, metrics_of, read_answers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "accuracy": "accuracy",
    "class-entropy": "class entropy",
    "wordnet-similarity": "WordNet similarity",
    "unchanged": "unchanged predictions",
}
HEAD = 0.3  # inches: of a row's heading


def sheet(columns: Columns, content: Content, rule: Rule = "mean") -> Figure:
    """Draw a curve per removal, its area in the legend, and the intervals over images around it."""
    found, metrics = read_answers(columns).by_setting(), metrics_of(content)
    notes = common_words(content)
    areas = "mean" if rule == "mean" else "area by trapezoids"
    notes.append(
        f"Shades: 95 % intervals over images. Numbers: {areas} of the curve; higher is better in all."
    )
    width = 2 * MARGIN + len(metrics) * (WIDTH + ROOM)
    tall = CELL + FOOT + HEAD + 0.2
    height = 2 * MARGIN + 0.3 + len(found) * tall + 0.18 * len(notes)
    settings = content["settings"]
    figure = new_figure(width, height, f"{settings['model']['name']}, {settings['data']['name']}")
    for row, (setting, answers) in enumerate(found.items()):
        y = height - MARGIN - 0.3 - (row + 1) * tall + FOOT
        figure.text(MARGIN / width, (y + CELL + 0.3) / height, _heading(*setting), fontsize=10, weight="bold")
        for column, metric in enumerate(metrics):
            corner = MARGIN + ROOM + column * (WIDTH + ROOM), y
            axes = place_axes(figure, corner, WIDTH, CELL)
            _plot(axes, answers.fractions, measure(answers, metric, rule))
            axes.set_ylim(0, None if metric == "class-entropy" else 1.02)
            axes.set_ylabel(TITLES[metric], fontsize=8)
    place = MARGIN / width, 0.5 * MARGIN / height
    figure.text(*place, "\n".join(notes), va="bottom", fontsize=8, color="0.35")
    return figure


def _heading(segmentation: str, order: str, ranking: str) -> str:
    return f"{segmentation}, {order}" if order == "random" else f"{segmentation}, {order} ({ranking})"


def _plot(axes: Axes, fractions: list[float], found: dict[str, Measured]) -> None:
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(True)
    for number, (removal, each) in enumerate(found.items()):
        color, line = COLORS[number % len(COLORS)], STYLES[number // len(COLORS) % len(STYLES)]
        values, low, high = zip(*each.points, strict=True)
        axes.fill_between(fractions, low, high, color=color, alpha=0.15, linewidth=0)
        label = f"{removal}, {each.area.value:.3f}"
        axes.plot(fractions, values, color=color, linestyle=line, linewidth=1.6, label=label)
    axes.set_xlabel("share of the segments hidden", fontsize=8)
    axes.set_xlim(0, 1)
    axes.tick_params(labelsize=8, length=2)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.yaxis.set_major_locator(import_optional("matplotlib.ticker", "cli").MaxNLocator(5))
    axes.legend(fontsize=7, frameon=False)
