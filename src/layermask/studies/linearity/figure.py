"""The figure of the study of linearity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layermask.metrics.bootstrap import means
from layermask.render.bars import common_limits, line_height, line_width, place_bars, place_names
from layermask.render.figure import MARGIN, new_figure
from layermask.studies.linearity.report import MEASURES, TITLES, _numbers, words
from layermask.studies.registry import Columns, Content

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sheet(columns: Columns, content: Content) -> Figure:
    """Draw a row per patch size, a column per measure, a bar per removal."""
    settings = content["settings"]
    patches, removals = settings["patches"], settings["removals"]
    found = {
        patch: {removal: means(_numbers(columns, patch, removal)) for removal in removals}
        for patch in patches
    }
    notes = [
        *words(columns, content),
        "Lines: 95 % intervals over images. (higher), (lower): which way is better.",
    ]
    tall = line_height(len(removals))
    width = 2 * MARGIN + line_width(len(MEASURES))
    height = 2 * MARGIN + 0.2 + len(patches) * tall + 0.18 * len(notes)
    figure = new_figure(width, height, f"{settings['model']['name']}, {settings['data']['name']}")
    for row, patch in enumerate(patches):
        corner = MARGIN, height - MARGIN - 0.2 - (row + 1) * tall
        place_names(figure, corner, f"{patch} pixel patches", removals)
        for panel, title in enumerate(TITLES.values()):
            limits = common_limits(four[panel] for by in found.values() for four in by.values())
            place_bars(figure, corner, panel, title, [four[panel] for four in found[patch].values()], limits)
    figure.text(
        MARGIN / width, 0.5 * MARGIN / height, "\n".join(notes), va="bottom", fontsize=8, color="0.35"
    )
    return figure
