"""The sheet of `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layermask.io.figure import CELL, GAP, MARGIN, Ranking, new_figure, place_image, place_ranking

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


def prediction_sheet(
    title: str, columns: Sequence[tuple[str, np.ndarray, Ranking]], output: str = "probability"
) -> Figure:
    """Draw one column (name, picture, predictions) for the whole image and for each removal."""
    width = 2 * MARGIN + len(columns) * (CELL + GAP) - GAP
    height = MARGIN + 0.15 + 1.9 + CELL + 0.25 + MARGIN
    figure = new_figure(width, height, title)
    for index, (name, picture, predictions) in enumerate(columns):
        x = MARGIN + index * (CELL + GAP)
        place_image(figure, (x, 0.15 + 1.9), picture, name)
        place_ranking(figure, (x, 0.15), predictions, "", height=1.75, output=output)
    return figure
