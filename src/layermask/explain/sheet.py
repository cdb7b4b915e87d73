"""The sheet of an explanation: the picture, and its scores by target and removal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from layermask.io.figure import (
    CELL,
    GAP,
    HEAD,
    MARGIN,
    NOTE,
    Ranking,
    new_figure,
    place_image,
    place_ranking,
    write,
)
from layermask.io.overlay import draw_boundaries, draw_scale, hidden_picture, overlay
from layermask.removal.reading import OF_CLASSES
from layermask.removal.targets import target_name
from layermask.segment.labels import spread

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


class Explained(Protocol):
    """What is drawn of an `Attribution`."""

    @property
    def scores(self) -> Tensor: ...
    @property
    def segments(self) -> Tensor: ...
    @property
    def targets(self) -> Sequence[Any]: ...
    @property
    def prediction(self) -> Tensor: ...
    @property
    def stderr(self) -> Tensor | None: ...
    @property
    def r2(self) -> Tensor | None: ...
    @property
    def region(self) -> Tensor | None: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    def shades(self) -> Tensor: ...
    def visible(self, shown: Any, row: int = 0) -> Tensor: ...


def scale_end(found: Iterable[Explained], row: int) -> float:
    """Return the end of the scale of a target: the largest finite score under any removal."""
    scores = torch.cat([each.scores[row] for each in found])
    return float(scores[scores.isfinite()].abs().max()) if bool(scores.isfinite().any()) else 0.0


def predicted(found: Explained, row: int) -> str:
    """Return what the model says of the whole picture, in the unit that is explained."""
    prediction, unit = float(found.prediction[row]), explained_unit(found)
    return f"{100 * prediction:.1f} %" if unit in OF_CLASSES else f"{unit} {prediction:.3g}"


def explained_unit(found: Explained) -> str:
    output = found.settings.get("output", "probability")
    return output if isinstance(output, str) else "answer"


def explanation_sheet(
    title: str,
    picture: np.ndarray,
    predictions: Ranking,
    found: Mapping[str, Explained],
    labels: Sequence[str],
) -> Figure:
    """Draw the picture with its predictions, and beside it one row per target and one column per removal."""
    first = next(iter(found.values()))
    targets = first.targets
    rows = len(targets)
    left = 1 if rows > 1 else 2  # columns for the picture and the predictions, one below or beside the other
    width = 2 * MARGIN + (len(found) + left) * (CELL + GAP) + 0.95
    height = 2 * MARGIN + 0.42 + rows * (CELL + HEAD) + (rows - 1) * GAP
    notes = notes_on(found)
    height += NOTE * (len(notes) - 1)
    figure = new_figure(width, height, title, notes)
    top = height - MARGIN - 0.27
    place_image(figure, (MARGIN, top - HEAD - CELL), picture, "what the model sees")
    beside, below = MARGIN + CELL + GAP, top - 2 * (HEAD + CELL) - GAP
    corner = (MARGIN, below) if rows > 1 else (beside, top - HEAD - CELL)
    place_ranking(figure, corner, predictions, "its predictions", output=explained_unit(first))
    for row, target in enumerate(targets):
        start = MARGIN + left * (CELL + GAP) + GAP, top - row * (HEAD + CELL + GAP) - HEAD - CELL
        _row(figure, start, picture, found, row, target_name(target, labels))
    return figure


def notes_on(found: Mapping[str, Explained]) -> list[str]:
    """Say what the colours and the numbers above the pictures mean."""
    if any(each.region is not None for each in found.values()):
        return ["The smallest visible part that was found to keep the prediction; the rest is hidden."]
    unit = explained_unit(next(iter(found.values())))
    notes = [f"Blue supports the class, orange counts against it: change of {unit}, one scale for each row."]
    if any(each.stderr is not None for each in found.values()):
        notes.append("Pale: the score may be noise, 0 lies in its 95 % interval. ±: standard error (median).")
    if any(each.r2 is not None for each in found.values()):
        notes.append("R²: how much of the model's answers a sum of the scores explains, 1 is all of it.")
    return notes


def _fit(found: Explained, row: int) -> str:
    return "" if found.r2 is None else f"R² {float(found.r2[row]):.2f}"


def spread_of(found: Explained, row: int) -> str:
    """Return the median standard error of a target's scores, as "± 0.047", or "" if none is known."""
    if found.stderr is None or not bool(found.stderr[row].isfinite().any()):
        return ""
    return f"± {float(found.stderr[row].nanmedian()):.2g}"


def _row(
    figure: Figure,
    corner: tuple[float, float],
    picture: np.ndarray,
    found: Mapping[str, Explained],
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


def _result(picture: np.ndarray, found: Explained, row: int, limit: float) -> tuple[np.ndarray, str]:
    """The tinted picture and how well its scores fit; or the region that is enough, and how large it is."""
    if found.region is None:
        shades = spread(found.shades()[row], found.segments, torch.nan)
        said = filter(None, (_fit(found, row), spread_of(found, row)))
        return overlay(picture, shades, limit), "  ".join(said)
    visible = found.visible(found.region[row])
    share = f"{float(visible.float().mean()):.1%} of the picture"
    return hidden_picture(picture, visible), share
