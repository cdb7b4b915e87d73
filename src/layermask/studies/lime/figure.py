"""The figure of LIME's quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layermask.metrics.bootstrap import means
from layermask.render.bars import Line, Panel, bar_sheet, better
from layermask.studies.lime.report import BETTER, labels, scores, words
from layermask.studies.protocol import figure_title
from layermask.studies.registry import Columns, Content

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sheet(columns: Columns, content: Content) -> Figure:
    """Draw a line per segmentation, a panel per measure, a bar per removal."""
    names = {name: better(label, BETTER[name]) for name, label in labels(content).items()}
    lines = [
        Line(
            segmentation,
            content["settings"]["removals"],
            [Panel(names[name], means(values), name) for name, values in measures.items()],
        )
        for segmentation, measures in scores(columns, content).items()
    ]
    return bar_sheet(figure_title(content), lines, words(columns, content))
