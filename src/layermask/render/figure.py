"""The parts that all sheets are made of: a figure in inches, pictures, rankings, texts that fit."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from layermask.errors import import_optional

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

CELL, GAP, HEAD, MARGIN = 2.5, 0.18, 0.52, 0.3  # inches
DPI = 150

Ranking = Sequence[tuple[str, float]]  # class names and probabilities, the most likely first


def png(figure: Figure) -> bytes:
    """Render a figure; without the date, so that the same figure gives the same bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "layermask"})
    return buffer.getvalue()


def new_figure(width: float, height: float, title: str) -> Figure:
    figure = import_optional("matplotlib.figure", "cli").Figure(
        figsize=(width, height), dpi=DPI, facecolor="white"
    )
    import_optional("matplotlib.backends.backend_agg", "cli").FigureCanvasAgg(figure)
    place = MARGIN / width, 1 - MARGIN / height
    fit_text(
        figure.text(*place, title, va="center", fontsize=12, weight="bold", parse_math=False),
        width - 2 * MARGIN,
    )
    return figure


def place_axes(figure: Figure, corner: tuple[float, float], width: float, height: float) -> Axes:
    """Place axes by their lower left corner, in inches: nothing can overlap by surprise."""
    wide, tall = figure.get_size_inches()
    axes = figure.add_axes((corner[0] / wide, corner[1] / tall, width / wide, height / tall))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def place_image(
    figure: Figure, corner: tuple[float, float], picture: np.ndarray, lines: Sequence[str]
) -> Axes:
    axes = place_axes(figure, corner, CELL, CELL)
    axes.imshow(picture)
    axes.set_title("\n".join(lines), fontsize=9, loc="left", pad=4)
    return axes


def place_ranking(
    figure: Figure, corner: tuple[float, float], predictions: Ranking, title: str, height: float = CELL
) -> None:
    """List classes with their probabilities, each over a bar of that length."""
    axes = place_axes(figure, corner, CELL, height)
    axes.set(xlim=(0, 1), ylim=(len(predictions) - 0.5, -0.5))
    for place, (name, probability) in enumerate(predictions):
        axes.barh(place, probability, height=0.72, color="#9ec3e6")
        fit_text(axes.text(0.02, place, name, va="center", fontsize=9, parse_math=False), 0.76 * CELL)
        axes.text(0.99, place, f"{100 * probability:.1f} %", va="center", ha="right", fontsize=9)
    axes.set_title(title, fontsize=9, loc="left", pad=4)


def fit_text(text: Text, room: float, tail: str = "") -> None:
    """Shorten a text until it is, with `tail` after it, at most `room` inches wide."""
    whole = text.get_text()
    text.set_text(whole + tail)
    for length in range(len(whole) - 1, 0, -1):
        if text.get_window_extent().width <= room * DPI:
            return
        text.set_text(whole[:length].rstrip() + "…" + tail)
