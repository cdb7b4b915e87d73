"""One sheet for `explain` and one for `predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layermask.explain.attribution import Attribution
from layermask.removal.targets import target_name
from layermask.render.figure import (
    CELL,
    GAP,
    HEAD,
    MARGIN,
    Ranking,
    new_figure,
    place_image,
    place_ranking,
    write,
)
from layermask.render.overlay import (
    draw_boundaries,
    draw_scale,
    explained_unit,
    hidden_picture,
    overlay,
    predicted,
    scale_end,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


def explanation_sheet(
    title: str,
    picture: np.ndarray,
    predictions: Ranking,
    found: Mapping[str, Attribution],
    labels: Sequence[str],
) -> Figure:
    """Draw the picture with its predictions, and beside it one row per target and one column per removal."""
    first = next(iter(found.values()))
    targets = first.targets
    rows = len(targets)
    left = 1 if rows > 1 else 2  # columns for the picture and the predictions, one below or beside the other
    width = 2 * MARGIN + (len(found) + left) * (CELL + GAP) + 0.95
    height = 2 * MARGIN + 0.42 + rows * (CELL + HEAD) + (rows - 1) * GAP
    if any(each.region is not None for each in found.values()):
        note = "The smallest visible part that was found to keep the prediction; the rest is hidden."
    else:
        unit = explained_unit(first)
        note = f"Green supports the class, red counts against it: change of {unit}, one scale for each row."
    figure = new_figure(width, height, title, [note])
    top = height - MARGIN - 0.27
    place_image(figure, (MARGIN, top - HEAD - CELL), picture, "what the model sees")
    beside, below = MARGIN + CELL + GAP, top - 2 * (HEAD + CELL) - GAP
    corner = (MARGIN, below) if rows > 1 else (beside, top - HEAD - CELL)
    place_ranking(figure, corner, predictions, "its predictions", output=explained_unit(first))
    for row, target in enumerate(targets):
        start = MARGIN + left * (CELL + GAP) + GAP, top - row * (HEAD + CELL + GAP) - HEAD - CELL
        _row(figure, start, picture, found, row, target_name(target, labels))
    return figure


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


def _row(
    figure: Figure,
    corner: tuple[float, float],
    picture: np.ndarray,
    found: Mapping[str, Attribution],
    row: int,
    name: str,
) -> None:
    """Draw one target: a heading, one overlay per removal, and the scale that they share."""
    limit = scale_end(found.values(), row)
    left, y = corner
    room, tail = len(found) * (CELL + GAP) + 0.6, f", {predicted(next(iter(found.values())), row)}"
    write(figure, (left, y + CELL + 0.38), name, room, tail, fontsize=10.5, weight="bold")
    for column, (removal, each) in enumerate(found.items()):
        shown, said = _result(picture, each, row, limit)
        axes = place_image(figure, (left + column * (CELL + GAP), y), shown, f"{removal}   {said}".rstrip())
        if each.region is None:
            draw_boundaries(axes, each.segments)
    if all(each.region is None for each in found.values()):
        draw_scale(figure, (left + len(found) * (CELL + GAP), y), limit)


def _result(picture: np.ndarray, found: Attribution, row: int, limit: float) -> tuple[np.ndarray, str]:
    """The tinted picture and how well its scores fit; or the region that is enough, and how large it is."""
    if found.region is None:
        fit = "" if found.r2 is None else f"R² {float(found.r2[row]):.2f}"
        return overlay(picture, found.heatmap(row), limit), fit
    visible = found.visible(found.region[row])
    share = f"{float(visible.float().mean()):.1%} of the picture"
    return hidden_picture(picture, visible), share
