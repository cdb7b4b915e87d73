"""What was found of linearity: means with intervals, by removal and patch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.metrics.estimates import means
from layermask.metrics.registry import METRICS
from layermask.render.bars import common_limits, line_height, line_width, place_bars, place_names
from layermask.render.figure import MARGIN, new_figure
from layermask.render.table import Cell, Table, common_words
from layermask.studies.registry import Columns, Content

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = ("l2", "cosine", "norm", "whole_norm")
BETTER = {name: METRICS[f"linearity-{name}"].higher_is_better for name in ("l2", "cosine")}
TITLES = {
    "l2": "distance to the whole (lower)",
    "cosine": "cosine with the whole (higher)",
    "norm": "norm of the sum",
    "whole_norm": "norm of the whole",
}


def summarise(columns: Columns, content: Content) -> list[Table]:
    """Return the means."""
    rows: list[Sequence[Cell]] = []
    for patch in content["settings"]["patches"]:
        for removal in content["settings"]["removals"]:
            numbers = _numbers(columns, patch, removal)
            rows.append((removal, patch, len(numbers), *means(numbers)))
    title = "Means and 95 % intervals over images"
    return [Table("means", title, ("removal", "patch", "images", *MEASURES), rows, BETTER)]


def _numbers(columns: Columns, patch: int, removal: str) -> Tensor:
    """Return the measures (N, 4) of the images."""
    chosen = (columns["patch"] == patch) & (columns["removal"] == removal)
    return torch.stack([torch.from_numpy(columns[name][chosen]) for name in MEASURES], 1)


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    of = content["settings"]["of"]
    return [
        *common_words(content),
        f"The {of} of all patches, each shown alone, are summed and compared with those of the whole image; "
        "the distance is relative to the norm of the whole.",
    ]


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
