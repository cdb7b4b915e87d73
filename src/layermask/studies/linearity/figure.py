"""The figure of the study of linearity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layermask.metrics.bootstrap import means
from layermask.render.bars import Line, Panel, bar_sheet, better
from layermask.studies.linearity.report import BETTER, LABELS, numbers, words
from layermask.studies.protocol import figure_title
from layermask.studies.registry import Columns, Content

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sheet(columns: Columns, content: Content) -> Figure:
    """Draw a line per patch size, a panel per measure, a bar per removal."""
    lines, removals = [], content["settings"]["removals"]
    for patch in content["settings"]["patches"]:
        by_measure = zip(*(means(numbers(columns, patch, name)) for name in removals), strict=True)
        panels = [
            Panel(better(label, BETTER.get(measure)), bars, measure)
            for (measure, label), bars in zip(LABELS.items(), by_measure, strict=True)
        ]
        lines.append(Line(f"{patch} pixel patches", removals, panels))
    return bar_sheet(figure_title(content), lines, words(columns, content))
