"""Pictures of what was found: overlays of scores, and one sheet for `explain` and for `predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.errors import require
from layermask.explain.attribution import Attribution

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

SUPPORTS, DETRACTS = (0.0, 0.50, 0.22), (0.80, 0.08, 0.12)
CELL, GAP, HEAD, MARGIN = 2.5, 0.18, 0.52, 0.3  # inches
DPI = 150

Ranking = Sequence[tuple[str, float]]  # class names and probabilities, the most likely first


def overlay(picture: np.ndarray, heatmap: Tensor, limit: float) -> np.ndarray:
    """Tint a grey copy of a picture (H, W, 3) uint8: green where scores (H, W) support, red where not.

    The tint is full at a score of `limit`, in the units of the scores, and none at 0.
    """
    base = torch.from_numpy(picture.copy()).double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.double)
    base = (base * 0.75 + 64)[
        ..., None
    ]  # lighter, so that the tint is read and not the picture's own colours
    strength = (heatmap.double() / (limit or 1)).clamp(-1, 1)[..., None]
    color = torch.where(
        strength > 0, *(255 * torch.tensor(c, dtype=torch.double) for c in (SUPPORTS, DETRACTS))
    )
    alpha = 0.8 * strength.abs()
    return (base * (1 - alpha) + color * alpha).round().to(torch.uint8).numpy()


def explanation_sheet(
    title: str,
    picture: np.ndarray,
    predictions: Ranking,
    found: Mapping[str, Attribution],
    labels: Sequence[str],
    unit: str = "probability",
) -> Figure:
    """Draw the picture with its predictions, and beside it one row per target and one column per removal."""
    targets = next(iter(found.values())).targets
    rows = len(targets)
    left = 1 if rows > 1 else 2  # columns for the picture and the predictions, one below or beside the other
    width = 2 * MARGIN + (len(found) + left) * (CELL + GAP) + 0.95
    height = 2 * MARGIN + 0.42 + rows * (CELL + HEAD) + (rows - 1) * GAP
    figure = _figure(width, height, title)
    top = height - MARGIN - 0.27
    _image(figure, (MARGIN, top - HEAD - CELL), picture, ["what the model sees"])
    beside, below = MARGIN + CELL + GAP, top - 2 * (HEAD + CELL) - GAP
    corner = (MARGIN, below) if rows > 1 else (beside, top - HEAD - CELL)
    _ranking(figure, corner, predictions, "its predictions")
    for row, target in enumerate(targets):
        start = MARGIN + left * (CELL + GAP) + GAP, top - row * (HEAD + CELL + GAP) - HEAD - CELL
        _row(figure, start, picture, found, row, labels[target], unit)
    legend = (
        f"green: the segment supports the class, red: it detracts; scale: change of {unit}, shared by a row"
    )
    figure.text(0.5, 0.6 * MARGIN / height, legend, ha="center", va="center", fontsize=8, color="0.35")
    return figure


def prediction_sheet(title: str, columns: Sequence[tuple[str, np.ndarray, Ranking]]) -> Figure:
    """Draw one column (name, picture, predictions) for the whole image and for each removal."""
    width = 2 * MARGIN + len(columns) * (CELL + GAP) - GAP
    height = MARGIN + 0.15 + 1.9 + CELL + 0.25 + MARGIN
    figure = _figure(width, height, title)
    for index, (name, picture, predictions) in enumerate(columns):
        x = MARGIN + index * (CELL + GAP)
        _image(figure, (x, 0.15 + 1.9), picture, [name])
        _ranking(figure, (x, 0.15), predictions, "", height=1.75)
    return figure


def hidden_picture(picture: np.ndarray, visible: Tensor, cell: int = 8) -> np.ndarray:
    """Return a picture (H, W, 3) whose hidden pixels are a checkerboard, the sign for "not there"."""
    height, width = visible.shape[-2:]
    board = (torch.arange(height)[:, None] // cell + torch.arange(width) // cell) % 2
    board = (215 + 30 * board).to(torch.uint8)[..., None].expand(-1, -1, 3)
    return torch.where(
        visible.cpu().reshape(height, width, 1), torch.from_numpy(picture.copy()), board
    ).numpy()


def png(figure: Figure) -> bytes:
    """Render a figure; without the date, so that the same figure gives the same bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "layermask"})
    return buffer.getvalue()


def _figure(width: float, height: float, title: str) -> Figure:
    figure = require("matplotlib.figure", "cli").Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    require("matplotlib.backends.backend_agg", "cli").FigureCanvasAgg(figure)
    place = MARGIN / width, 1 - MARGIN / height
    _fit(
        figure.text(*place, title, va="center", fontsize=12, weight="bold", parse_math=False),
        width - 2 * MARGIN,
    )
    return figure


