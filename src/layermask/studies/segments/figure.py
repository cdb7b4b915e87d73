"""The figure of segment removal: a row per segmentation and order, a column per metric (Figure 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layermask.metrics.predictions import Rule
from layermask.render.curves import Plot, curve_grid
from layermask.studies.protocol import common_words, figure_title
from layermask.studies.registry import Columns, Content
from layermask.studies.segments.answers import measure, metrics_of, read_answers
from layermask.studies.segments.report import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sheet(columns: Columns, content: Content, rule: Rule = "mean") -> Figure:
    """Draw a curve per removal, its area in the legend, and the intervals over images around it."""
    area = "mean" if rule == "mean" else "area by trapezoids"
    notes = [
        *common_words(content),
        f"Shades: 95 % intervals over images. Numbers: {area} of the curve; higher is better in all.",
    ]
    rows = []
    for (segmentation, order, ranking), answers in read_answers(columns).by_setting().items():
        plots = []
        for metric in metrics_of(content):
            measured = measure(answers, metric, rule)
            lines = {f"{name}, {each.area.value:.3f}": each.points for name, each in measured.items()}
            plots.append(Plot(answers.fractions, lines, LABELS[metric], top=highest(metric)))
        followed = "" if order == "random" else f" ({ranking})"
        rows.append((f"{segmentation}, {order}{followed}", plots))
    return curve_grid(figure_title(content), rows, notes)


def highest(metric: str) -> float | None:
    """Return the end of a metric's scale; None for entropy, which has none."""
    return None if metric == "class-entropy" else 1.02
