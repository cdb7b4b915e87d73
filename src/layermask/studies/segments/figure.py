"""The figure of segment removal: a row per segmentation and order, a column per metric (Figure 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layermask.metrics.predictions import Rule
from layermask.render.curves import FOOT, ROOM, WIDTH, place_curves
from layermask.render.figure import CELL, MARGIN, NOTE, new_figure, write
from layermask.studies.protocol import common_words, figure_title
from layermask.studies.registry import Columns, Content
from layermask.studies.segments.answers import measure, metrics_of, predictions
from layermask.studies.segments.report import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = 0.3  # inches: of a row's heading


def sheet(columns: Columns, content: Content, rule: Rule = "mean") -> Figure:
    """Draw a curve per removal, its area in the legend, and the intervals over images around it."""
    found, metrics = predictions(columns, content), metrics_of(content)
    area = "mean" if rule == "mean" else "area by trapezoids"
    notes = [
        *common_words(content),
        f"Shades: 95 % intervals over images. Numbers: {area} of the curve; higher is better in all.",
    ]
    width = 2 * MARGIN + len(metrics) * (WIDTH + ROOM)
    tall = CELL + FOOT + HEAD + 0.2
    height = 2 * MARGIN + 0.3 + len(found) * tall + NOTE * len(notes)
    figure = new_figure(width, height, figure_title(content), notes)
    for row, (setting, by_removal) in enumerate(found.items()):
        y = height - MARGIN - 0.3 - (row + 1) * tall + FOOT
        write(figure, (MARGIN, y + CELL + 0.35), _heading(*setting), fontsize=10, weight="bold")
        shares = next(iter(by_removal.values())).fractions.tolist()
        for column, metric in enumerate(metrics):
            measured = measure(by_removal, metric, rule)
            lines = {f"{name}, {each.area.value:.3f}": each.points for name, each in measured.items()}
            corner = MARGIN + ROOM + column * (WIDTH + ROOM), y
            axes = place_curves(figure, corner, shares, lines, top=highest(metric))
            axes.legend(fontsize=7, frameon=False)
            axes.set_ylabel(LABELS[metric], fontsize=8)
    return figure


def highest(metric: str) -> float | None:
    """Return the end of a metric's scale; None for entropy, which has none."""
    return None if metric == "class-entropy" else 1.02


def _heading(segmentation: str, order: str, ranking: str) -> str:
    return f"{segmentation}, {order}" if order == "random" else f"{segmentation}, {order} ({ranking})"