def _axes(figure: Figure, corner: tuple[float, float], width: float, height: float) -> Axes:
    """Place axes by their lower left corner, in inches: nothing can overlap by surprise."""
    wide, tall = figure.get_size_inches()
    axes = figure.add_axes((corner[0] / wide, corner[1] / tall, width / wide, height / tall))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _image(figure: Figure, corner: tuple[float, float], picture: np.ndarray, lines: Sequence[str]) -> Axes:
    axes = _axes(figure, corner, CELL, CELL)
    axes.imshow(picture)
    axes.set_title("\n".join(lines), fontsize=9, loc="left", pad=4)
    return axes


def _row(
    figure: Figure,
    corner: tuple[float, float],
    picture: np.ndarray,
    found: Mapping[str, Attribution],
    row: int,
    name: str,
    unit: str,
) -> None:
    """Draw one target: a heading, one overlay per removal, and the scale that they share."""
    limit = max(float(each.scores[row].abs().max()) for each in found.values())
    left, y = corner
    wide, tall = figure.get_size_inches()
    prediction = float(next(iter(found.values())).prediction[row])
    amount = f"{100 * prediction:.1f} %" if unit == "probability" else f"{unit} {prediction:.3g}"
    place = left / wide, (y + CELL + 0.38) / tall
    heading = figure.text(*place, name, fontsize=10.5, weight="bold", va="center", parse_math=False)
    _fit(heading, len(found) * (CELL + GAP) + 0.6, tail=f", {amount}")
    for column, (removal, each) in enumerate(found.items()):
        tinted = overlay(picture, each.heatmap(row), limit)
        axes = _image(
            figure, (left + column * (CELL + GAP), y), tinted, [f"{removal}   R² {float(each.r2[row]):.2f}"]
        )
        _boundaries(axes, each.segments)
    _scale(figure, (left + len(found) * (CELL + GAP), y), limit)


def _boundaries(axes: Axes, segments: Tensor) -> None:
    """Draw the borders of segments as thin lines between pixels."""
    lines = require("matplotlib.collections", "cli").LineCollection
    down = (segments[1:] != segments[:-1]).nonzero().tolist()
    across = (segments[:, 1:] != segments[:, :-1]).nonzero().tolist()
    edges = [((x - 0.5, y + 0.5), (x + 0.5, y + 0.5)) for y, x in down]
    edges += [((x + 0.5, y - 0.5), (x + 0.5, y + 0.5)) for y, x in across]
    axes.add_collection(lines(edges, colors="white", linewidths=0.35, alpha=0.55), autolim=False)


def _scale(figure: Figure, corner: tuple[float, float], limit: float) -> None:
    axes = _axes(figure, corner, 0.14, CELL)
    ramp = torch.linspace(1, -1, 256)[:, None].expand(-1, 2)
    white = torch.full((256, 2, 3), 255, dtype=torch.uint8).numpy()
    axes.imshow(overlay(white, ramp, 1.0), aspect="auto", extent=(0, 1, -1, 1))
    axes.yaxis.tick_right()
    axes.set_yticks([-1, 0, 1], [f"{-limit:.2g}", "0", f"+{limit:.2g}"], fontsize=8)
    axes.tick_params(length=2, pad=2)


def _ranking(
    figure: Figure, corner: tuple[float, float], predictions: Ranking, title: str, height: float = CELL
) -> None:
    """List classes with their probabilities, each over a bar of that length."""
    axes = _axes(figure, corner, CELL, height)
    axes.set(xlim=(0, 1), ylim=(len(predictions) - 0.5, -0.5))
    for place, (name, probability) in enumerate(predictions):
        axes.barh(place, probability, height=0.72, color="#9ec3e6")
        _fit(axes.text(0.02, place, name, va="center", fontsize=9, parse_math=False), 0.76 * CELL)
        axes.text(0.99, place, f"{100 * probability:.1f} %", va="center", ha="right", fontsize=9)
    axes.set_title(title, fontsize=9, loc="left", pad=4)


def _fit(text: Text, room: float, tail: str = "") -> None:
    """Shorten a text until it is, with `tail` after it, at most `room` inches wide."""
    whole = text.get_text()
    text.set_text(whole + tail)
    for length in range(len(whole) - 1, 0, -1):
        if text.get_window_extent().width <= room * DPI:
            return
        text.set_text(whole[:length].rstrip() + "…" + tail)
