"""The figure of LIME's quality: a line per segmentation, a panel per measure, a bar per removal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layermask.metrics.bootstrap import means
from layermask.render.bars import common_limits, line_height, line_width, place_bars, place_names
from layermask.render.figure import MARGIN, new_figure
from layermask.studies.lime.report import BETTER, scores, titles, words
from layermask.studies.registry import Columns, Content

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sheet(columns: Columns, content: Content) -> Figure:
    """Draw the means and their intervals; a measure has one scale for all segmentations."""
    settings, notes = content["settings"], words(columns, content)
    notes.append("Lines: 95 % intervals over images. (higher), (lower): which way is better.")
    found = {
        segmentation: {name: means(values) for name, values in measures.items()}
        for segmentation, measures in scores(columns, content).items()
    }
    tall = line_height(len(settings["removals"]))
    width = 2 * MARGIN + line_width(len(BETTER))
    height = 2 * MARGIN + 0.2 + len(found) * tall + 0.18 * len(notes)
    figure = new_figure(width, height, f"{settings['model']['name']}, {settings['data']['name']}")
    for row, segmentation in enumerate(found):
        corner = MARGIN, height - MARGIN - 0.2 - (row + 1) * tall
        place_names(figure, corner, segmentation, settings["removals"])
        for panel, (name, title) in enumerate(titles(content).items()):
            limits = common_limits(each for measures in found.values() for each in measures[name])
            better = "higher" if BETTER[name] else "lower"
            place_bars(figure, corner, panel, f"{title} ({better})", found[segmentation][name], limits)
    place = MARGIN / width, 0.5 * MARGIN / height
    figure.text(*place, "\n".join(notes), va="bottom", fontsize=8, color="0.35")
    return figure
